package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn/client"
)

// How long the TURN proxy has. Ours to tune: it runs beside the probe, which should not wait for a server that is none.
const (
	proxyLeast = 900 * time.Millisecond  // since the start: a request is sent again after 500 ms
	proxyGrace = 400 * time.Millisecond  // after the probe's end
	proxyLast  = 200 * time.Millisecond  // after the probe's end, if that has waited for silence already
	proxyMost  = 2900 * time.Millisecond // since the start, unless the probe took longer
)

// startProxyTest allocates at the proxy over UDP and TCP, as a player does: draft-08 without credentials. The function it returns
// is to be called when the probe has ended, waits a little longer for the answers, and says until when it would have waited.
func (a *app) startProxyTest(ctx context.Context, server string) (finish func(grace time.Duration) (proxyResult, time.Time)) {
	ctx, cancel := context.WithCancelCause(ctx)
	start := time.Now()
	out := proxyResult{Server: server}
	var wait sync.WaitGroup
	for network, t := range map[string]*transport{"udp": &out.UDP, "tcp": &out.TCP} {
		wait.Go(func() { *t = a.tryProxy(ctx, server, network) })
	}
	return func(grace time.Duration) (proxyResult, time.Time) {
		now := time.Now()
		end := start.Add(min(proxyMost, max(proxyLeast, now.Sub(start)+grace)))
		if !end.After(now) {
			end = now.Add(time.Millisecond)
		}
		timer := time.AfterFunc(end.Sub(now), func() { cancel(client.ErrTimeout) })
		wait.Wait()
		timer.Stop()
		cancel(nil)
		return out, end
	}
}

// dialRelay allocates a relay for the probe.
func (a *app) dialRelay(ctx context.Context, server string) (net.PacketConn, error) {
	return client.Dial(ctx, a.client(server, ""))
}

func (a *app) client(server, network string) client.Config {
	return client.Config{Server: server, Network: network, ListenPacket: a.machine.listenPacket, DialContext: a.machine.dialContext, Resolve: a.machine.lookupNetIP}
}

func (a *app) tryProxy(ctx context.Context, server, network string) transport {
	cfg := a.client(server, network)
	if s, err := client.ParseServer(server); err != nil {
		return transport{State: stateNotTested, Error: err.Error()}
	} else if s.Network != "" && s.Network != network {
		return transport{State: stateNotTested}
	}
	start := time.Now()
	conn, err := client.Dial(ctx, cfg)
	if err != nil {
		state := stateSilent
		var e *client.Error
		if errors.As(err, &e) {
			state = stateRefuses
		}
		return transport{State: state, Error: explain(err)}
	}
	t := transport{State: stateAnswers, Relayed: conn.LocalAddr().String(), TookMS: milliseconds(time.Since(start))}
	conn.Close()
	return t
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// explain says what an error of the client means to somebody who has a player.
func explain(err error) string {
	var e *client.Error
	var dns *net.DNSError
	switch {
	case errors.Is(err, client.ErrCredentialsWanted):
		return "it asks for credentials, which a player has not"
	case errors.Is(err, client.ErrTimeout), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "no answer"
	case errors.Is(err, client.ErrQuota), errors.Is(err, client.ErrCapacity):
		return "it is full"
	case errors.As(err, &e) && (e.Code == stun.CodeBadRequest || e.Code == stun.CodeUnknownAttribute):
		return "it answers, but is no TURN server"
	case errors.As(err, &e):
		return fmt.Sprintf("it answers %d %q", e.Code, e.Reason)
	case errors.As(err, &dns):
		return "its name does not resolve"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}

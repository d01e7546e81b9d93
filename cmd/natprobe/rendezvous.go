package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

// § means RFC 7016.

// Ours to tune.
const (
	helloFirst = 300 * time.Millisecond // until an IHello is sent again; it doubles
	tagBytes   = 16
	idBytes    = 4 // of a session ID (§2.2.2)
)

var errNoRTMFP = errors.New("what answers is not RTMFP")

// startRendezvousTest begins a handshake with a rendezvous, and ends it at the server's RHello: that costs the server nothing. The
// function it returns waits for the outcome as that of startProxyTest does.
func (a *app) startRendezvousTest(ctx context.Context, server string) (finish func(until time.Time) serviceState) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan serviceState, 1)
	go func() { done <- a.tryRendezvous(ctx, server) }()
	return func(until time.Time) serviceState {
		timer := time.AfterFunc(time.Until(until), cancel)
		defer timer.Stop()
		defer cancel()
		return <-done
	}
}

func (a *app) tryRendezvous(ctx context.Context, server string) serviceState {
	s := serviceState{Server: server, State: stateSilent}
	at, uri, err := a.rendezvousAt(ctx, server)
	if err != nil {
		s.Error = explain(err)
		return s
	}
	start := time.Now()
	switch err := a.hello(ctx, at, uri); {
	case err == nil:
		s.State, s.TookMS = stateAnswers, milliseconds(time.Since(start))
	case errors.Is(err, errNoRTMFP):
		s.State, s.Error = stateRefuses, err.Error()
	default:
		s.Error = explain(err)
	}
	return s
}

// rendezvousAt reads "host", "host:port" or "rtmfp://host:port/…".
func (a *app) rendezvousAt(ctx context.Context, server string) (at netip.AddrPort, uri string, err error) {
	host, port := server, uint64(flash.DefaultPort)
	if len(server) > len("rtmfp://") && strings.EqualFold(server[:len("rtmfp://")], "rtmfp://") {
		host, _, _ = strings.Cut(server[len("rtmfp://"):], "/")
	}
	if _, perr := netip.ParseAddr(host); perr != nil {
		if h, p, serr := net.SplitHostPort(host); serr == nil {
			if port, err = strconv.ParseUint(p, 10, 16); err != nil || port == 0 {
				return at, "", fmt.Errorf("%q is no port", p)
			}
			host = h
		}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		list, err := a.machine.lookupNetIP(ctx, "ip", host)
		if err != nil {
			return at, "", err
		}
		for _, x := range list {
			if addr = x.Unmap(); addr.Is4() {
				break
			}
		}
	}
	if !addr.IsValid() {
		return at, "", errors.New("its name has no address")
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), "rtmfp://" + net.JoinHostPort(host, strconv.Itoa(int(port))) + "/", nil
}

// hello sends an IHello (§2.3.2) until its RHello (§2.3.4) or a Redirect comes.
func (a *app) hello(ctx context.Context, to netip.AddrPort, uri string) error {
	network := "udp4"
	if to.Addr().Is6() {
		network = "udp6"
	}
	conn, err := a.machine.listenPacket(ctx, network, ":0")
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	id, err := flash.NewIdentity(flash.IdentityConfig{Random: rand.Reader, Ephemeral: true})
	if err != nil {
		return err
	}
	cipher := id.DefaultCipher()
	tag := make([]byte, tagBytes)
	rand.Read(tag)
	buf := make([]byte, 2048)
	odd := false
	for wait := helloFirst; ctx.Err() == nil; wait *= 2 {
		plain := rtmfp.AppendHeader(nil, rtmfp.Header{Mode: rtmfp.ModeStartup})
		plain = rtmfp.AppendIHello(plain, rtmfp.IHello{EPD: flash.ServerEPD(uri), Tag: tag})
		packet := cipher.Seal(make([]byte, idBytes, 512), plain)
		rtmfp.PutSessionID(packet, 0)
		if _, err := conn.WriteTo(packet, net.UDPAddrFromAddrPort(to)); err != nil {
			return err
		}
		if ctx.Err() == nil {
			conn.SetReadDeadline(time.Now().Add(wait))
		}
		for ctx.Err() == nil {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				break
			}
			if u, ok := from.(*net.UDPAddr); !ok || netip.AddrPortFrom(u.AddrPort().Addr().Unmap(), u.AddrPort().Port()) != to {
				continue
			}
			if answersHello(cipher, buf[:n], tag) {
				return nil
			}
			odd = true
		}
	}
	if odd {
		return errNoRTMFP
	}
	return context.DeadlineExceeded
}

// answersHello reports whether a datagram is the answer to the IHello with this tag.
func answersHello(cipher rtmfp.Cipher, datagram, tag []byte) bool {
	if len(datagram) <= idBytes {
		return false
	}
	plain, err := cipher.Open(datagram[idBytes:])
	if err != nil {
		return false
	}
	h, chunks, err := rtmfp.ParseHeader(plain)
	if err != nil || h.Mode != rtmfp.ModeStartup {
		return false
	}
	for t, payload := range rtmfp.Chunks(chunks) {
		switch t {
		case rtmfp.ChunkRHello:
			r, err := rtmfp.ParseRHello(payload)
			return err == nil && bytes.Equal(r.TagEcho, tag)
		case rtmfp.ChunkRedirect:
			r, err := rtmfp.ParseRedirect(payload)
			return err == nil && bytes.Equal(r.TagEcho, tag)
		}
	}
	return false
}

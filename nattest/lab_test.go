package nattest_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/stun"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seeds is how many seeds each simulation runs with.
func seeds(few int) uint64 {
	if n, err := strconv.ParseUint(os.Getenv("NATLAB_SEEDS"), 10, 32); err == nil && n > 0 {
		return n
	}
	return uint64(few)
}

// seedsAnd is seeds and the one that NATLAB_SEED names: CI's is made of the commit, so that each explores another run.
func seedsAnd(few int) (out []uint64) {
	for seed := range seeds(few) {
		out = append(out, seed)
	}
	if n, err := strconv.ParseUint(os.Getenv("NATLAB_SEED"), 10, 64); err == nil {
		out = append(out, n)
	}
	return out
}

// discovery is the server of the laboratory: two addresses, two ports.
var discovery = stun.Discovery{
	Addrs: [2]netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")},
	Ports: [2]uint16{3478, 3479},
}

// lab is an internet with a server, and a client that probes.
type lab struct {
	server *natlab.Host
	client *natlab.Host
	box    *natlab.Box
}

// answerer changes what a server answers: it gets the request and may send what it likes.
type answerer func(request []byte, at stun.Corner, remote netip.AddrPort, send func(b []byte, from stun.Corner, to netip.AddrPort))

// honest answers as RFC 5780 says.
func honest(d *stun.Discovery) answerer {
	return func(request []byte, at stun.Corner, remote netip.AddrPort, send func([]byte, stun.Corner, netip.AddrPort)) {
		m, err := stun.Parse(request)
		if err != nil {
			return
		}
		if out, from, to := d.Respond(nil, m, at, remote); len(out) > 0 {
			send(out, from, to)
		}
	}
}

// serve runs a server on all corners of d until the network is closed.
func serve(t *testing.T, h *natlab.Host, d *stun.Discovery, answer answerer) {
	t.Helper()
	conns := make(map[stun.Corner]*natlab.UDPConn)
	var one sync.Mutex // an answerer may count
	for i := range 4 {
		c := stun.Corner{Addr: uint8(i / 2), Port: uint8(i % 2)}
		if at := d.At(c); at.IsValid() && at.Port() != 0 {
			conn, err := h.ListenUDP(context.Background(), "udp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			conns[c] = conn
		}
	}
	for corner, conn := range conns {
		go func() {
			b := make([]byte, 4096)
			for {
				n, remote, err := conn.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				one.Lock()
				answer(b[:n], corner, remote, func(out []byte, from stun.Corner, to netip.AddrPort) {
					conns[from].WriteToUDPAddrPort(out, to)
				})
				one.Unlock()
			}
		}()
	}
}

// newLab makes an internet with a server and a client behind a box.
func newLab(t *testing.T, n *natlab.Net, box natlab.BoxConfig, link natlab.LinkConfig, d *stun.Discovery, answer answerer) *lab {
	t.Helper()
	addrs := []string{d.Addrs[0].String()}
	if d.Addrs[1].IsValid() {
		addrs = append(addrs, d.Addrs[1].String())
	}
	l := &lab{server: n.Internet().Host("server", addrs...)}
	if answer == nil {
		answer = honest(d)
	}
	serve(t, l.server, d, answer)
	inside := "192.168.1.2"
	if box.NAT == nil {
		inside = "203.0.113.101"
	} else if box.Outside == nil {
		box.Outside = []string{"203.0.113.1"}
	}
	l.box = n.Internet().Box("nat", box)
	l.box.Outside().Set(link)
	l.client = l.box.Inside().Host("client", inside)
	return l
}

// probe runs a probe on the client.
func (l *lab) probe(t *testing.T, change func(*nattest.Config)) *nattest.Report {
	t.Helper()
	return probe(t, l.client, change)
}

func probe(t *testing.T, h *natlab.Host, change func(*nattest.Config)) *nattest.Report {
	t.Helper()
	cfg := nattest.Config{Servers: []string{"server"}, ListenPacket: h.ListenPacket, LookupNetIP: h.LookupNetIP, LocalAddrs: h.Addrs}
	if change != nil {
		change(&cfg)
	}
	r, err := nattest.Run(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if r.Observations.Sent > max(cfg.Packets, nattest.DefaultPackets) {
		t.Errorf("%d packets", r.Observations.Sent)
	}
	return r
}

func nat(cfg natlab.NATConfig) natlab.BoxConfig { return natlab.BoxConfig{NAT: &cfg} }

var near = natlab.LinkConfig{Delay: 50 * time.Millisecond}

func has(r *nattest.Report, code string) bool {
	for _, f := range r.Findings {
		if f.Code == code {
			return true
		}
	}
	return false
}

// explain is a report in a few lines, for failures.
func explain(r *nattest.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v/%v among %v/%v, confidence %v, relay %v, %d packets, %.0f ms\n", r.Verdict.Mapping, r.Verdict.Filtering, r.Verdict.MappingAmong,
		r.Verdict.FilteringAmong, r.Verdict.Confidence, r.Verdict.Relay, r.Observations.Sent, r.Observations.TookMS)
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "  %s: %s\n", f.Code, f.Text)
	}
	for _, p := range r.Observations.Probes {
		fmt.Fprintf(&b, "  %-16s socket %d %v -> %v, from %v: sent %d, judged %d, answered %d, error %d", p.Name, p.Socket, p.Local, p.To, p.Expect, p.Sent, p.Judged, p.Answered, p.Error)
		for _, x := range p.Replies {
			fmt.Fprintf(&b, " %v", x.Mapped)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// loopback is a STUN server of the system on 127.0.0.1, closed with the test.
func loopback(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		b := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(stun.Respond(nil, b[:n], netip.AddrPort{}, from.(*net.UDPAddr).AddrPort()), from)
		}
	})
	t.Cleanup(func() { c.Close(); wait.Wait() })
	return c.LocalAddr().String()
}

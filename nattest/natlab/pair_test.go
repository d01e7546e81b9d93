package natlab_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest/natlab"
)

// peer is a host behind a NAT that punches.
type peer struct {
	conn     *natlab.UDPConn
	observed netip.AddrPort // what the server sees
	heard    bool
}

// echo is a server that tells a client its source address.
func echo(c *natlab.UDPConn) {
	b := make([]byte, 100)
	for {
		_, from, to, err := c.ReadFromTo(b)
		if err != nil {
			return
		}
		c.WriteFromTo([]byte(from.String()), to.Addr(), from)
	}
}

// observe asks the server for the address of a socket.
func observe(t *testing.T, c *natlab.UDPConn, server netip.AddrPort) netip.AddrPort {
	t.Helper()
	send(t, c, server, "?")
	got, _, err := receive(t, c)
	if err != nil {
		t.Fatalf("no answer from the server %v: %v", server, err)
	}
	return netip.MustParseAddrPort(got)
}

// strategy is how two peers punch.
type strategy struct {
	late    time.Duration // the second peer starts this much later
	lowTTL  int           // TTL of the first packets, zero for none
	lowFor  time.Duration // how long the TTL is low
	packets int
}

// punch makes both peers send to each other's observed address, and to where they hear each other, and reports whether
// they heard each other.
func punch(p, q *peer, s strategy) bool {
	done := make(chan struct{})
	run := func(self, other *peer, delay time.Duration) {
		defer func() { done <- struct{}{} }()
		time.Sleep(delay)
		start := time.Now()
		to := []netip.AddrPort{other.observed}
		b := make([]byte, 100)
		for i := range s.packets {
			ttl := 0
			if time.Since(start) < s.lowFor {
				ttl = s.lowTTL
			}
			self.conn.SetTTL(ttl)
			for _, a := range to {
				self.conn.WriteToUDPAddrPort(fmt.Appendf(nil, "punch %d", i), a)
			}
			self.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			for {
				n, from, err := self.conn.ReadFromUDPAddrPort(b)
				if err != nil {
					break
				}
				if !strings.HasPrefix(string(b[:n]), "punch") {
					continue
				}
				self.heard = true
				if from != to[len(to)-1] && len(to) < 3 {
					to = append(to, from)
				}
			}
		}
	}
	go run(p, q, 0)
	go run(q, p, s.late)
	<-done
	<-done
	return p.heard && q.heard
}

// world is two boxes with a host each, and a server.
type world struct {
	server, server2 netip.AddrPort
	boxes           [2]*natlab.Box
	hosts           [2]*natlab.Host
}

func newWorld(t *testing.T, n *natlab.Net, a, b natlab.BoxConfig) *world {
	t.Helper()
	s := n.Internet().Host("server", "198.51.100.1", "198.51.100.2")
	s.Link().Set(natlab.LinkConfig{Delay: 10 * time.Millisecond})
	for _, addr := range []string{"198.51.100.1:3478", "198.51.100.2:3478", "198.51.100.1:3479"} {
		go echo(listen(t, s, addr))
	}
	w := &world{server: netip.MustParseAddrPort("198.51.100.1:3478"), server2: netip.MustParseAddrPort("198.51.100.2:3478")}
	for i, cfg := range []natlab.BoxConfig{a, b} {
		if cfg.Outside == nil {
			cfg.Outside = []string{fmt.Sprintf("203.0.113.%d", i+1)}
		}
		inside := "192.168.1.2"
		if cfg.NAT == nil {
			inside = fmt.Sprintf("203.0.113.%d", i+101)
		}
		w.boxes[i] = n.Internet().Box([]string{"nat-a", "nat-b"}[i], cfg)
		w.boxes[i].Outside().Set(natlab.LinkConfig{Delay: 10 * time.Millisecond})
		w.hosts[i] = w.boxes[i].Inside().Host([]string{"alice", "bob"}[i], inside)
	}
	return w
}

func (w *world) peers(t *testing.T) (p, q *peer) {
	t.Helper()
	var out [2]*peer
	for i, h := range w.hosts {
		c := listen(t, h, ":0")
		out[i] = &peer{conn: c, observed: observe(t, c, w.server)}
	}
	return out[0], out[1]
}

// pairs is the table of which classes connect directly, rows and columns in the order EIM, ADM, APDM by EIF, ADF, APDF.
var pairs = [9]string{
	"DDD DDD DDD",
	"DDD DDD DDD",
	"DDD RRR RRR",
	"DDR DDR DDR",
	"DDR DRR DRR",
	"DDR RRR RRR",
	"DDR DDR DDR",
	"DDR DRR DRR",
	"DDR RRR RRR",
}

func TestHolePunchingReproducesThePairTable(t *testing.T) {
	class := func(i int) (natlab.Mapping, natlab.Filtering) {
		return natlab.EIM + natlab.Mapping(i/3), natlab.EIF + natlab.Filtering(i%3)
	}
	for row := range 9 {
		for col := range 9 {
			m1, f1 := class(row)
			m2, f2 := class(col)
			t.Run(fmt.Sprintf("%v_%v-%v_%v", m1, f1, m2, f2), func(t *testing.T) {
				for _, order := range []natlab.PortOrder{natlab.Preserve, natlab.Random} {
					natlab.Run(t, uint64(row*9+col), func(t *testing.T, n *natlab.Net) {
						w := newWorld(t, n,
							natlab.BoxConfig{NAT: &natlab.NATConfig{Mapping: m1, Filtering: f1, Ports: natlab.PortConfig{Order: order}}},
							natlab.BoxConfig{NAT: &natlab.NATConfig{Mapping: m2, Filtering: f2, Ports: natlab.PortConfig{Order: order}}})
						p, q := w.peers(t)
						want := strings.ReplaceAll(pairs[row], " ", "")[col] == 'D'
						if got := punch(p, q, strategy{packets: 10}); got != want {
							t.Errorf("direct is %v, want %v", got, want)
						}
					})
				}
			})
		}
	}
}

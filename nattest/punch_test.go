package nattest_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/stun"
)

// peer is a socket that punches.
type peer struct {
	host *natlab.Host
	conn *natlab.UDPConn
	told netip.AddrPort // what the other side sends to
}

func listen(t *testing.T, h *natlab.Host) *natlab.UDPConn {
	t.Helper()
	c, err := h.ListenUDP(context.Background(), "udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// observe asks the server how a socket is seen.
func observe(t *testing.T, c *natlab.UDPConn) netip.AddrPort {
	t.Helper()
	b := stun.Begin(nil, stun.NewType(stun.Binding, stun.Request), stun.TransactionID{9})
	c.WriteToUDPAddrPort(b.Bytes(), discovery.At(stun.Corner{}))
	buf := make([]byte, 200)
	c.SetReadDeadline(time.Now().Add(time.Second))
	n, _, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	m, err := stun.Parse(buf[:n])
	if err != nil {
		t.Fatal(err)
	}
	mapped, _ := m.GetXORAddress(stun.AttrXORMappedAddress)
	return mapped
}

// punch makes two peers send to each other, the second one later, and to where they hear each other. It reports whether
// both hear the other. For the first 300 ms the TTL is low.
func punch(p, q *peer, late time.Duration, low int) bool {
	heard := make(chan bool)
	run := func(self, other *peer, delay time.Duration) {
		time.Sleep(delay)
		start, to, ok, b := time.Now(), []netip.AddrPort{other.told}, false, make([]byte, 100)
		for range 20 {
			if time.Since(start) < 300*time.Millisecond {
				self.conn.SetTTL(low)
			} else {
				self.conn.SetTTL(0)
			}
			for _, a := range to {
				self.conn.WriteToUDPAddrPort([]byte("punch"), a)
			}
			self.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			for {
				n, from, err := self.conn.ReadFromUDPAddrPort(b)
				if err != nil {
					break
				}
				if ok = ok || string(b[:n]) == "punch"; !slices.Contains(to, from) && len(to) < 4 {
					to = append(to, from)
				}
			}
		}
		heard <- ok
	}
	go run(p, q, 0)
	go run(q, p, late)
	a, b := <-heard, <-heard
	return a && b
}

// meet opens 256 sockets behind the symmetric NAT and probes its ports from the other side. Who hears a probe answers it.
func meet(t *testing.T, symmetric, cone *peer, low int) bool {
	t.Helper()
	for range 256 {
		c := listen(t, symmetric.host)
		c.SetTTL(low)
		c.WriteToUDPAddrPort([]byte("hello"), cone.told)
		c.SetTTL(0)
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := c.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				c.WriteToUDPAddrPort([]byte("answer"), from)
			}
		}()
	}
	time.Sleep(100 * time.Millisecond)
	for i := range 2048 {
		cone.conn.WriteToUDPAddrPort([]byte("probe"), netip.AddrPortFrom(symmetric.told.Addr(), uint16(1024+(i*12345)%64512)))
		if i%20 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	b := make([]byte, 100)
	cone.conn.SetReadDeadline(time.Now().Add(time.Second))
	for {
		n, _, err := cone.conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return false
		}
		if string(b[:n]) == "answer" {
			return true
		}
	}
}

// kind is a box whose pairs are predicted and then tried.
type kind struct {
	name string
	box  natlab.BoxConfig
}

func kinds() []kind {
	var list []kind
	random := natlab.PortConfig{Order: natlab.Random}
	for i := range 9 {
		m, f := natlab.EIM+natlab.Mapping(i/3), natlab.EIF+natlab.Filtering(i%3)
		list = append(list, kind{fmt.Sprintf("%v/%v", m, f), nat(natlab.NATConfig{Mapping: m, Filtering: f, Ports: random})})
	}
	return append(list,
		kind{"open", natlab.BoxConfig{}},
		kind{"firewall", natlab.BoxConfig{Firewall: &natlab.FirewallConfig{Filtering: natlab.APDF}}},
		kind{"open Linux", nat(natlab.NATConfig{OpenLinux: true})},
		kind{"reply-same", nat(natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.EIF, ReplySame: true, Ports: random})},
		kind{"steps of 1", nat(natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.APDF, Ports: natlab.PortConfig{Order: natlab.Sequential}})},
		kind{"steps of 256", nat(natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.APDF, Ports: natlab.PortConfig{Order: natlab.Sequential, Step: 256}})},
		kind{"preserving symmetric", nat(natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.APDF})},
		kind{"UDP blocked", natlab.BoxConfig{NAT: &natlab.NATConfig{}, Firewall: &natlab.FirewallConfig{UDP: natlab.Rule{Block: natlab.Drop}}}},
	)
}

// pairLab is a server and two clients behind boxes.
func pairLab(t *testing.T, n *natlab.Net, a, b natlab.BoxConfig) (hosts [2]*natlab.Host) {
	t.Helper()
	serve(t, n.Internet().Host("server", "198.51.100.1", "198.51.100.2"), &discovery, honest(&discovery))
	for i, box := range []natlab.BoxConfig{a, b} {
		inside := fmt.Sprintf("192.168.%d.2", i+1)
		if box.NAT == nil {
			inside = fmt.Sprintf("203.0.113.%d", i+101)
		} else {
			box.Outside = []string{fmt.Sprintf("203.0.113.%d", i+1)}
		}
		x := n.Internet().Box(fmt.Sprintf("nat-%d", i), box)
		x.Outside().Set(natlab.LinkConfig{Delay: 10 * time.Millisecond})
		hosts[i] = x.Inside().Host([]string{"alice", "bob"}[i], inside)
	}
	return hosts
}

func TestPredictionIsWhatPunchingThenDoes(t *testing.T) {
	list := kinds()
	for i, a := range list {
		for _, b := range list[i:] {
			t.Run(strings.ReplaceAll(a.name+" with "+b.name, " ", "_"), func(t *testing.T) {
				for seed := range min(seeds(1), 20) { // 153 pairs take a second
					tryPair(t, seed, a.box, b.box)
				}
			})
		}
	}
}

// tryPair predicts and then punches with the second peer later, at once, and earlier, each in a new network.
func tryPair(t *testing.T, seed uint64, a, b natlab.BoxConfig) {
	t.Helper()
	var p nattest.Prediction
	var reports [2]*nattest.Report
	natlab.Run(t, seed, func(t *testing.T, n *natlab.Net) {
		for i, h := range pairLab(t, n, a, b) {
			reports[i] = probe(t, h, func(c *nattest.Config) { c.Servers = []string{"198.51.100.1", "198.51.100.2"} })
		}
		p = nattest.Predict(reports[0].Verdict, reports[1].Verdict)
	})
	plain, helped := 0, 0
	lates := []time.Duration{0, 100 * time.Millisecond, -100 * time.Millisecond}
	for _, late := range lates {
		for _, technique := range []bool{false, true} {
			if technique && p.Path != nattest.PathTechnique {
				continue
			}
			natlab.Run(t, seed, func(t *testing.T, n *natlab.Net) {
				hosts := pairLab(t, n, a, b)
				if reports[0].Verdict.UDP == nattest.UDPBlocked || reports[1].Verdict.UDP == nattest.UDPBlocked {
					return
				}
				var peers [2]*peer
				for i, h := range hosts {
					c := listen(t, h)
					peers[i] = &peer{h, c, observe(t, c)}
					for peers[i].told.Port() > 65535-300 { // at its end a counter starts again where it likes
						c = listen(t, h)
						peers[i] = &peer{h, c, observe(t, c)}
					}
				}
				x, y, wait, low, ok := peers[0], peers[1], late, 0, false
				if technique {
					if slices.Contains(p.Techniques, nattest.LowTTL) {
						low = 3
					}
					for i, q := range peers {
						v := reports[i].Verdict
						symmetric := v.Mapping == nattest.ADM || v.Mapping == nattest.APDM
						if slices.Contains(p.Techniques, nattest.PortPrediction) && symmetric && v.Ports.Step != 0 {
							q.told = netip.AddrPortFrom(q.told.Addr(), uint16(int(q.told.Port())+v.Ports.Step))
						}
						if slices.Contains(p.Techniques, nattest.Birthday) && symmetric {
							ok = ok || meet(t, q, peers[1-i], low)
						}
					}
				}
				if wait < 0 {
					x, y, wait = y, x, -wait
				}
				if ok || punch(x, y, wait, low) {
					if technique {
						helped++
					} else {
						plain++
					}
				}
			})
		}
	}
	right := false
	switch p.Path {
	case nattest.PathDirect:
		right = plain == len(lates)
	case nattest.PathTechnique:
		right = plain < len(lates) && helped == len(lates)
	case nattest.PathRelay:
		right = plain == 0
	}
	if !right {
		t.Errorf("seed %d: predicted %v %v (%v), %d of %d connect, with the technique %d\n%v%v", seed, p.Path, p.Techniques, p.Why, plain, len(lates), helped,
			explain(reports[0]), explain(reports[1]))
	}
}

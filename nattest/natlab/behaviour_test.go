package natlab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest/natlab"
)

func nat(cfg natlab.NATConfig) natlab.BoxConfig { return natlab.BoxConfig{NAT: &cfg} }

// punched reports what punching between two boxes gives.
func punched(t *testing.T, seed uint64, a, b natlab.BoxConfig, s strategy) (direct bool) {
	t.Helper()
	natlab.Run(t, seed, func(t *testing.T, n *natlab.Net) {
		w := newWorld(t, n, a, b)
		p, q := w.peers(t)
		direct = punch(p, q, s)
	})
	return direct
}

func TestOpenLinuxLosesTheRaceUnlessTheFirstPunchesDieOnTheWay(t *testing.T) {
	open := nat(natlab.NATConfig{OpenLinux: true})
	strict := nat(natlab.NATConfig{Mapping: natlab.EIM, Filtering: natlab.APDF})
	// The one-way delay is 20 ms. Hops: own box, four in the internet, their box.
	for _, tc := range []struct {
		name string
		a, b natlab.BoxConfig
		s    strategy
		want bool
	}{
		{"against itself, started apart", open, open, strategy{late: 100 * time.Millisecond, packets: 20}, false},
		{"against itself, packets cross", open, open, strategy{late: 10 * time.Millisecond, packets: 20}, true},
		{"the strict peer starts first", strict, open, strategy{late: 100 * time.Millisecond, packets: 20}, false},
		{"the open one starts first", open, strict, strategy{late: 100 * time.Millisecond, packets: 20}, true},
		{"against itself, low TTL", open, open, strategy{late: 100 * time.Millisecond, lowTTL: 3, lowFor: 300 * time.Millisecond, packets: 20}, true},
		{"the strict peer first, low TTL", strict, open, strategy{late: 100 * time.Millisecond, lowTTL: 3, lowFor: 300 * time.Millisecond, packets: 20}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := punched(t, 1, tc.a, tc.b, tc.s); got != tc.want {
				t.Errorf("direct is %v, want %v", got, tc.want)
			}
		})
	}
}

func TestReplySameConnectsWithStrictAndSymmetricPeers(t *testing.T) {
	for _, other := range []natlab.NATConfig{
		{Mapping: natlab.EIM, Filtering: natlab.APDF},
		{Mapping: natlab.APDM, Filtering: natlab.APDF, Ports: natlab.PortConfig{Order: natlab.Random}},
	} {
		for _, same := range []bool{false, true} {
			self := nat(natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.EIF, ReplySame: same})
			if got := punched(t, 1, self, nat(other), strategy{packets: 10}); got != same {
				t.Errorf("ReplySame %v with %v/%v: direct is %v", same, other.Mapping, other.Filtering, got)
			}
		}
	}
}

func TestFirewallCountsAsPortRestrictedAndTheOpenAsFullCone(t *testing.T) {
	firewall := natlab.BoxConfig{Firewall: &natlab.FirewallConfig{Filtering: natlab.APDF}}
	open := natlab.BoxConfig{}
	symmetric := nat(natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.APDF})
	restricted := nat(natlab.NATConfig{Mapping: natlab.EIM, Filtering: natlab.APDF})
	for _, tc := range []struct {
		name string
		a, b natlab.BoxConfig
		want bool
	}{
		{"firewall, symmetric", firewall, symmetric, false},
		{"firewall, firewall", firewall, firewall, true},
		{"firewall, restricted", firewall, restricted, true},
		{"open, symmetric", open, symmetric, true},
		{"open, firewall", open, firewall, true},
	} {
		if got := punched(t, 1, tc.a, tc.b, strategy{packets: 10}); got != tc.want {
			t.Errorf("%s: direct is %v, want %v", tc.name, got, tc.want)
		}
	}
}

// chain is a host behind two NATs: inner in the house, outer at the carrier.
func chain(n *natlab.Net, inner, outer natlab.NATConfig) *natlab.Host {
	cgn := n.Internet().Box("cgn", natlab.BoxConfig{Outside: []string{"203.0.113.50"}, NAT: &outer})
	cgn.Outside().Set(natlab.LinkConfig{Delay: 10 * time.Millisecond})
	home := cgn.Inside().Box("home", natlab.BoxConfig{Outside: []string{"100.64.0.7"}, NAT: &inner})
	return home.Inside().Host("carol", "192.168.1.2")
}

func TestChainBehavesAsTheWorstMappingAndTheStrictestFiltering(t *testing.T) {
	kinds := []natlab.NATConfig{
		{Mapping: natlab.EIM, Filtering: natlab.EIF},
		{Mapping: natlab.EIM, Filtering: natlab.APDF},
		{Mapping: natlab.APDM, Filtering: natlab.EIF},
		{Mapping: natlab.APDM, Filtering: natlab.APDF},
	}
	for _, inner := range kinds {
		for _, outer := range kinds {
			for col := range 9 {
				other := natlab.NATConfig{Mapping: natlab.EIM + natlab.Mapping(col/3), Filtering: natlab.EIF + natlab.Filtering(col%3)}
				worst, strictest := max(inner.Mapping, outer.Mapping), max(inner.Filtering, outer.Filtering)
				row := int(worst-natlab.EIM)*3 + int(strictest-natlab.EIF)
				want := strings.ReplaceAll(pairs[row], " ", "")[col] == 'D'
				natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
					w := newWorld(t, n, nat(other), natlab.BoxConfig{})
					w.hosts[1] = chain(n, inner, outer)
					p, q := w.peers(t)
					if got := punch(p, q, strategy{packets: 10}); got != want {
						t.Errorf("%v/%v in %v/%v with %v/%v: direct is %v, want %v", inner.Mapping, inner.Filtering, outer.Mapping,
							outer.Filtering, other.Mapping, other.Filtering, got, want)
					}
				})
			}
		}
	}
}

func TestHopsTellHowFarTheNATIs(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		newWorld(t, n, natlab.BoxConfig{}, natlab.BoxConfig{})
		h := chain(n, natlab.NATConfig{}, natlab.NATConfig{})
		c := listen(t, h, ":0")
		c.ReportErrors(true)
		for ttl, want := range map[int]error{1: syscall.EHOSTUNREACH, 2: syscall.EHOSTUNREACH, 6: syscall.EHOSTUNREACH, 7: nil} {
			c.SetTTL(ttl)
			send(t, c, netip.MustParseAddrPort("198.51.100.1:3478"), "?")
			if _, _, err := receive(t, c); !errors.Is(err, want) {
				t.Errorf("TTL %d: %v, want %v", ttl, err, want)
			}
		}
	})
}

func TestBoxAtTheFarEndTakesAHopToo(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		a, _ := pair(n)
		c := listen(t, a, ":0")
		far := listen(t, n.Internet().Box("far", natlab.BoxConfig{}).Inside().Host("dave", "203.0.113.9"), ":7")
		c.SetTTL(5)
		send(t, c, netip.MustParseAddrPort("203.0.113.9:7"), "short")
		mustNotReceive(t, far)
		c.SetTTL(6)
		send(t, c, netip.MustParseAddrPort("203.0.113.9:7"), "enough")
		mustReceive(t, far, "enough")
	})
}

func TestSequentialPortsArePredictable(t *testing.T) {
	for _, step := range []int{1, 2, 256} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			symmetric := natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.APDF,
				Ports: natlab.PortConfig{Order: natlab.Sequential, Step: step}}
			w := newWorld(t, n, nat(symmetric), nat(symmetric))
			p, q := w.peers(t)
			for _, x := range []*peer{p, q} {
				x.observed = netip.AddrPortFrom(x.observed.Addr(), x.observed.Port()+uint16(step)) // the next mapping
			}
			if !punch(p, q, strategy{packets: 10}) {
				t.Errorf("step %d: not direct", step)
			}
		})
	}
}

// birthday sends from count sockets behind one NAT to guessed ports behind another, and reports whether any met.
func birthday(t *testing.T, n *natlab.Net, w *world, sockets, probes int) bool {
	t.Helper()
	cone := listen(t, w.hosts[1], ":7000")
	target := observe(t, cone, w.server)
	for range sockets {
		send(t, listen(t, w.hosts[0], ":0"), target, "hello")
	}
	time.Sleep(100 * time.Millisecond)
	for i := range probes {
		send(t, cone, netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), uint16(1024+(i*12345)%64512)), "probe")
		if i%20 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	time.Sleep(time.Second)
	return n.Stats().By[natlab.Delivered] > 2 // question and answer of observe, and a probe that met a mapping
}

func TestRandomSymmetricMeetsAConeByBirthday(t *testing.T) {
	hits := 0
	for seed := range uint64(5) {
		natlab.Run(t, seed, func(t *testing.T, n *natlab.Net) {
			w := newWorld(t, n,
				nat(natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.APDF, Ports: natlab.PortConfig{Order: natlab.Random}}),
				nat(natlab.NATConfig{Mapping: natlab.EIM, Filtering: natlab.APDF}))
			if birthday(t, n, w, 256, 2048) {
				hits++
			}
		})
	}
	if hits < 5 { // the chance of a miss is 0.0003 for each
		t.Errorf("%d of 5", hits)
	}
}

func TestBirthdayUsesTheQuotaUpAndTheClientLosesAllUDP(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		w := newWorld(t, n, nat(natlab.NATConfig{Mapping: natlab.APDM, Quota: 100, Timeout: time.Minute}), nat(natlab.NATConfig{}))
		birthday(t, n, w, 256, 10)
		if got := n.Stats().By[natlab.OverQuota]; got != 156 {
			t.Errorf("%d packets over quota, want 156", got)
		}
		c := listen(t, w.hosts[0], ":0")
		send(t, c, w.server, "?")
		mustNotReceive(t, c)
		time.Sleep(time.Minute)
		observe(t, c, w.server)
	})
}

func TestArbitraryPoolBreaksPeersThatWereToldAnotherAddress(t *testing.T) {
	for _, pooling := range []natlab.Pooling{natlab.Paired, natlab.Arbitrary} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			w := newWorld(t, n, natlab.BoxConfig{Outside: []string{"203.0.113.11", "203.0.113.12", "203.0.113.13"},
				NAT: &natlab.NATConfig{Mapping: natlab.APDM, Pooling: pooling}}, nat(natlab.NATConfig{Filtering: natlab.ADF}))
			hits := 0
			for range 12 {
				p, q := w.peers(t)
				if punch(p, q, strategy{packets: 3}) {
					hits++
				}
			}
			if paired := pooling == natlab.Paired; paired != (hits == 12) {
				t.Errorf("pooling %d: %d of 12", pooling, hits)
			}
		})
	}
}

func TestPeersBehindTheSameNATNeedHairpinning(t *testing.T) {
	for _, hairpin := range []natlab.Hairpin{natlab.HairpinOff, natlab.HairpinExternal, natlab.HairpinInternal} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			w := newWorld(t, n, nat(natlab.NATConfig{Hairpin: hairpin}), natlab.BoxConfig{})
			w.hosts[1] = w.boxes[0].Inside().Host("alfred", "192.168.1.3")
			p, q := w.peers(t)
			if got, want := punch(p, q, strategy{packets: 10}), hairpin != natlab.HairpinOff; got != want {
				t.Errorf("hairpin %d: direct is %v", hairpin, got)
			}
			p, q = w.peers(t)
			p.observed, q.observed = p.private(w.hosts[0]), q.private(w.hosts[1])
			if !punch(p, q, strategy{packets: 3}) {
				t.Error("private addresses must work")
			}
		})
	}
}

func (p *peer) private(h *natlab.Host) netip.AddrPort {
	return netip.AddrPortFrom(h.Addr(), p.conn.LocalAddrPort().Port())
}

func TestALGChangesTheAddressInTheClear(t *testing.T) {
	for _, alg := range []bool{false, true} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			w := newWorld(t, n, nat(natlab.NATConfig{ALG: alg}), natlab.BoxConfig{})
			server := n.Internet().Host("mapper", "198.51.100.9")
			s := listen(t, server, ":3478")
			go func() { // answers with the mapped address in binary, as MAPPED-ADDRESS is
				b := make([]byte, 10)
				for {
					_, from, err := s.ReadFromUDPAddrPort(b)
					if err != nil {
						return
					}
					a := from.Addr().As4()
					s.WriteToUDPAddrPort(append([]byte{byte(from.Port() >> 8), byte(from.Port())}, a[:]...), from)
				}
			}()
			c := listen(t, w.hosts[0], ":5000")
			send(t, c, netip.MustParseAddrPort("198.51.100.9:3478"), "?")
			got, _, err := receive(t, c)
			want := "\x13\x88\xcb\x00\x71\x01"
			if alg {
				want = "\x13\x88\xc0\xa8\x01\x02"
			}
			if err != nil || got != want {
				t.Errorf("ALG %v: %x, %v", alg, got, err)
			}
		})
	}
}

func TestOneBlockedPortIsNotUDPBlocked(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		w := newWorld(t, n, natlab.BoxConfig{NAT: &natlab.NATConfig{},
			Firewall: &natlab.FirewallConfig{UDP: natlab.Rule{Block: natlab.Drop, Ports: []uint16{3479}}}}, natlab.BoxConfig{})
		c := listen(t, w.hosts[0], ":0")
		send(t, c, w.server, "?")
		mustNotReceive(t, c)
		observe(t, c, netip.AddrPortFrom(w.server.Addr(), 3479))
	})
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		w := newWorld(t, n, natlab.BoxConfig{NAT: &natlab.NATConfig{},
			Firewall: &natlab.FirewallConfig{UDP: natlab.Rule{Block: natlab.Reject}}}, natlab.BoxConfig{})
		c, err := w.hosts[0].DialUDP(context.Background(), "udp", "", w.server.String())
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("?"))
		if _, _, err := receive(t, c); !errors.Is(err, syscall.EACCES) {
			t.Errorf("rejected: %v", err)
		}
	})
}

func TestBindingLifetimeIsMeasurableFromOutside(t *testing.T) {
	for _, refresh := range []bool{false, true} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			w := newWorld(t, n, nat(natlab.NATConfig{Timeout: 30 * time.Second, InboundRefresh: refresh}), natlab.BoxConfig{})
			s := listen(t, n.Internet().Host("knocker", "198.51.100.9"), ":9")
			c := listen(t, w.hosts[0], ":5000")
			send(t, c, netip.MustParseAddrPort("198.51.100.9:9"), "open")
			mapped := mustReceive(t, s, "open")
			for range 2 {
				time.Sleep(20 * time.Second)
				send(t, s, mapped, "knock")
			}
			want := 1
			if refresh {
				want = 2
			}
			got := 0
			for ; ; got++ {
				if _, _, err := receive(t, c); err != nil {
					break
				}
			}
			if got != want {
				t.Errorf("inbound refresh %v: %d knocks arrived, want %d", refresh, got, want)
			}
		})
	}
}

func TestFragmentsVanishInNATsThatDropThem(t *testing.T) {
	for _, drop := range []bool{false, true} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			w := newWorld(t, n, nat(natlab.NATConfig{DropFragments: drop}), natlab.BoxConfig{})
			c := listen(t, w.hosts[0], ":5000")
			observe(t, c, w.server)
			if _, err := c.WriteToUDPAddrPort(make([]byte, 3000), w.server); err != nil {
				t.Fatal(err)
			}
			_, _, err := receive(t, c)
			if (err != nil) != drop {
				t.Errorf("DropFragments %v: %v", drop, err)
			}
		})
	}
}

func TestIPv6PassesNATUntranslatedAndFirewallsJudgeIt(t *testing.T) {
	for _, filtering := range []natlab.Filtering{natlab.FilteringDefault, natlab.APDF} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			box := n.Internet().Box("home", natlab.BoxConfig{Outside: []string{"203.0.113.1", "2001:db8:ffff::1"}, NAT: &natlab.NATConfig{},
				Firewall6: &natlab.FirewallConfig{Filtering: filtering}})
			h := box.Inside().Host("alice", "192.168.1.2", "2001:db8:1::2")
			s := n.Internet().Host("server", "198.51.100.1", "2001:db8::1")
			ch, cs := listen(t, h, ":5000"), listen(t, s, ":6000")
			send(t, cs, netip.MustParseAddrPort("[2001:db8:1::2]:5000"), "stranger")
			if filtering == natlab.APDF {
				mustNotReceive(t, ch)
			} else {
				mustReceive(t, ch, "stranger")
			}
			send(t, ch, netip.MustParseAddrPort("[2001:db8::1]:6000"), "six")
			from := mustReceive(t, cs, "six")
			if from != netip.MustParseAddrPort("[2001:db8:1::2]:5000") {
				t.Errorf("from %v", from)
			}
			send(t, cs, from, "back")
			mustReceive(t, ch, "back")
			send(t, ch, netip.MustParseAddrPort("198.51.100.1:6000"), "four")
			if from := mustReceive(t, cs, "four"); from.Addr() != netip.MustParseAddr("203.0.113.1") {
				t.Errorf("from %v", from)
			}
		})
	}
}

// TestClientReachesAPeerOnlyByTheProxyInTheDMZ has the layout of a company: clients behind a firewall that lets UDP go
// to the proxy only, the proxy between it and the edge, whose firewall lets the proxy send.
func TestClientReachesAPeerOnlyByTheProxyInTheDMZ(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		edge := n.Internet().Box("edge", natlab.BoxConfig{Outside: []string{"203.0.113.1"},
			Firewall: &natlab.FirewallConfig{Filtering: natlab.APDF}})
		proxy := edge.Inside().Host("proxy", "203.0.113.10")
		lan := edge.Inside().Box("lan", natlab.BoxConfig{Firewall: &natlab.FirewallConfig{Filtering: natlab.APDF,
			UDP: natlab.Rule{Block: natlab.Drop, To: []netip.Prefix{netip.MustParsePrefix("203.0.113.10/32")}}}})
		client := lan.Inside().Host("client", "10.0.0.2")
		outsider := n.Internet().Host("peer", "198.51.100.7")

		cc, cp, co := listen(t, client, ":0"), listen(t, proxy, ":3478"), listen(t, outsider, ":9000")
		send(t, cc, netip.MustParseAddrPort("198.51.100.7:9000"), "directly")
		mustNotReceive(t, co)
		send(t, cc, netip.MustParseAddrPort("203.0.113.10:3478"), "relay this")
		from := mustReceive(t, cp, "relay this")
		send(t, cp, netip.MustParseAddrPort("198.51.100.7:9000"), "relayed")
		send(t, co, mustReceive(t, co, "relayed"), "answer")
		mustReceive(t, cp, "answer")
		send(t, cp, from, "answer")
		mustReceive(t, cc, "answer")
	})
}

func TestRebootForgetsMappings(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		w := newWorld(t, n, nat(natlab.NATConfig{Ports: natlab.PortConfig{Order: natlab.Random}}), natlab.BoxConfig{})
		c := listen(t, w.hosts[0], ":0")
		before := observe(t, c, w.server)
		if w.boxes[0].Mappings() != 1 {
			t.Errorf("%d mappings", w.boxes[0].Mappings())
		}
		w.boxes[0].Reboot()
		if after := observe(t, c, w.server); after == before {
			t.Error("the mapping survived")
		}
	})
}

func TestAThousandProbesTakeSeconds(t *testing.T) {
	start := time.Now()
	for seed := range uint64(1000) {
		natlab.Run(t, seed, func(t *testing.T, n *natlab.Net) {
			w := newWorld(t, n, nat(natlab.NATConfig{Mapping: natlab.APDM}), natlab.BoxConfig{})
			for i := range 16 { // 64 packets, as many as a probe sends
				c := listen(t, w.hosts[0], fmt.Sprintf(":%d", 5000+i))
				observe(t, c, w.server)
				observe(t, c, w.server2)
			}
		})
	}
	if d := time.Since(start); d > time.Minute { // a loose limit: the machine may be busy
		t.Errorf("1000 probes took %v", d)
	} else {
		t.Logf("1000 probes: %v", d)
	}
}

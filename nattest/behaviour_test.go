package nattest_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/stun"
)

func TestBehavioursBeyondTheClassesAreRecognised(t *testing.T) {
	apdm := natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.APDF}
	ports := func(c natlab.NATConfig, p natlab.PortConfig) natlab.BoxConfig { c.Ports = p; return nat(c) }
	pool := func(p natlab.Pooling) natlab.BoxConfig {
		return natlab.BoxConfig{Outside: []string{"203.0.113.1", "203.0.113.2", "203.0.113.3"},
			NAT: &natlab.NATConfig{Pooling: p, Ports: natlab.PortConfig{Order: natlab.Random}}}
	}
	for _, tc := range []struct {
		name  string
		box   natlab.BoxConfig
		right func(v nattest.Verdict) bool
		found string // a finding that must be there
	}{
		{"no NAT", natlab.BoxConfig{}, func(v nattest.Verdict) bool {
			return v.Mapping == nattest.MappingNone && v.Filtering == nattest.FilteringOpen && v.Relay == nattest.RelayNever
		}, nattest.NoNAT},
		{"stateful firewall", natlab.BoxConfig{Firewall: &natlab.FirewallConfig{Filtering: natlab.APDF}}, func(v nattest.Verdict) bool {
			return v.Mapping == nattest.MappingNone && v.Filtering == nattest.APDF && v.Relay == nattest.RelaySometimes
		}, nattest.StatefulFirewall},
		{"firewall that looks at addresses", natlab.BoxConfig{Firewall: &natlab.FirewallConfig{Filtering: natlab.ADF}}, func(v nattest.Verdict) bool {
			return v.Mapping == nattest.MappingNone && v.Filtering == nattest.ADF
		}, nattest.StatefulFirewall},
		{"NAT and firewall", natlab.BoxConfig{NAT: &natlab.NATConfig{Filtering: natlab.EIF}, Firewall: &natlab.FirewallConfig{Filtering: natlab.APDF}},
			func(v nattest.Verdict) bool { return v.Mapping == nattest.EIM && v.Filtering == nattest.APDF }, nattest.BehindNAT},
		{"ports preserved", nat(natlab.NATConfig{}), func(v nattest.Verdict) bool { return v.Ports.Allocation == nattest.Preserved }, nattest.BehindNAT},
		{"ports preserved where that is possible", nat(apdm), func(v nattest.Verdict) bool {
			return v.Ports.Allocation == nattest.Preserved && v.Ports.Step == 1
		}, nattest.BehindNAT},
		{"ports random", ports(apdm, natlab.PortConfig{Order: natlab.Random}), func(v nattest.Verdict) bool {
			return v.Ports.Allocation == nattest.Random && v.Ports.Narrow == nattest.No && v.Ports.Parity != nattest.Yes
		}, nattest.BehindNAT},
		{"ports from a block", ports(apdm, natlab.PortConfig{Order: natlab.Random, Block: 512}), func(v nattest.Verdict) bool {
			return v.Ports.Allocation == nattest.Random && v.Ports.Narrow == nattest.Yes
		}, nattest.BehindNAT},
		{"ports of the same parity", ports(apdm, natlab.PortConfig{Order: natlab.Random, Parity: true}), func(v nattest.Verdict) bool {
			return v.Ports.Parity == nattest.Yes
		}, nattest.BehindNAT},
		{"steps of 1", ports(apdm, natlab.PortConfig{Order: natlab.Sequential}), func(v nattest.Verdict) bool {
			return v.Ports.Allocation == nattest.Sequential && v.Ports.Step == 1
		}, nattest.SequentialPorts},
		{"steps of 2", ports(apdm, natlab.PortConfig{Order: natlab.Sequential, Step: 2}), func(v nattest.Verdict) bool {
			return v.Ports.Allocation == nattest.Sequential && v.Ports.Step == 2
		}, nattest.SequentialPorts},
		{"steps of 256", ports(apdm, natlab.PortConfig{Order: natlab.Sequential, Step: 256}), func(v nattest.Verdict) bool {
			return v.Ports.Allocation == nattest.Sequential && v.Ports.Step == 256
		}, nattest.SequentialPorts},
		{"paired pool", pool(natlab.Paired), func(v nattest.Verdict) bool {
			return v.Pooling == nattest.Paired && v.Mapping == nattest.EIM && v.Filtering == nattest.APDF
		}, nattest.BehindNAT},
		{"arbitrary pool", pool(natlab.Arbitrary), func(v nattest.Verdict) bool {
			return v.Pooling == nattest.Arbitrary && v.Mapping == nattest.EIM && v.Filtering == nattest.APDF
		}, nattest.ArbitraryPooling},
		{"overloaded ports", ports(natlab.NATConfig{Filtering: natlab.ADF}, natlab.PortConfig{Overload: true}), func(v nattest.Verdict) bool {
			return v.Mapping == nattest.EIM && v.Filtering == nattest.ADF
		}, nattest.BehindNAT},
		{"open Linux", nat(natlab.NATConfig{OpenLinux: true}), func(v nattest.Verdict) bool {
			return v.Mapping == nattest.EIM && v.Filtering == nattest.APDF && v.OpenLinux == nattest.Yes
		}, nattest.IsOpenLinux},
		{"closed Linux", nat(natlab.NATConfig{}), func(v nattest.Verdict) bool { return v.OpenLinux == nattest.No }, nattest.BehindNAT},
		{"keeps replies", nat(natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.EIF, ReplySame: true}), func(v nattest.Verdict) bool {
			return v.Mapping == nattest.APDM && v.Filtering == nattest.EIF && v.ReplySame == nattest.Yes
		}, nattest.KeepsReplies},
		{"keeps no replies", nat(natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.EIF}), func(v nattest.Verdict) bool {
			return v.ReplySame == nattest.No
		}, nattest.BehindNAT},
		{"ALG", nat(natlab.NATConfig{ALG: true}), func(v nattest.Verdict) bool {
			return v.ALG == nattest.Yes && v.Mapping == nattest.EIM && v.Filtering == nattest.APDF
		}, nattest.HasALG},
		{"no ALG", nat(natlab.NATConfig{}), func(v nattest.Verdict) bool { return v.ALG == nattest.No }, nattest.BehindNAT},
		{"fragments dropped", nat(natlab.NATConfig{DropFragments: true}), func(v nattest.Verdict) bool { return v.Fragments == nattest.No },
			nattest.FragmentsDropped},
		{"fragments pass", nat(natlab.NATConfig{}), func(v nattest.Verdict) bool { return v.Fragments == nattest.Yes }, nattest.BehindNAT},
		{"one port blocked", natlab.BoxConfig{NAT: &natlab.NATConfig{}, Firewall: &natlab.FirewallConfig{UDP: natlab.Rule{Block: natlab.Drop, Ports: []uint16{3479}}}},
			func(v nattest.Verdict) bool {
				return v.UDP == nattest.UDPSomePorts && v.Relay == nattest.RelayAlways && (v.Mapping == nattest.EIM || v.Mapping == nattest.MappingUnknown)
			}, nattest.STUNPortBlocked},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, seed := range seedsAnd(10) {
				natlab.Run(t, seed, func(t *testing.T, n *natlab.Net) {
					r := newLab(t, n, tc.box, near, &discovery, nil).probe(t, nil)
					if !tc.right(r.Verdict) || !has(r, tc.found) {
						t.Errorf("%+v\n%v", r.Verdict, explain(r))
					}
					for _, p := range r.Observations.Probes {
						if tc.found == nattest.STUNPortBlocked && p.Answered > 0 && p.To.Port() == discovery.Ports[0] {
							t.Errorf("%s has an answer from the port that is blocked: %v", p.Name, explain(r))
						}
					}
				})
			}
		})
	}
}

// streamServer answers STUN, or text, on a TCP port.
func streamServer(t *testing.T, h *natlab.Host, address, text string) {
	t.Helper()
	l, err := h.Listen(context.Background(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 2000)
				k, err := c.Read(b)
				if err != nil {
					return
				}
				remote := c.RemoteAddr().(*net.TCPAddr).AddrPort()
				if text != "" {
					c.Write([]byte(text))
				} else {
					c.Write(stun.Respond(nil, b[:k], netip.AddrPort{}, remote))
				}
				c.Read(b)
			}()
		}
	}()
}

func TestBlockedUDPIsToldFromADeadServer(t *testing.T) {
	block := natlab.BoxConfig{NAT: &natlab.NATConfig{}, Firewall: &natlab.FirewallConfig{UDP: natlab.Rule{Block: natlab.Drop}}}
	for _, tc := range []struct {
		name    string
		box     natlab.BoxConfig
		tcp     string // "": nothing, "stun", or what is answered
		mapping nattest.Mapping
		found   string
	}{
		{"only TCP", block, "stun", nattest.MappingBlocked, nattest.OnlyTCP},
		{"captive portal", block, "HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n", nattest.MappingUnknown, nattest.CaptivePortal},
		{"nothing", block, "", nattest.MappingUnknown, nattest.NoAnswer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
				l := newLab(t, n, tc.box, near, &discovery, nil)
				switch tc.tcp {
				case "":
				case "stun":
					streamServer(t, l.server, ":3478", "")
				default:
					streamServer(t, l.server, ":3478", tc.tcp)
				}
				start := time.Now()
				r := l.probe(t, func(c *nattest.Config) { c.DialContext = l.client.DialContext })
				if r.Verdict.Mapping != tc.mapping || !has(r, tc.found) || time.Since(start) > 3*time.Second {
					t.Errorf("%v: %v", time.Since(start), explain(r))
				}
				if blocked := tc.mapping == nattest.MappingBlocked; blocked != (r.Verdict.Relay == nattest.RelayAlways) {
					t.Errorf("relay %v", r.Verdict.Relay)
				}
			})
		})
	}
	t.Run("two servers", func(t *testing.T) {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			l := newLab(t, n, block, near, &discovery, nil)
			r := l.probe(t, func(c *nattest.Config) { c.Servers = []string{"198.51.100.1", "198.51.100.2"} })
			if r.Verdict.UDP != nattest.UDPBlocked {
				t.Error(explain(r))
			}
		})
	})
	t.Run("no such name", func(t *testing.T) {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			l := newLab(t, n, block, near, &discovery, nil)
			r := l.probe(t, func(c *nattest.Config) { c.Servers = []string{"nobody", "b:0"} })
			if r.Verdict.Mapping != nattest.MappingUnknown || !has(r, nattest.NameFailed) || !has(r, nattest.NoAnswer) {
				t.Error(explain(r))
			}
		})
	})
}

func TestSlowLinksTakeLessThanTenSeconds(t *testing.T) {
	for i := range 9 {
		m, f := natlab.EIM+natlab.Mapping(i/3), natlab.EIF+natlab.Filtering(i%3)
		natlab.Run(t, uint64(i), func(t *testing.T, n *natlab.Net) {
			l := newLab(t, n, nat(natlab.NATConfig{Mapping: m, Filtering: f}), natlab.LinkConfig{Delay: 1200 * time.Millisecond}, &discovery, nil)
			start := time.Now()
			r := l.probe(t, nil)
			if r.Verdict.Mapping.String() != m.String() || r.Verdict.Filtering.String() != f.String() || time.Since(start) > 10*time.Second {
				t.Errorf("%v: %v", time.Since(start), explain(r))
			}
		})
	}
}

// relayAt is a relay of the laboratory: a socket on a public host, behind a permission as TURN has.
type relayAt struct {
	net.PacketConn
	peers chan map[netip.Addr]bool
}

func dialRelay(h *natlab.Host, addr string) func(context.Context, string) (net.PacketConn, error) {
	return func(ctx context.Context, _ string) (net.PacketConn, error) {
		time.Sleep(200 * time.Millisecond)
		c, err := h.ListenPacket(ctx, "udp", addr)
		if err != nil {
			return nil, err
		}
		r := &relayAt{c, make(chan map[netip.Addr]bool, 1)}
		r.peers <- map[netip.Addr]bool{}
		return r, nil
	}
}

func (r *relayAt) WriteTo(b []byte, to net.Addr) (int, error) {
	m := <-r.peers
	m[to.(*net.UDPAddr).AddrPort().Addr()] = true
	r.peers <- m
	return r.PacketConn.WriteTo(b, to)
}

func (r *relayAt) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := r.PacketConn.ReadFrom(b)
		if err != nil {
			return n, from, err
		}
		m := <-r.peers
		ok := m[from.(*net.UDPAddr).AddrPort().Addr()]
		r.peers <- m
		if ok {
			return n, from, nil
		}
	}
}

func TestOneServerAddressLeavesVerdictsOpenThatARelayCloses(t *testing.T) {
	flat := stun.Discovery{Addrs: [2]netip.Addr{discovery.Addrs[0]}, Ports: discovery.Ports}
	for i := range 9 {
		m, f := natlab.EIM+natlab.Mapping(i/3), natlab.EIF+natlab.Filtering(i%3)
		for _, relay := range []bool{false, true} {
			for seed := range seeds(2) {
				natlab.Run(t, seed, func(t *testing.T, n *natlab.Net) {
					l := newLab(t, n, nat(natlab.NATConfig{Mapping: m, Filtering: f, Ports: natlab.PortConfig{Order: natlab.Random}}), near, &flat, nil)
					far := n.Internet().Host("relay", "198.51.100.9")
					r := l.probe(t, func(c *nattest.Config) {
						if relay {
							c.DialRelay = dialRelay(far, "198.51.100.9:0")
						}
					})
					if n := r.Observations.Strange.WrongSource; n != 0 {
						t.Errorf("%d replies of an honest server count as misdirected: %v", n, explain(r))
					}
					v := r.Verdict
					wantM, wantF := m.String(), f.String()
					if !relay && m != natlab.APDM {
						wantM = "unknown"
						if !slices.Equal(v.MappingAmong, []nattest.Mapping{nattest.EIM, nattest.ADM}) || !has(r, nattest.OpenQuestion) {
							t.Errorf("among %v", v.MappingAmong)
						}
					}
					if !relay && f != natlab.APDF {
						wantF = "unknown"
						if !slices.Equal(v.FilteringAmong, []nattest.Filtering{nattest.EIF, nattest.ADF}) {
							t.Errorf("among %v", v.FilteringAmong)
						}
					}
					if v.Mapping.String() != wantM || v.Filtering.String() != wantF || relay != has(r, nattest.RelayUsed) {
						t.Errorf("%v/%v, relay %v: %v", m, f, relay, explain(r))
					}
				})
			}
		}
	}
}

func TestUnrelatedServersTellTheMapping(t *testing.T) {
	a := stun.Discovery{Addrs: [2]netip.Addr{netip.MustParseAddr("198.51.100.1")}, Ports: [2]uint16{3478}}
	b := stun.Discovery{Addrs: [2]netip.Addr{netip.MustParseAddr("192.0.2.1")}, Ports: [2]uint16{3478}}
	for _, m := range []natlab.Mapping{natlab.EIM, natlab.ADM, natlab.APDM} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			l := newLab(t, n, nat(natlab.NATConfig{Mapping: m, Filtering: natlab.EIF}), near, &a, nil)
			serve(t, n.Internet().Host("second", "192.0.2.1"), &b, honest(&b))
			r := l.probe(t, func(c *nattest.Config) { c.Servers = []string{"server", "second"} })
			want := map[natlab.Mapping][]nattest.Mapping{natlab.ADM: {nattest.ADM, nattest.APDM}, natlab.APDM: {nattest.ADM, nattest.APDM}}[m]
			if !slices.Equal(r.Verdict.MappingAmong, want) || m == natlab.EIM && r.Verdict.Mapping != nattest.EIM || r.Verdict.Filtering != nattest.FilteringUnknown {
				t.Error(explain(r))
			}
		})
	}
}

func TestSecondServerStepsInForADeadOne(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		l := newLab(t, n, nat(natlab.NATConfig{Filtering: natlab.ADF}), near, &discovery, nil)
		n.Internet().Host("dead", "192.0.2.1").SetQuiet(true)
		r := l.probe(t, func(c *nattest.Config) { c.Servers = []string{"dead", "server"} })
		if r.Verdict.Mapping != nattest.EIM || r.Verdict.Filtering != nattest.ADF {
			t.Error(explain(r))
		}
	})
}

func TestCarrierAddressIPv6AndSecondInterfaceAreSeen(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		l := newLab(t, n, natlab.BoxConfig{Outside: []string{"203.0.113.1", "2001:db8:ffff::1"}, NAT: &natlab.NATConfig{}}, near, &discovery, nil)
		h := l.box.Inside().Host("mobile", "100.64.0.7", "2001:db8:1::2")
		six := stun.Discovery{Addrs: [2]netip.Addr{netip.MustParseAddr("2001:db8::1")}, Ports: [2]uint16{3478}}
		s := n.Internet().Host("six", "2001:db8::1")
		serve(t, s, &six, honest(&six))
		other := n.Internet().Box("vpn", natlab.BoxConfig{Outside: []string{"203.0.113.77"}, NAT: &natlab.NATConfig{}})
		other.Inside().Attach(h, "10.8.0.2")
		r := probe(t, h, func(c *nattest.Config) { c.Servers = []string{"server", "six"} })
		for _, code := range []string{nattest.CarrierNAT, nattest.IPv6Works, nattest.SeveralInterfaces} {
			if !has(r, code) {
				t.Errorf("no %s: %v", code, explain(r))
			}
		}
	})
}

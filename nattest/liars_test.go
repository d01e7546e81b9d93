package nattest_test

import (
	"net/netip"
	"testing"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/stun"
)

// respond is an answer with an OTHER-ADDRESS and a mapped address of the liar's choice; a zero one is left out.
func respond(m stun.Message, mapped, other netip.AddrPort) []byte {
	b := stun.Begin(nil, stun.NewType(stun.Binding, stun.Success), m.TransactionID())
	if mapped.IsValid() {
		b.XORAddress(stun.AttrXORMappedAddress, mapped)
	}
	if other.IsValid() {
		b.Address(stun.AttrOtherAddress, other)
	}
	return b.Bytes()
}

func TestLyingServersMakeFindingsAndNoWrongVerdicts(t *testing.T) {
	type send = func(b []byte, from stun.Corner, to netip.AddrPort)
	good := honest(&discovery)
	other := discovery.At(stun.Corner{Addr: 1, Port: 1})
	n := 0
	for _, tc := range []struct {
		name   string
		answer answerer
		found  string
		same   bool // the verdict may be the right one; otherwise filtering must be unknown
	}{
		{"ignores CHANGE-REQUEST", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			m, _ := stun.Parse(q)
			send(respond(m, remote, other), at, remote)
		}, nattest.ChangeIgnored, false},
		{"says nothing to CHANGE-REQUEST", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			if m, _ := stun.Parse(q); !m.Has(stun.AttrChangeRequest) {
				send(respond(m, remote, other), at, remote)
			}
		}, nattest.ChangeUnproven, false},
		{"refuses CHANGE-REQUEST", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			m, _ := stun.Parse(q)
			if m.Has(stun.AttrChangeRequest) {
				b := stun.Begin(nil, stun.NewType(stun.Binding, stun.Error), m.TransactionID())
				b.ErrorCode(420, "")
				send(b.Bytes(), at, remote)
				return
			}
			send(respond(m, remote, other), at, remote)
		}, nattest.OpenQuestion, false},
		{"answers everything from elsewhere", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			m, _ := stun.Parse(q)
			send(respond(m, remote, other), stun.Corner{Addr: at.Addr, Port: 1 - at.Port}, remote)
		}, "", false}, // a finding only where the filter lets it through
		{"changes address and port when only the port is asked for", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			m, _ := stun.Parse(q)
			if m.Has(stun.AttrChangeRequest) {
				send(respond(m, remote, other), stun.Corner{Addr: 1, Port: 0}, remote)
				return
			}
			send(respond(m, remote, other), at, remote)
		}, "", false},
		{"OTHER-ADDRESS with the same IP", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			m, _ := stun.Parse(q)
			out, from, to := discovery.Respond(nil, m, at, remote)
			if !m.Has(stun.AttrChangeRequest) {
				out = respond(m, remote, discovery.At(stun.Corner{Addr: 0, Port: 1}))
			}
			send(out, from, to)
		}, nattest.BadOtherAddress, true},
		{"OTHER-ADDRESS in a private network", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			m, _ := stun.Parse(q)
			send(respond(m, remote, netip.MustParseAddrPort("192.168.1.1:53")), at, remote)
		}, nattest.BadOtherAddress, false},
		{"OTHER-ADDRESS that changes", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			m, _ := stun.Parse(q)
			n++
			send(respond(m, remote, netip.AddrPortFrom(other.Addr(), uint16(4000+n))), at, remote)
		}, nattest.BadOtherAddress, false},
		{"OTHER-ADDRESS that is dead", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			m, _ := stun.Parse(q)
			send(respond(m, remote, netip.MustParseAddrPort("198.51.100.77:3479")), at, remote)
		}, nattest.OtherSilent, false},
		{"repeats", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			good(q, at, remote, func(b []byte, from stun.Corner, to netip.AddrPort) {
				for range 5 {
					send(b, from, to)
				}
			})
		}, nattest.RepeatedReplies, true},
		{"floods", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			good(q, at, remote, func(b []byte, from stun.Corner, to netip.AddrPort) {
				for range 600 {
					send(b, from, to)
				}
			})
		}, nattest.Flood, true},
		{"truncates", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			good(q, at, remote, func(b []byte, from stun.Corner, to netip.AddrPort) { send(b[:len(b)-5], from, to) })
		}, nattest.NoAnswer, false},
		{"truncates every second reply", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			n++
			good(q, at, remote, func(b []byte, from stun.Corner, to netip.AddrPort) { send(b[:len(b)-n%2*5], from, to) })
		}, nattest.MalformedReply, true},
		{"names no address", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			m, _ := stun.Parse(q)
			send(respond(m, netip.AddrPort{}, other), at, remote)
		}, nattest.NoAnswer, false},
		{"names a different address each time", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			m, _ := stun.Parse(q)
			n++
			send(respond(m, netip.AddrPortFrom(remote.Addr(), uint16(n+1)), other), at, remote)
		}, nattest.MappingUnstable, false},
		{"names a zero port", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
			m, _ := stun.Parse(q)
			send(respond(m, netip.AddrPortFrom(remote.Addr(), 0), other), at, remote)
		}, nattest.NoAnswer, false},
		{"sends the request back", func(q []byte, at stun.Corner, remote netip.AddrPort, send send) { send(q, at, remote) }, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for i := range 9 {
				m, f := natlab.EIM+natlab.Mapping(i/3), natlab.EIF+natlab.Filtering(i%3)
				for seed := range seeds(1) {
					if tc.found == nattest.Flood && (i != 4 || seed > 2) { // 30,000 packets each
						continue
					}
					natlab.Run(t, seed, func(t *testing.T, net *natlab.Net) {
						l := newLab(t, net, nat(natlab.NATConfig{Mapping: m, Filtering: f, Ports: natlab.PortConfig{Order: natlab.Random}}), near, &discovery,
							func(q []byte, at stun.Corner, remote netip.AddrPort, send send) {
								if m, err := stun.Parse(q); err == nil && m.Class() == stun.Request {
									tc.answer(q, at, remote, send)
								}
							})
						r := l.probe(t, nil)
						v := r.Verdict
						if v.Mapping != nattest.MappingUnknown && v.Mapping.String() != m.String() {
							t.Errorf("%v/%v: %v", m, f, explain(r))
						}
						if v.Filtering != nattest.FilteringUnknown && (v.Filtering.String() != f.String() || !tc.same) {
							t.Errorf("%v/%v: %v", m, f, explain(r))
						}
						if tc.found != "" && !has(r, tc.found) {
							t.Errorf("no %s: %v", tc.found, explain(r))
						}
					})
				}
			}
		})
	}
}

package flash_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/rtmfp/flash"
)

// way is a player's way to the internet, and what natprobe would say of it.
type way struct {
	name    string
	box     *natlab.BoxConfig // nil is none
	verdict nattest.Verdict
	network string // to the proxy; empty is UDP, and TCP after a second
}

// ways are the nine classes of NAT, no NAT, and two firewalls that block UDP but to the proxy, or altogether.
func ways() []way {
	list := []way{{name: "open", verdict: nattest.Verdict{Mapping: nattest.MappingNone, Filtering: nattest.FilteringOpen, UDP: nattest.UDPOpen}}}
	for i := range 9 {
		mapping, filtering := natlab.EIM+natlab.Mapping(i/3), natlab.EIF+natlab.Filtering(i%3)
		list = append(list, way{
			name: fmt.Sprintf("%v-%v", mapping, filtering),
			box:  &natlab.BoxConfig{NAT: &natlab.NATConfig{Mapping: mapping, Filtering: filtering}},
			verdict: nattest.Verdict{
				Mapping: nattest.EIM + nattest.Mapping(i/3), Filtering: nattest.EIF + nattest.Filtering(i%3), UDP: nattest.UDPOpen, Quota: 64,
			},
		})
	}
	blocked := func(to ...netip.Prefix) *natlab.BoxConfig {
		return &natlab.BoxConfig{
			NAT:      &natlab.NATConfig{Mapping: natlab.EIM, Filtering: natlab.APDF},
			Firewall: &natlab.FirewallConfig{Filtering: natlab.APDF, UDP: natlab.Rule{Block: natlab.Drop, To: to}},
		}
	}
	return append(list,
		way{name: "blocked-udp-proxy", box: blocked(netip.MustParsePrefix(proxyAddress + "/32")), verdict: nattest.Verdict{UDP: nattest.UDPBlocked}},
		way{name: "blocked-tcp-proxy", box: blocked(), verdict: nattest.Verdict{UDP: nattest.UDPBlocked}})
}

// join puts a player behind its way.
func (l *lab) join(name string, i int, w way) *player {
	if w.box == nil {
		return l.relayedPlayer(name, l.n.Internet(), fmt.Sprintf("203.0.113.%d", i))
	}
	seg := l.behind("nat-"+name, fmt.Sprintf("203.0.113.%d", i), *w.box)
	return l.relayedPlayer(name, seg, fmt.Sprintf("192.168.%d.2", i))
}

// TestThePathIsWhatThePredictorSays places a call between all pairs of ways, and compares the path that it takes with what
// nattest.Predict says about the two ends.
func TestThePathIsWhatThePredictorSays(t *testing.T) {
	all := ways()
	for i, wa := range all {
		for j, wb := range all {
			t.Run(wa.name+"/"+wb.name, func(t *testing.T) {
				t.Parallel()
				inLab(t, uint64(100*i+j), func(t *testing.T, l *lab) {
					defer l.proxy()()
					alice, bob := l.join("alice", 10, wa), l.join("bob", 11, wb)
					alice.connect()
					bob.connect()
					wait(t, "relays", 5*time.Second, func() bool {
						_, a := alice.nc.Relay()
						_, b := bob.nc.Relay()
						return a && b
					})
					time.Sleep(500 * time.Millisecond) // the server knows
					pub := alice.publish("cam")
					v := bob.play(alice.nc.NearID(), "cam")
					took := wait(t, "Play.Start", 10*time.Second, func() bool { return v.has(flash.NetStreamPlayStart) })
					prediction := nattest.Predict(wa.verdict, wb.verdict)
					direct := prediction.Path == nattest.PathDirect
					// Both ends go on sending, so that both have to choose.
					for range 100 {
						if err := pub.SendMessage(flash.Message{Type: flash.MessageAudio, Payload: []byte{0xb2, 1}}); err != nil {
							t.Fatal(err)
						}
						time.Sleep(20 * time.Millisecond)
					}
					near, far := v.ns.Info().Path, pub.PeerStreams()[0].Info().Path
					if near.Relayed == direct || far.Relayed == direct {
						t.Errorf("predicted %v; took %+v and %+v", prediction.Path, near, far)
					}
					if limit := map[bool]time.Duration{true: 2 * time.Second, false: 4 * time.Second}[direct]; took > limit {
						t.Errorf("set up in %v", took)
					}
					if n := v.count(flash.MessageAudio); n < 95 {
						t.Errorf("%d of 100 messages", n)
					}
				})
			})
		}
	}
}

package rendezvous

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stilenet/stile/rtmfp/flash"
)

// results are the properties of a connectivity check's report.
func results(t *testing.T, p *peer) map[string]any {
	t.Helper()
	for _, c := range p.answers {
		s, ok := flash.ParseStatus(c.Argument(0))
		if !ok || s.Code != flash.NetConnectionConnectivityCheck {
			continue
		}
		m := map[string]any{}
		for _, property := range c.Argument(0).(*flash.Object).Properties {
			m[property.Name] = property.Value
		}
		return m
	}
	t.Fatalf("no results in %+v", p.answers)
	return nil
}

func TestTheConnectivityCheckTellsWhatANATDoes(t *testing.T) {
	probes := [CheckSockets]netip.AddrPort{ap("198.51.100.1:50000"), ap("198.51.100.2:50000"), ap("198.51.100.3:1936")}
	all := CheckConfig{Sockets: [CheckSockets]bool{true, true, true}, Introduction: probes[CheckIntroduction]}
	undefined := flash.Undefined{}
	for _, c := range []struct {
		name, at, nat string
		reported      []string
		check         CheckConfig
		want          map[string]any
	}{
		{"open", "203.0.113.1:5000", "", []string{"203.0.113.1:5000"}, all, map[string]any{
			"publicAddress": "203.0.113.1:5000", "publicAddressIsLocal": true, "publicPortMatchesLocalPort": true,
			"receiveSameAddressDifferentPortAllowed": true, "receiveDifferentAddressDifferentPortAllowed": true, "sendAfterIntroductionAllowed": true,
			"sendAfterIntroductionPreservesSourceAddress": true, "sendAfterIntroductionPreservesSourcePort": true,
		}},
		{"port-restricted NAT", "192.168.1.2:5000", "203.0.113.1", []string{"192.168.1.2:5000"}, all, map[string]any{
			"publicAddress": "203.0.113.1:40000", "publicAddressIsLocal": false, "publicPortMatchesLocalPort": false,
			"receiveSameAddressDifferentPortAllowed": false, "receiveDifferentAddressDifferentPortAllowed": false, "sendAfterIntroductionAllowed": true,
			"sendAfterIntroductionPreservesSourceAddress": true, "sendAfterIntroductionPreservesSourcePort": true,
		}},
		{"one address, and a client that reports none", "203.0.113.1:5000", "", nil, CheckConfig{Sockets: [CheckSockets]bool{true}}, map[string]any{
			"publicAddress": "203.0.113.1:5000", "publicAddressIsLocal": undefined, "publicPortMatchesLocalPort": undefined,
			"receiveSameAddressDifferentPortAllowed": true, "receiveDifferentAddressDifferentPortAllowed": undefined, "sendAfterIntroductionAllowed": undefined,
			"sendAfterIntroductionPreservesSourceAddress": undefined, "sendAfterIntroductionPreservesSourcePort": undefined,
		}},
		{"no address", "203.0.113.1:5000", "", nil, CheckConfig{}, map[string]any{
			"receiveSameAddressDifferentPortAllowed": undefined, "sendAfterIntroductionAllowed": undefined,
		}},
	} {
		for _, encoding := range []flash.ObjectEncoding{flash.AMF0, flash.AMF3} {
			t.Run(c.name, func(t *testing.T) {
				w := newWorld(t, setup{shards: 3, check: c.check, probes: probes})
				w.reg.Keys.SetRequired(true) // the check needs none
				p := w.client(c.at, c.nat)
				if code := p.connect("cc", encoding, c.reported...); code != success {
					t.Fatal(code)
				}
				if w.reg.Peers() != 0 {
					t.Error("a client of the check can be introduced")
				}
				w.run(10 * second)
				got := results(t, p)
				for name, v := range c.want {
					if got[name] != v {
						t.Errorf("%s is %v, want %v", name, got[name], v)
					}
				}
				if len(p.closing) == 0 {
					t.Error("the connection is still open")
				}
			})
		}
	}
}

func TestAnswersToProbesMustKnowTheTag(t *testing.T) {
	probes := [CheckSockets]netip.AddrPort{ap("198.51.100.1:50000")}
	w := newWorld(t, setup{check: CheckConfig{Sockets: [CheckSockets]bool{true}}, probes: probes})
	p := w.client("203.0.113.1:5000", "")
	w.drop = func(_, to netip.AddrPort, _ []byte) bool { return to == probes[0] }
	if code := p.connect("cc", flash.AMF0); code != success {
		t.Fatal(code)
	}
	for i := range 1000 {
		w.cores[0].Deliver(w.now, Post{kind: postProbe, probe: probeReply{tag: checkTag{1: byte(i), 9: 1, 10: byte(i >> 8)}}})
	}
	w.run(10 * time.Second)
	if got := results(t, p)["receiveSameAddressDifferentPortAllowed"]; got != false {
		t.Errorf("a guess has counted: %v", got)
	}
}

func FuzzParseProbeReply(f *testing.F) {
	id, err := flash.NewIdentity(flash.IdentityConfig{Random: zeros{}, Ephemeral: true})
	if err != nil {
		f.Fatal(err)
	}
	cipher := id.DefaultCipher()
	f.Add([]byte{})
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := ParseProbeReply(cipher, 4, CheckDifferentPort, ap("192.0.2.1:1"), b); ok && (p.Shard < 0 || p.Shard > 3) {
			t.Errorf("shard %d", p.Shard)
		}
	})
}

package rendezvous

import (
	"testing"
	"time"

	"github.com/stilenet/stile/rtmfp/flash"
)

func TestTwoClientsBehindNATsAreIntroducedAndMeet(t *testing.T) {
	for _, shards := range []int{1, 3} {
		for _, encoding := range []flash.ObjectEncoding{flash.AMF0, flash.AMF3} {
			w := newWorld(t, setup{shards: shards})
			a, b := w.client("192.168.1.2:5000", "203.0.113.1"), w.client("192.168.1.3:5001", "203.0.113.2")
			if code := a.connect("any-key", encoding, "192.168.1.2:5000"); code != flash.NetConnectionConnectSuccess {
				t.Fatal(code)
			}
			if code := b.connect("other", encoding, "192.168.1.3:5001"); code != flash.NetConnectionConnectSuccess {
				t.Fatal(code)
			}
			s, at := a.meet(b, 5*time.Second)
			if s == nil || at.Addr() != b.nat.outside {
				t.Fatalf("%d shards: session %v at %v", shards, s, at)
			}
			if got := s.FarIdentity(); got != string(b.id.PeerID().EPD()) {
				t.Error("somebody else answered")
			}
		}
	}
}

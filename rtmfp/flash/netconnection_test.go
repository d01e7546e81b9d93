package flash_test

import (
	"testing"
	"time"

	"github.com/stilenet/stile/rtmfp/flash"
)

func TestAStreamGoesFromPeerToPeer(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		alice := l.player("alice", l.n.Internet(), "203.0.113.1", nil)
		bob := l.player("bob", l.n.Internet(), "203.0.113.2", nil)
		alice.connect()
		bob.connect()
		if !alice.nc.Connected() || alice.nc.NearID() == bob.nc.NearID() || alice.nc.FarID() != bob.nc.FarID() {
			t.Fatal("identities")
		}
		pub := alice.publish("cam")
		v := bob.play(alice.nc.NearID(), "cam")
		wait(t, "Play.Start", 2*time.Second, func() bool { return v.has(flash.NetStreamPlayStart) })
		for i := range 50 {
			if err := pub.SendMessage(flash.Message{Type: flash.MessageAudio, Timestamp: uint32(i * 20), Payload: []byte{0xb2, byte(i)}}); err != nil {
				t.Fatal(err)
			}
			if err := pub.SendMessage(flash.Message{Type: flash.MessageVideo, Timestamp: uint32(i * 20), Payload: []byte{0x22, byte(i)}}); err != nil {
				t.Fatal(err)
			}
			if err := pub.Send("hello", "world", i); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		wait(t, "all messages", 2*time.Second, func() bool {
			return v.count(flash.MessageAudio) == 50 && v.count(flash.MessageVideo) == 50 && v.count(flash.MessageDataAMF0) == 51
		})
		peers := pub.PeerStreams()
		if len(peers) != 1 || peers[0].FarID() != bob.nc.NearID() || string(peers[0].NearNonce()) != string(v.ns.FarNonce()) || len(v.ns.NearNonce()) != 32 {
			t.Errorf("peer streams %v", peers)
		}
		if err := pub.Close(); err != nil {
			t.Fatal(err)
		}
		bob.waitCode(flash.NetStreamConnectClosed, 2*time.Second)
		alice.waitCode(flash.NetStreamConnectClosed, 2*time.Second)
		if !v.has(flash.NetStreamPlayUnpublishNotify) || !contains(bob.codes(), flash.NetConnectionConnectSuccess, flash.NetStreamConnectSuccess) {
			t.Errorf("%v, %v", v.statuses, bob.codes())
		}
	})
}

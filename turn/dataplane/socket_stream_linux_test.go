package dataplane

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn"
)

// wantEOF checks that the server ends the connection.
func wantEOF(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := c.Read(make([]byte, 10)); n > 0 || err == nil {
		t.Fatalf("got %d bytes and %v, want the end", n, err)
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Fatal("the connection is open")
	}
}

func TestStreamMessagesAreCutAnywhere(t *testing.T) {
	s := startSocket(t, socketConfig(t))
	peer, to := peerOn(t, loopback)
	c := dial(t, "tcp", s.address(1))
	allocate(t, c)
	bindChannel(t, c, 0x4001, to)
	msgs := append(channelData(0x4001, []byte("seven!!"), true), sendIndication(to, []byte("six!!!"))...)
	msgs = append(msgs, channelData(0x4001, nil, true)...)
	for cut := 1; cut < len(msgs); cut += 3 {
		write(t, c, msgs[:cut])
		ask(t, dial(t, "udp", s.address(0)), request(stun.Binding, stun.Request, 1, nil)) // time for the shard to read the first part
		write(t, c, msgs[cut:])
		for _, want := range []string{"seven!!", "six!!!", ""} {
			if got, _ := readPeer(t, peer); string(got) != want {
				t.Fatalf("cut at %d: the peer got %q, want %q", cut, got, want)
			}
		}
	}
}

func TestStreamMessagesInOneReadDoNotDisturbEachOther(t *testing.T) {
	s := startSocket(t, socketConfig(t))
	a, b := dial(t, "tcp", s.address(1)), dial(t, "tcp", s.address(1))
	atA, atB := allocate(t, a), allocate(t, b)
	peer, to := peerOn(t, loopback)
	bindChannel(t, a, 0x4001, to)
	bindChannel(t, a, 0x4002, atB)
	write(t, b, sendIndication(to, []byte("opens b for this host"))) // b gets Data, whose header is longer than ChannelData's
	readPeer(t, peer)
	var msgs []byte
	for i := range 20 {
		msgs = append(msgs, channelData(0x4001, bytes.Repeat([]byte{byte(i)}, 40), true)...)
		msgs = append(msgs, channelData(0x4002, bytes.Repeat([]byte{byte(100 + i)}, 40), true)...)
	}
	write(t, a, msgs)
	for i := range 20 {
		if got, _ := readPeer(t, peer); !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, 40)) {
			t.Fatalf("message %d became %x", i, got)
		}
		wantData(t, b, atA, bytes.Repeat([]byte{byte(100 + i)}, 40))
	}
}

func TestBrokenStreamIsClosedAndCounted(t *testing.T) {
	s := startSocket(t, socketConfig(t))
	for name, garbage := range map[string]string{"no cookie": "\x00\x01\x00\x00abcd", "no channel": "\xFF\xFF\x00\x04abcd", "odd length": "\x00\x01\x00\x03\x21\x12\xA4\x42"} {
		t.Run(name, func(t *testing.T) {
			before := s.stats(t).StreamsBroken
			c := dial(t, "tcp", s.address(1))
			allocate(t, c)
			write(t, c, []byte(garbage))
			wantEOF(t, c)
			if st := s.stats(t); st.StreamsBroken != before+1 || st.Streams != 0 || st.Allocations != 0 {
				t.Errorf("broken %d after %d, %d streams, %d allocations", st.StreamsBroken, before, st.Streams, st.Allocations)
			}
		})
	}
}

func TestStreamsAreBounded(t *testing.T) {
	cfg := socketConfig(t)
	cfg.Shards = 2
	cfg.Streams, cfg.StreamsPerClient = 5, 3
	s := startSocket(t, cfg)
	from := func(ip string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		c, err := d.Dial("tcp", s.address(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	lives := func(c net.Conn) { ask(t, c, request(stun.Binding, stun.Request, 1, nil)) }
	first := from("127.0.0.5")
	lives(first)
	lives(from("127.0.0.5"))
	lives(from("127.0.0.5"))
	wantEOF(t, from("127.0.0.5"))
	lives(from("127.0.0.6"))
	lives(from("127.0.0.6"))
	wantEOF(t, from("127.0.0.7"))
	if st := s.stats(t); st.Streams != 5 || st.StreamsRefused != 2 {
		t.Errorf("%d streams, %d refused", st.Streams, st.StreamsRefused)
	}
	first.Close()
	eventually(t, "a place is free", func() bool { return s.stats(t).Streams == 4 })
	lives(from("127.0.0.7"))
}

func TestEndOfTheStreamIsTheEndOfTheAllocation(t *testing.T) {
	s := startSocket(t, socketConfig(t))
	c := dial(t, "tcp", s.address(1))
	relayBothWays(t, c, loopback, 100)
	c.Close()
	eventually(t, "the allocation ends", func() bool { return s.stats(t).Allocations == 0 })
	if st := s.stats(t); st.Ended[turn.EndStream] != 1 || st.Streams != 0 {
		t.Errorf("ended %v, %d streams", st.Ended, st.Streams)
	}
}

func TestKilledStreamIsClosed(t *testing.T) {
	s := startSocket(t, socketConfig(t))
	c := dial(t, "tcp", s.address(1))
	relayBothWays(t, c, loopback, 100)
	list, err := s.Sessions(context.Background())
	if err != nil || len(list) != 1 {
		t.Fatalf("%d sessions, %v", len(list), err)
	}
	if found, err := s.Kill(context.Background(), list[0].ID); !found || err != nil {
		t.Fatalf("Kill: %v, %v", found, err)
	}
	wantEOF(t, c)
}

func TestRefusalIsWrittenBeforeTheStreamIsClosed(t *testing.T) {
	cfg := socketConfig(t)
	rules := *cfg.Rules
	rules.ModernWithoutCredentials = false
	cfg.Rules = &rules
	s := startSocket(t, cfg)
	c := dial(t, "tcp", s.address(1))
	allocate(t, c)
	m := ask(t, c, request(stun.CreatePermission, stun.Request, 4, func(b *stun.Builder) {
		b.XORAddress(stun.AttrXORPeerAddress, addrPort(c.LocalAddr()))
	}))
	if code, _, ok := m.ErrorCode(); !ok || code != stun.CodeForbidden {
		t.Errorf("CreatePermission: %x", m.Raw())
	}
	wantEOF(t, c)
}

func TestStreamWithoutAllocationEnds(t *testing.T) {
	s := startSocket(t, socketConfig(t))
	idle, slow, used := dial(t, "tcp", s.address(1)), dial(t, "tcp", s.address(1)), dial(t, "tcp", s.address(1))
	write(t, slow, []byte{0, 3})
	allocate(t, used)
	eventually(t, "all are accepted", func() bool { return s.stats(t).Streams == 3 })
	age := func() {
		s.on(t, 0, func(x *shard) {
			for _, st := range x.streams.all {
				st.since = st.since.Add(-streamIdle)
			}
		})
	}
	age()
	wantEOF(t, idle)
	wantEOF(t, slow)
	time.Sleep(1100 * time.Millisecond) // a tick, which sees the allocation
	if m := ask(t, used, request(stun.Refresh, stun.Request, 4, func(b *stun.Builder) { b.Uint32(stun.AttrLifetime, 0) })); m.Class() != stun.Success {
		t.Fatalf("Refresh: %x", m.Raw())
	}
	age()
	wantEOF(t, used)
}

func TestSlowStreamLosesWholeDatagrams(t *testing.T) {
	s := startSocket(t, socketConfig(t))
	c := dial(t, "tcp", s.address(1))
	_ = c.(*net.TCPConn).SetReadBuffer(128 << 10)
	relayed := allocate(t, c)
	peer, to := peerOn(t, loopback)
	bindChannel(t, c, 0x4001, to)
	data := make([]byte, 30000)
	sent := 0
	for s.stats(t).StreamDrops < 5 { // which waits for the shard, so that none is lost before it
		data[0], data[1] = byte(sent>>8), byte(sent)
		sent++
		if _, err := peer.WriteToUDPAddrPort(data, relayed); err != nil {
			t.Fatal(err)
		}
		if sent > 10000 {
			t.Fatal("nothing is ever dropped")
		}
	}
	// Another client is served meanwhile, and this one gets the rest when it reads.
	relayBothWays(t, dial(t, "udp", s.address(0)), loopback, 100)
	drops := int(s.stats(t).StreamDrops)
	last := -1
	for got := 0; got < sent-drops; got++ {
		n, b, ok := turn.ChannelData(receive(t, c))
		if !ok || n != 0x4001 || len(b) != len(data) {
			t.Fatalf("message %d: channel %#x with %d bytes", got, n, len(b))
		}
		if i := int(b[0])<<8 | int(b[1]); i <= last {
			t.Fatalf("message %d came after %d", i, last)
		} else {
			last = i
		}
	}
	bindChannel(t, c, 0x4001, to) // and nothing is in between
}

func TestAcceptWaitsForDescriptors(t *testing.T) {
	s := startSocket(t, socketConfig(t))
	c := dial(t, "tcp", s.address(1))
	ask(t, c, request(stun.Binding, stun.Request, 1, nil))
	s.on(t, 0, func(x *shard) { // as accept does when it gets EMFILE
		l := x.listeners[1]
		if err := x.poll.change(l.fd, 0, x.listenerTag(l)); err != nil {
			t.Error(err)
		}
		l.paused, x.streams.paused = true, true
	})
	late := dial(t, "tcp", s.address(1))
	ask(t, late, request(stun.Binding, stun.Request, 1, nil))
}

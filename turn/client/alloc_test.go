package client

import (
	"net"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

// wire is a transport for counting: what is written is dropped, and what is received is said by the test.
type wire struct {
	in   chan []byte
	sent chan stun.Message
}

func (w *wire) receive() ([]byte, error) {
	b, ok := <-w.in
	if !ok {
		return nil, net.ErrClosed
	}
	return b, nil
}

func (w *wire) control(b []byte) error {
	if m, err := stun.Parse(b); err == nil && m.Class() == stun.Request {
		w.sent <- m
	}
	return nil
}

func (w *wire) data([]byte, <-chan struct{}, <-chan struct{}) error { return nil }
func (w *wire) foreign() uint64                                     { return 0 }
func (w *wire) local() net.Addr                                     { return nil }
func (w *wire) close() error                                        { close(w.in); return nil }

// wired is a Conn with an allocation, and with a channel to alice if asked for.
func wired(t testing.TB, channel bool) (*Conn, *wire) {
	t.Helper()
	w := &wire{in: make(chan []byte), sent: make(chan stun.Message, 16)}
	p := params{dialect: Legacy, channelAfter: -1}
	if channel {
		p.channelAfter = 1
	}
	c, err := newCore(p, &fakeSeed{})
	if err != nil {
		t.Fatal(err)
	}
	conn := newConn(w, c, nil, nil)
	go func() { w.in <- answer(<-w.sent, stun.Success, allocation(600)) }()
	if err := conn.allocate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if channel {
		if _, err := conn.WriteTo(nil, net.UDPAddrFromAddrPort(alice)); err != nil {
			t.Fatal(err)
		}
		w.in <- answer(<-w.sent, stun.Success, nothing)
	}
	t.Cleanup(conn.abort)
	return conn, w
}

// round is a WriteTo and a ReadFrom.
func round(t testing.TB, channel bool) func() {
	conn, w := wired(t, channel)
	b, msg, peer := make([]byte, 2048), make([]byte, 172), net.UDPAddrFromAddrPort(alice)
	in := dataFrom(alice, msg)
	if channel {
		in = appendChannelData(nil, firstChannel, msg, false)
	}
	return func() {
		if _, err := conn.WriteTo(msg, peer); err != nil {
			t.Fatal(err)
		}
		w.in <- in
		if n, from, err := conn.ReadFrom(b); err != nil || n != len(msg) || from.(*net.UDPAddr).Port != peer.Port {
			t.Fatalf("%d bytes from %v, %v", n, from, err)
		}
	}
}

func TestEstablishedPeersCostNoAllocation(t *testing.T) {
	for name, channel := range map[string]bool{"channel": true, "indications": false} {
		f := round(t, channel)
		for range 2 * queueDatagrams {
			f() // every slot of the queue gets its buffer
		}
		// The race detector has sync.Pool lose buffers at random, so that only its own build counts.
		if got := testing.AllocsPerRun(1000, f); got > allocationsAllowed {
			t.Errorf("%s: %v allocations for a WriteTo and a ReadFrom", name, got)
		}
	}
}

func BenchmarkChannel(b *testing.B)     { benchmark(b, true) }
func BenchmarkIndications(b *testing.B) { benchmark(b, false) }

func benchmark(b *testing.B, channel bool) {
	f := round(b, channel)
	for range 2 * queueDatagrams {
		f()
	}
	b.ReportAllocs()
	for b.Loop() {
		f()
	}
}

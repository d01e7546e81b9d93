package dataplane

import (
	"context"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn"
)

// bench is one server with clients, each with an allocation, a peer and a channel. Its sockets do not block and its
// messages are made beforehand, so that what a benchmark counts is the server's.
type bench struct {
	server  *Server
	clients []int // connected to the server
	peers   []int // connected to the relayed port
	buf     []byte

	held, release chan struct{}
}

// hold keeps the shard until it is released.
func (b *bench) hold(time.Time, *turn.Core) {
	b.held <- struct{}{}
	<-b.release
}

const benchChannel = 0x4001

func newBench(tb testing.TB, clients int, wildcard bool) *bench {
	tb.Helper()
	cfg := socketConfig(tb)
	s := startSocket(tb, cfg)
	to := cfg.Listeners[0]
	to.Address = s.cfg.Listeners[0].Address
	if wildcard {
		to.Address = netip.AddrPortFrom(loopback, s.cfg.Listeners[3].Address.Port())
	}
	b := &bench{server: s, buf: make([]byte, 70000), held: make(chan struct{}), release: make(chan struct{})}
	for range clients {
		peer := benchSocket(tb)
		client := benchSocket(tb)
		b.connect(tb, client, to.Address)
		m := b.ask(tb, client, request(stun.Allocate, stun.Request, 1, func(x *stun.Builder) {
			x.Attr(stun.AttrRequestedTransport, []byte{17, 0, 0, 0})
		}))
		relayed, ok := m.GetXORAddress(stun.AttrXORRelayedAddress)
		if !ok {
			tb.Fatalf("Allocate: %x", m.Raw())
		}
		b.connect(tb, peer, relayed)
		at, err := localAddress(peer)
		if err != nil {
			tb.Fatal(err)
		}
		m = b.ask(tb, client, request(stun.ChannelBind, stun.Request, 2, func(x *stun.Builder) {
			x.Attr(stun.AttrChannelNumber, []byte{benchChannel >> 8, benchChannel & 0xFF, 0, 0})
			x.XORAddress(stun.AttrXORPeerAddress, at)
		}))
		if m.Class() != stun.Success {
			tb.Fatalf("ChannelBind: %x", m.Raw())
		}
		b.clients, b.peers = append(b.clients, client), append(b.peers, peer)
	}
	return b
}

func benchSocket(tb testing.TB) int {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	if err := bind(fd, netip.AddrPortFrom(loopback, 0), false); err != nil {
		tb.Fatal(err)
	}
	return fd
}

func (b *bench) connect(tb testing.TB, fd int, to netip.AddrPort) {
	tb.Helper()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		tb.Fatal(err)
	}
}

func (b *bench) ask(tb testing.TB, fd int, msg []byte) stun.Message {
	tb.Helper()
	if _, err := unix.Write(fd, msg); err != nil {
		tb.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		n, err := unix.Read(fd, b.buf)
		if err == nil {
			m, err := stun.Parse(append([]byte(nil), b.buf[:n]...))
			if err != nil {
				tb.Fatal(err)
			}
			return m
		}
		if time.Now().After(deadline) {
			tb.Fatal("no answer")
		}
		runtime.Gosched()
	}
}

// messages makes what each sender sends.
func (b *bench) messages(tb testing.TB, up, channel bool, size int) (from, to []int, msgs [][]byte) {
	tb.Helper()
	data := make([]byte, size)
	for i := range b.clients {
		switch {
		case !up:
			msgs = append(msgs, data)
		case channel:
			msgs = append(msgs, channelData(benchChannel, data, false))
		default:
			at, err := localAddress(b.peers[i])
			if err != nil {
				tb.Fatal(err)
			}
			msgs = append(msgs, sendIndication(at, data))
		}
	}
	if up {
		return b.clients, b.peers, msgs
	}
	return b.peers, b.clients, msgs
}

// unbind ends the channels' use: data comes as indications after their lifetime only, so the peers take other ports.
func (b *bench) unbind(tb testing.TB) {
	tb.Helper()
	for i, old := range b.peers {
		fd := benchSocket(tb)
		a, err := unix.Getpeername(old)
		if err != nil {
			tb.Fatal(err)
		}
		b.connect(tb, fd, fromSockaddr(a))
		b.peers[i] = fd
	}
}

// cpu is what the shard's thread has used so far.
func (b *bench) cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u unix.Rusage
	err := b.server.Do(context.Background(), func(time.Time, int, *turn.Core) { _ = unix.Getrusage(unix.RUSAGE_THREAD, &u) })
	if err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// burst sends count messages of each sender while the shard is held, as they wait for one that is fully loaded, and takes
// what arrives.
func (b *bench) burst(tb testing.TB, from, to []int, msgs [][]byte, count int) {
	c := &call{f: b.hold, done: make(chan struct{})}
	if err := b.server.engine.(*threadEngine).all[0].box.ask(c); err != nil {
		tb.Fatal(err)
	}
	<-b.held
	for range count {
		for i, fd := range from {
			if _, err := unix.Write(fd, msgs[i]); err != nil {
				tb.Fatal(err)
			}
		}
	}
	b.release <- struct{}{}
	b.take(tb, to, count)
}

// take reads count datagrams from each socket.
func (b *bench) take(tb testing.TB, to []int, count int) {
	deadline := time.Now().Add(5 * time.Second)
	for _, fd := range to {
		for got := 0; got < count; {
			_, err := unix.Read(fd, b.buf)
			switch {
			case err == nil:
				got++
			case err != unix.EAGAIN:
				tb.Fatal(err)
			case time.Now().After(deadline):
				tb.Fatalf("%d of %d datagrams arrived", got, count)
			default:
				time.Sleep(20 * time.Microsecond)
			}
		}
	}
}

// BenchmarkRelay measures one shard under full load. cpu-ns/packet is the time of its thread, system calls and the
// delivery on loopback included.
func BenchmarkRelay(b *testing.B) {
	const clients = 100
	for _, wildcard := range []bool{false, true} {
		for _, mode := range []string{"channel", "indication"} {
			for _, direction := range []string{"up", "down"} {
				for _, size := range []int{172, 1200} {
					for _, count := range []int{1, 4} {
						name := mode + "/" + direction + "/" + strconv.Itoa(size) + "/burst=" + strconv.Itoa(count)
						if wildcard {
							name = "wildcard/" + name
						}
						b.Run(name, func(b *testing.B) {
							x := newBench(b, clients, wildcard)
							if mode == "indication" {
								x.unbind(b)
							}
							from, to, msgs := x.messages(b, direction == "up", mode == "channel", size)
							x.burst(b, from, to, msgs, count)
							b.ReportAllocs()
							before := x.cpu(b)
							packets := 0
							b.ResetTimer()
							for packets < b.N { // an operation is a packet
								x.burst(b, from, to, msgs, count)
								packets += count * clients
							}
							b.ReportMetric(float64(x.cpu(b)-before)/float64(packets), "cpu-ns/packet")
						})
					}
				}
			}
		}
	}
}

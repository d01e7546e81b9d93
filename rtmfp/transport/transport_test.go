package transport_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/rtmfp/transport"
)

func identity(t testing.TB, server bool) *flash.Identity {
	t.Helper()
	id, err := flash.NewIdentity(flash.IdentityConfig{Random: rand.Reader, Server: server, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// end is a Transport with what its sessions have seen. What is not atomic is read on its goroutine or after Serve.
type end struct {
	*transport.Transport
	cancel   context.CancelFunc
	ended    chan error
	session  *rtmfp.Session
	messages atomic.Int64
	opened   atomic.Int64
	closed   atomic.Int64
	complete atomic.Int64
	moved    atomic.Int64
	reason   rtmfp.Reason
	lost     []int
}

// echo answers every message on a return flow.
func (x *end) echo(now time.Time, _ *rtmfp.Endpoint, ev rtmfp.Event) {
	switch ev.Kind {
	case rtmfp.EventFlowOpen:
		f, err := ev.Session.OpenFlow(now, rtmfp.FlowConfig{Metadata: []byte("echo"), Association: ev.Receive})
		if err == nil {
			ev.Receive.User = f
		}
	case rtmfp.EventMessage:
		if f, ok := ev.Receive.User.(*rtmfp.SendFlow); ok {
			_, _ = f.Write(now, ev.Data, rtmfp.WriteOptions{})
		}
	}
	x.count(ev)
}

func (x *end) count(ev rtmfp.Event) {
	switch ev.Kind {
	case rtmfp.EventSessionOpen:
		x.session = ev.Session
		x.opened.Add(1)
	case rtmfp.EventSessionClosing:
		x.reason = ev.Reason
		x.closed.Add(1)
	case rtmfp.EventMessage:
		x.messages.Add(1)
	case rtmfp.EventFlowComplete:
		x.complete.Add(1)
	case rtmfp.EventAddressChanged:
		x.moved.Add(1)
	}
}

func start(t *testing.T, id *flash.Identity, echo bool, interfaces ...transport.Interface) *end {
	t.Helper()
	x := &end{ended: make(chan error, 1)}
	cfg := transport.Config{
		Endpoint: rtmfp.Config{Identity: id, Random: rand.Reader, Keepalive: 5 * time.Second}, Interfaces: interfaces,
		Handle:        func(now time.Time, _ *rtmfp.Endpoint, ev rtmfp.Event) { x.count(ev) },
		InterfaceLost: func(index int, err error) { x.lost = append(x.lost, index) },
	}
	if echo {
		cfg.Handle = x.echo
	}
	tr, err := transport.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, x.cancel = context.WithCancel(context.Background())
	x.Transport = tr
	go func() { x.ended <- tr.Serve(ctx) }()
	return x
}

func (x *end) stop(t *testing.T) {
	t.Helper()
	x.cancel()
	if err := <-x.ended; err != nil {
		t.Error(err)
	}
}

func (x *end) do(t *testing.T, f func(now time.Time, e *rtmfp.Endpoint)) {
	t.Helper()
	if err := x.Do(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

func (x *end) connect(t *testing.T, to string) {
	t.Helper()
	x.do(t, func(now time.Time, e *rtmfp.Endpoint) {
		_, err := e.Open(now, flash.ServerEPD("rtmfp://server/app"), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: netip.MustParseAddrPort(to)})
		if err != nil {
			t.Error(err)
		}
	})
}

func (x *end) write(t *testing.T, count int) {
	t.Helper()
	x.do(t, func(now time.Time, e *rtmfp.Endpoint) {
		f, err := x.session.OpenFlow(now, rtmfp.FlowConfig{Metadata: []byte("test")})
		if err != nil {
			t.Error(err)
			return
		}
		for n := range count {
			if _, err := f.Write(now, fmt.Appendf(make([]byte, 2000), "%d", n), rtmfp.WriteOptions{}); err != nil {
				t.Error(err)
			}
		}
	})
}

// until waits for what goroutines will do, in virtual or real time.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(what)
}

func listen(t *testing.T, h *natlab.Host, at string) net.PacketConn {
	t.Helper()
	c, err := h.ListenPacket(context.Background(), "udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A client behind a NAT on a lossy link connects, is answered, survives the restart of its router, and says when it leaves.
func TestSessionInTheLaboratory(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			natlab.Run(t, seed, func(t *testing.T, n *natlab.Net) {
				host := n.Internet().Host("server", "198.51.100.1")
				router := n.Internet().Box("router", natlab.BoxConfig{
					Outside: []string{"203.0.113.7"}, NAT: &natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.APDF, Ports: natlab.PortConfig{Order: natlab.Random}},
				})
				router.Outside().Set(natlab.LinkConfig{Delay: 20 * time.Millisecond, Loss: 0.1})
				alice := router.Inside().Host("alice", "192.168.1.2")
				server := start(t, identity(t, true), true, transport.Interface{Conn: listen(t, host, ":1935")})
				client := start(t, identity(t, false), false, transport.Interface{Conn: listen(t, alice, ":0")})
				client.connect(t, "198.51.100.1:1935")
				until(t, "no session", func() bool { return client.opened.Load() == 1 && server.opened.Load() == 1 })
				client.write(t, 20)
				until(t, "echoes are missing", func() bool { return client.messages.Load() == 20 })
				router.Reboot()
				client.write(t, 20)
				until(t, "echoes are missing after a restart of the router", func() bool { return client.messages.Load() == 40 })
				if server.moved.Load() == 0 {
					t.Error("the server did not follow the client")
				}
				client.stop(t)
				router.Outside().Set(natlab.LinkConfig{Delay: 20 * time.Millisecond})
				until(t, "the server was not told", func() bool { return server.closed.Load() == 1 })
				server.stop(t)
				if err := server.Post(func(time.Time, *rtmfp.Endpoint) {}); !errors.Is(err, transport.ErrClosed) {
					t.Error(err)
				}
				if err := server.Do(context.Background(), func(time.Time, *rtmfp.Endpoint) {}); !errors.Is(err, transport.ErrClosed) {
					t.Error(err)
				}
			})
		})
	}
}

// A client without a way out gets one later: a relay is another net.PacketConn.
func TestInterfaceThatComesAndGoes(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		host, relay := n.Internet().Host("server", "198.51.100.1"), n.Internet().Host("relay", "198.51.100.2")
		island := n.Internet().Box("router", natlab.BoxConfig{
			Outside: []string{"203.0.113.7"}, NAT: &natlab.NATConfig{Mapping: natlab.EIM, Filtering: natlab.APDF},
		})
		island.Outside().Set(natlab.LinkConfig{Loss: 1})
		alice := island.Inside().Host("alice", "192.168.1.2")
		server := start(t, identity(t, true), true, transport.Interface{Conn: listen(t, host, ":1935")})
		client := start(t, identity(t, false), false, transport.Interface{Conn: listen(t, alice, ":0")})
		client.connect(t, "198.51.100.1:1935")
		time.Sleep(5 * time.Second)
		index, err := client.AddInterface(context.Background(), transport.Interface{Conn: listen(t, relay, ":0")})
		if err != nil || index != 1 {
			t.Fatal(index, err)
		}
		until(t, "no session", func() bool { return client.opened.Load() == 1 })
		client.write(t, 3)
		until(t, "echoes are missing", func() bool { return client.messages.Load() == 3 })
		island.Outside().Set(natlab.LinkConfig{})
		if err := client.RemoveInterface(context.Background(), index); err != nil {
			t.Fatal(err)
		}
		client.write(t, 3)
		until(t, "echoes are missing", func() bool { return client.messages.Load() == 6 })
		// A socket that ends by itself is reported, and its place is used again.
		conn := listen(t, relay, ":0")
		if index, err = client.AddInterface(context.Background(), transport.Interface{Conn: conn}); err != nil || index != 1 {
			t.Fatal(index, err)
		}
		conn.Close()
		time.Sleep(time.Second)
		client.do(t, func(time.Time, *rtmfp.Endpoint) {
			if len(client.lost) != 1 || client.lost[0] != 1 {
				t.Errorf("lost %v", client.lost)
			}
		})
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := client.AddInterface(ctx, transport.Interface{Conn: listen(t, relay, ":0")}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		client.stop(t)
		server.stop(t)
		if client.reason != rtmfp.ReasonAbort {
			t.Error(client.reason)
		}
	})
}

// Sessions are divided among shards, and a client that moves to another port keeps its session, whichever shard its packets
// come to then.
func TestServerHandsPacketsToTheShardOfTheirSession(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	id := identity(t, true)
	const shards, clients = 4, 16
	ends := make([]*end, shards)
	for i := range ends {
		ends[i] = new(end)
	}
	server, err := transport.Listen(transport.ServerConfig{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Shards: shards,
		Endpoint: func(shard int) rtmfp.Config { return rtmfp.Config{Identity: id, Random: rand.Reader} },
		Handle: func(shard int, now time.Time, e *rtmfp.Endpoint, ev rtmfp.Event) {
			ends[shard].echo(now, e, ev)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx) }()
	socket := func() net.PacketConn {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var all []*end
	for range clients {
		c := start(t, identity(t, false), false, transport.Interface{Conn: socket()})
		c.connect(t, server.Addrs()[0].String())
		all = append(all, c)
	}
	for _, c := range all {
		until(t, "no session", func() bool { return c.opened.Load() == 1 })
		c.write(t, 3)
		until(t, "echoes are missing", func() bool { return c.messages.Load() == 3 })
	}
	for _, c := range all {
		if _, err := c.AddInterface(ctx, transport.Interface{Conn: socket()}); err != nil {
			t.Fatal(err)
		}
		if err := c.RemoveInterface(ctx, 0); err != nil {
			t.Fatal(err)
		}
		c.write(t, 3)
		until(t, "echoes are missing after a move", func() bool { return c.messages.Load() == 6 })
	}
	var sum transport.Stats
	moved, opened, used := int64(0), int64(0), 0
	for n, s := range server.Shards() {
		st := s.Stats()
		sum.Read += st.Read
		sum.HandedOver += st.HandedOver
		sum.TakenOver += st.TakenOver
		moved += ends[n].moved.Load()
		opened += ends[n].opened.Load()
		if ends[n].opened.Load() > 0 {
			used++
		}
	}
	if opened != clients || moved != clients {
		t.Errorf("%d sessions, %d moved", opened, moved)
	}
	if n := len(server.Shards()); n > 1 && (used < 2 || sum.HandedOver == 0 || sum.HandedOver != sum.TakenOver) {
		t.Errorf("%d shards used, %d packets handed over, %d taken", used, sum.HandedOver, sum.TakenOver)
	}
	for _, c := range all {
		c.stop(t)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	var received uint64
	for _, s := range server.Shards() {
		st := s.Stats()
		received += st.Read - st.HandedOver - st.Limited - st.Long + st.TakenOver - st.Dropped
	}
	if received == 0 {
		t.Error("nothing received")
	}
}

func TestPortOfAnotherProcessIsNotShared(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	id := identity(t, true)
	_, err = transport.Listen(transport.ServerConfig{
		Listen: []netip.AddrPort{c.LocalAddr().(*net.UDPAddr).AddrPort()}, Shards: 2,
		Endpoint: func(int) rtmfp.Config { return rtmfp.Config{Identity: id, Random: rand.Reader} },
		Handle:   func(int, time.Time, *rtmfp.Endpoint, rtmfp.Event) {},
	})
	if err == nil {
		t.Error("no error")
	}
}

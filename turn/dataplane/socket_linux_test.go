package dataplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn"
)

var loopback6 = netip.IPv6Loopback()

// socketConfig is a laboratory on loopback, IPv4 and IPv6.
func socketConfig(t testing.TB) Config {
	t.Helper()
	relays := []turn.RelayAddress{{Public: loopback, Local: loopback}, {Public: loopback6, Local: loopback6}}
	ports := turn.PortRange{First: 20000, Last: 29999} // where the system does not put the sockets of peers: those would be taken for relayed ports
	policy, err := turn.NewPolicy(turn.PolicyConfig{Profile: turn.ProfileLab, Relays: relays, RelayPorts: ports})
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Engine: engineOfTests(t),
		Listeners: []Listener{
			{Network: "udp", Address: netip.AddrPortFrom(loopback, 0)},
			{Network: "tcp", Address: netip.AddrPortFrom(loopback, 0)},
			{Network: "udp", Address: netip.AddrPortFrom(loopback6, 0)},
			{Network: "udp", Address: netip.AddrPortFrom(netip.IPv6Unspecified(), 0)},
		},
		Relays: relays, Ports: ports, Shards: 1,
		Rules: &turn.Rules{Policy: policy, Limits: turn.Limits{}, ModernWithoutCredentials: true},
	}
}

// engineVariable names the engine that tests are to drive which do not say so themselves: socket without it. A test with the tag e2e sets it.
const engineVariable = "STILE_TEST_ENGINE"

func engineOfTests(t testing.TB) Kind {
	name := os.Getenv(engineVariable)
	if name == "" {
		return Socket
	}
	kind, err := ParseKind(name)
	if err != nil {
		t.Fatal(err)
	}
	return kind
}

// startSocket serves until the test ends, and checks that neither a goroutine nor a descriptor is left then.
func startSocket(t testing.TB, cfg Config) *Server { return startEngine(t, cfg) }

func startEngine(t testing.TB, cfg Config) *Server {
	t.Helper()
	leak := goleak.IgnoreCurrent()
	if c, err := net.ListenPacket("udp", "127.0.0.1:0"); err == nil { // brings the runtime's own epoll, which stays
		c.Close()
	}
	before := descriptors(t)
	s, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if kind, _, why := s.Engine(); kind != cfg.Engine {
		t.Fatalf("the engine is %v: %s", kind, why)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	if err := s.Do(context.Background(), func(time.Time, int, *turn.Core) {}); err != nil { // all shards run
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Serve:", err)
		}
		goleak.VerifyNone(t, leak)
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			after := descriptors(t)
			if len(after) <= len(before) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("descriptors left:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
			}
		}
	})
	return s
}

// descriptors lists what this process has open.
func descriptors(t testing.TB) []string {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		name, _ := os.Readlink("/proc/self/fd/" + e.Name())
		names = append(names, e.Name()+" "+name)
	}
	return names
}

func (s *Server) address(i int) string { return s.cfg.Listeners[i].Address.String() }

func (s *Server) shard(i int) *shard { return s.engine.(*threadEngine).all[i] }

// on runs f on the thread of a shard.
func (s *Server) on(t testing.TB, shard int, f func(*shard)) {
	t.Helper()
	if err := s.engine.do(context.Background(), shard, func(time.Time, *turn.Core) { f(s.shard(shard)) }); err != nil {
		t.Fatal(err)
	}
}

// hold keeps a shard from doing anything until it is released.
func (s *Server) hold(t testing.TB, shard int) (release func()) {
	t.Helper()
	held, wait := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- s.engine.do(context.Background(), shard, func(time.Time, *turn.Core) { close(held); <-wait })
	}()
	<-held
	return func() {
		close(wait)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func (s *Server) stats(t testing.TB) Stats {
	t.Helper()
	st, err := s.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for _, n := range st.Packets {
		sum += n
	}
	if sum != st.Read {
		t.Errorf("%d packets read, %d have a disposition", st.Read, sum)
	}
	return st
}

// eventually waits for what another thread does.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
	}
}

func dial(t testing.TB, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func peerOn(t testing.TB, a netip.Addr) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, addrPort(c.LocalAddr())
}

func sendIndication(peer netip.AddrPort, data []byte) []byte {
	return request(stun.Send, stun.Indication, 2, func(b *stun.Builder) {
		b.XORAddress(stun.AttrXORPeerAddress, peer)
		b.Attr(stun.AttrData, data)
	})
}

func bindChannel(t *testing.T, conn net.Conn, number uint16, peer netip.AddrPort) {
	t.Helper()
	m := ask(t, conn, request(stun.ChannelBind, stun.Request, 3, func(b *stun.Builder) {
		b.Attr(stun.AttrChannelNumber, []byte{byte(number >> 8), byte(number), 0, 0})
		b.XORAddress(stun.AttrXORPeerAddress, peer)
	}))
	if m.Class() != stun.Success {
		t.Fatalf("ChannelBind: %x", m.Raw())
	}
}

func channelData(number uint16, data []byte, stream bool) []byte {
	b := append([]byte{byte(number >> 8), byte(number), byte(len(data) >> 8), byte(len(data))}, data...)
	for stream && len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func write(t *testing.T, conn net.Conn, b []byte) {
	t.Helper()
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

func readPeer(t *testing.T, c *net.UDPConn) ([]byte, netip.AddrPort) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 70000)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// wantData checks that the client gets a Data indication.
func wantData(t *testing.T, conn net.Conn, from netip.AddrPort, data []byte) {
	t.Helper()
	m := next(t, conn)
	peer, _ := m.GetXORAddress(stun.AttrXORPeerAddress)
	got, _ := m.Get(stun.AttrData)
	if m.Type() != stun.NewType(stun.Data, stun.Indication) || peer != from || !bytes.Equal(got, data) {
		t.Fatalf("got type %v from %v with %d bytes, want Data from %v with %d", m.Type(), peer, len(got), from, len(data))
	}
}

// wantChannel checks that the client gets ChannelData.
func wantChannel(t *testing.T, conn net.Conn, number uint16, data []byte) {
	t.Helper()
	n, got, ok := turn.ChannelData(receive(t, conn))
	if !ok || n != number || !bytes.Equal(got, data) {
		t.Fatalf("got %v: channel %#x with %d bytes, want %#x with %d", ok, n, len(got), number, len(data))
	}
}

// relayBothWays sends indications, then ChannelData, to a peer and back.
func relayBothWays(t *testing.T, conn net.Conn, peerAddr netip.Addr, size int) {
	t.Helper()
	stream := conn.RemoteAddr().Network() == "tcp"
	relayed := allocate(t, conn)
	peer, to := peerOn(t, peerAddr)
	data := bytes.Repeat([]byte("stile"), size/5+1)[:size]
	write(t, conn, sendIndication(to, data))
	if got, from := readPeer(t, peer); !bytes.Equal(got, data) || from != relayed {
		t.Fatalf("the peer got %d bytes from %v, want %d from %v", len(got), from, len(data), relayed)
	}
	if _, err := peer.WriteToUDPAddrPort(data, relayed); err != nil {
		t.Fatal(err)
	}
	wantData(t, conn, to, data)
	bindChannel(t, conn, 0x4001, to)
	for i := range 3 {
		data := append([]byte{byte(i)}, data[:size-1]...)
		write(t, conn, channelData(0x4001, data, stream))
		if got, from := readPeer(t, peer); !bytes.Equal(got, data) || from != relayed {
			t.Fatalf("the peer got %d bytes from %v, want %d from %v", len(got), from, len(data), relayed)
		}
		if _, err := peer.WriteToUDPAddrPort(data, relayed); err != nil {
			t.Fatal(err)
		}
		wantChannel(t, conn, 0x4001, data)
	}
}

func TestSocketRelaysBothWays(t *testing.T) {
	for _, shards := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d shards", shards), func(t *testing.T) {
			cfg := socketConfig(t)
			cfg.Shards = shards
			s := startSocket(t, cfg)
			for _, c := range []struct {
				name, network, address string
				peer                   netip.Addr
				size                   int
			}{
				{"UDP over IPv4", "udp", s.address(0), loopback, 172},
				{"UDP over IPv6", "udp", s.address(2), loopback6, 173},
				{"TCP", "tcp", s.address(1), loopback, 171},
				{"wildcard, IPv4", "udp", netip.AddrPortFrom(loopback, s.cfg.Listeners[3].Address.Port()).String(), loopback, 1200},
				{"wildcard, another address", "udp", fmt.Sprintf("127.0.0.2:%d", s.cfg.Listeners[3].Address.Port()), loopback, 172},
				{"wildcard, IPv6", "udp", netip.AddrPortFrom(loopback6, s.cfg.Listeners[3].Address.Port()).String(), loopback6, 1200},
				{"large datagrams over UDP", "udp", s.address(0), loopback, 65400},
				{"large datagrams over TCP", "tcp", s.address(1), loopback, 65400},
				{"empty but for the number", "udp", s.address(0), loopback, 1},
			} {
				t.Run(c.name, func(t *testing.T) { relayBothWays(t, dial(t, c.network, c.address), c.peer, c.size) })
			}
		})
	}
}

// shardOf finds the shard of a client.
func (s *Server) shardOf(t *testing.T, client net.Conn) int {
	t.Helper()
	found := -1
	err := s.Do(context.Background(), func(now time.Time, shard int, c *turn.Core) {
		for _, x := range c.Sessions(now, nil) {
			if x.Client == addrPort(client.LocalAddr()) {
				found = shard
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestSocketDeliversBetweenItsOwnClients(t *testing.T) {
	cfg := socketConfig(t)
	cfg.Shards = 2
	s := startSocket(t, cfg)
	byShard := make(map[int][]net.Conn)
	relayed := make(map[net.Conn]netip.AddrPort)
	for len(byShard[0]) < 2 || len(byShard[1]) < 1 {
		c := dial(t, "udp", s.address(0))
		relayed[c] = allocate(t, c)
		shard := s.shardOf(t, c)
		byShard[shard] = append(byShard[shard], c)
	}
	for _, pair := range []struct {
		name string
		a, b net.Conn
	}{
		{"of one shard", byShard[0][0], byShard[0][1]},
		{"of two shards", byShard[0][0], byShard[1][0]},
	} {
		t.Run(pair.name, func(t *testing.T) {
			a, b := pair.a, pair.b
			write(t, b, request(stun.Send, stun.Indication, 8, func(x *stun.Builder) { // opens b for a
				x.XORAddress(stun.AttrXORPeerAddress, relayed[a])
			}))
			ask(t, b, request(stun.Binding, stun.Request, 9, nil))
			for i := range 3 {
				data := fmt.Appendf(nil, "from a to b, %d", i)
				write(t, a, sendIndication(relayed[b], data))
				wantData(t, b, relayed[a], data)
				write(t, b, sendIndication(relayed[a], data))
				wantData(t, a, relayed[b], data)
			}
			large := bytes.Repeat([]byte{7}, 60000)
			write(t, a, sendIndication(relayed[b], large))
			wantData(t, b, relayed[a], large)
		})
	}
	if st := s.stats(t); st.HairpinDrops != 0 || st.SendErrors != 0 {
		t.Errorf("drops: %d between shards, %d sent", st.HairpinDrops, st.SendErrors)
	}
}

func TestFullMailboxDropsTheNewest(t *testing.T) {
	m := &mailbox{}
	o := &turn.Output{Kind: turn.ToShard, Data: make([]byte, 100)}
	for i := range mailboxCount {
		if !m.post(o) {
			t.Fatalf("number %d was refused", i)
		}
	}
	if m.post(o) {
		t.Errorf("more than %d datagrams were taken", mailboxCount)
	}
	full, _ := m.take(letters{})
	if len(full.mail) != mailboxCount || !m.post(o) {
		t.Errorf("took %d; the next one must fit", len(full.mail))
	}
	empty, _ := m.take(full)
	o.Data = make([]byte, 65535)
	n := 0
	for m.post(o) {
		n++
	}
	if want := mailboxBytes / (65535 + turn.Headroom + turn.Tailroom); n != want || len(empty.mail) != 1 {
		t.Errorf("%d of the largest datagrams fit, want %d", n, want)
	}
}

func TestSocketWildcardSeesTheInterface(t *testing.T) {
	s := startSocket(t, socketConfig(t))
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range s.cfg.Listeners {
		if l.Network != "udp" {
			continue
		}
		a := l.Address
		if a.Addr().IsUnspecified() {
			a = netip.AddrPortFrom(loopback, a.Port())
		}
		c := dial(t, "udp", a.String())
		ask(t, c, request(stun.Binding, stun.Request, 1, nil))
		s.on(t, 0, func(x *shard) {
			want := turn.Source{Client: addrPort(c.LocalAddr()), Server: a, Listener: uint16(i), Interface: lo.Index}
			if x.src != want {
				t.Errorf("%v: source %+v, want %+v", l, x.src, want)
			}
		})
	}
}

func TestPortInUseStopsTheStart(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		for _, shards := range []int{1, 2} {
			cfg := socketConfig(t)
			cfg.Shards = shards
			s := startSocket(t, cfg)
			for _, l := range s.cfg.Listeners {
				if l.Network == network {
					cfg.Listeners = []Listener{l}
					break
				}
			}
			before := descriptors(t)
			_, err := Open(context.Background(), cfg)
			if err == nil || !strings.Contains(err.Error(), "turn.listen: "+network+"://127.0.0.1:") || !strings.Contains(err.Error(), "another program has the port") {
				t.Errorf("%s, %d shards: got %v", network, shards, err)
			}
			if after := descriptors(t); len(after) != len(before) {
				t.Errorf("%s, %d shards: the failed start left descriptors", network, shards)
			}
		}
	}
}

func TestRelayedPortsAreClosedAndOpenedAgain(t *testing.T) {
	s := startSocket(t, socketConfig(t))
	before := len(descriptors(t))
	peer, to := peerOn(t, loopback)
	for i := range 50 {
		c := dial(t, "udp", s.address(0))
		// IDs of their own: an earlier client may have had the same port, and a retransmission would get its answer.
		message := func(m stun.Method, id byte, lifetime uint32) []byte {
			b := stun.Begin(nil, stun.NewType(m, stun.Request), stun.TransactionID{id, byte(i)})
			b.Uint32(stun.AttrLifetime, lifetime)
			return b.Bytes()
		}
		relayed, _ := ask(t, c, message(stun.Allocate, 1, 600)).GetXORAddress(stun.AttrXORRelayedAddress)
		// The peer's datagram, the client's and the release are there before the shard takes any of them.
		release := s.hold(t, 0)
		data := fmt.Appendf(nil, "the last words of %d", i)
		write(t, c, sendIndication(to, data))
		write(t, c, message(stun.Refresh, 2, 0))
		write(t, c, message(stun.Allocate, 3, 600))
		if _, err := peer.WriteToUDPAddrPort(data, relayed); err != nil {
			t.Fatal(err)
		}
		release()
		if got, from := readPeer(t, peer); !bytes.Equal(got, data) || from != relayed {
			t.Fatalf("the peer got %q from %v, want %q from %v", got, from, data, relayed)
		}
		if m := next(t, c); m.Type() != stun.NewType(stun.Refresh, stun.Success) {
			t.Fatalf("Refresh: %x", m.Raw())
		}
		if m := next(t, c); m.Type() != stun.NewType(stun.Allocate, stun.Success) {
			t.Fatalf("Allocate again: %x", m.Raw())
		}
		if m := ask(t, c, message(stun.Refresh, 4, 0)); m.Class() != stun.Success {
			t.Fatalf("Refresh again: %x", m.Raw())
		}
		c.Close()
	}
	if after := len(descriptors(t)); after != before+1 {
		t.Errorf("%d descriptors before, %d after and one is the peer", before, after)
	}
	if st := s.stats(t); st.Allocations != 0 || st.SendErrors != 0 {
		t.Errorf("%d allocations, %d errors", st.Allocations, st.SendErrors)
	}
}

func TestTakenPortIsNotGiven(t *testing.T) {
	cfg := socketConfig(t)
	var taken map[uint16]bool
	for first := uint16(20000); len(taken) < 4; first += 8 { // until this machine has eight in a row
		cfg.Ports = turn.PortRange{First: first, Last: first + 7}
		taken = make(map[uint16]bool)
		for port := first; port <= cfg.Ports.Last; port++ {
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, port)))
			if err != nil {
				taken = nil
				break
			}
			if port&1 == 0 {
				c.Close()
				continue
			}
			defer c.Close()
			taken[port] = true
		}
	}
	s := startSocket(t, cfg)
	for range 4 {
		if relayed := allocate(t, dial(t, "udp", s.address(0))); taken[relayed.Port()] {
			t.Errorf("got %v, which another program has", relayed)
		}
	}
}

func TestBugEndsTheShardsAllocationsOnly(t *testing.T) {
	cfg := socketConfig(t)
	cfg.Shards = 2
	bugs := make(chan turn.Event, 10)
	cfg.OnEvents = func(events []turn.Event) {
		for _, e := range events {
			if e.Kind == turn.EventBug {
				bugs <- e
			}
		}
	}
	s := startSocket(t, cfg)
	byShard := make(map[int]net.Conn)
	for len(byShard) < 2 {
		c := dial(t, "udp", s.address(0))
		relayBothWays(t, c, loopback, 100)
		byShard[s.shardOf(t, c)] = c
	}
	stream := dial(t, "tcp", s.address(1))
	for relayBothWays(t, stream, loopback, 100); s.shardOf(t, stream) != 0; {
		stream = dial(t, "tcp", s.address(1))
		relayBothWays(t, stream, loopback, 100)
	}
	before := s.stats(t)
	err := s.engine.do(context.Background(), 0, func(time.Time, *turn.Core) { panic("BUG: a test") })
	if err == nil {
		t.Error("the function broke, and nobody says so")
	}
	if e := <-bugs; e.Err == nil || !strings.Contains(e.Err.Error(), "BUG: a test") || !strings.Contains(e.Err.Error(), "socket_linux_test.go") {
		t.Errorf("event %+v", e)
	}
	_ = stream.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := stream.Read(make([]byte, 1)); err == nil {
		t.Errorf("the stream of the shard is open: read %d", n)
	}
	refresh := request(stun.Refresh, stun.Request, 4, nil)
	if m := ask(t, byShard[0], refresh); m.Class() != stun.Error {
		t.Errorf("the allocation lives: %x", m.Raw())
	}
	if m := ask(t, byShard[1], refresh); m.Class() != stun.Success {
		t.Errorf("the other shard's allocation is gone: %x", m.Raw())
	}
	after := s.stats(t)
	if after.Panics != 1 || after.Allocated != before.Allocated || after.Allocations >= before.Allocations {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	if p := s.Ledger().Ports(); p.Total-p.Free-p.Quarantined != after.Allocations {
		t.Errorf("ports %+v with %d allocations", p, after.Allocations)
	}
	relayBothWays(t, byShard[0], loopback, 100)
}

func TestIdleShardSleeps(t *testing.T) {
	s := startSocket(t, socketConfig(t))
	idle := func(what string, wakes int64) {
		t.Helper()
		usage := func() (u unix.Rusage) {
			s.on(t, 0, func(*shard) { _ = unix.Getrusage(unix.RUSAGE_THREAD, &u) })
			return u
		}
		first := usage()
		time.Sleep(2200 * time.Millisecond)
		last := usage()
		if n := last.Nvcsw - first.Nvcsw; n > wakes {
			t.Errorf("%s: the thread slept %d times in 2.2 s, with nothing to do", what, n)
		}
		if used := time.Duration(last.Utime.Nano() + last.Stime.Nano() - first.Utime.Nano() - first.Stime.Nano()); used > 12*time.Millisecond {
			t.Errorf("%s: the thread used %v in 2.2 s, with nothing to do", what, used)
		}
	}
	idle("no allocation", 15) // the two calls, and the scheduler's own
	relayBothWays(t, dial(t, "udp", s.address(0)), loopback, 100)
	idle("one allocation", 20) // and two or three ticks
}

func TestRelayedPacketsAllocateNothing(t *testing.T) {
	for _, mode := range []string{"channel", "indication"} {
		for _, up := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, up %v", mode, up), func(t *testing.T) {
				b := newBench(t, 10, true)
				if mode == "indication" {
					b.unbind(t)
				}
				from, to, msgs := b.messages(t, up, mode == "channel", 172)
				b.burst(t, from, to, msgs, 20)
				const packets = 10 * 20
				if n := testing.AllocsPerRun(20, func() { b.burst(t, from, to, msgs, 20) }) / packets; n > 0.1 {
					t.Errorf("%v allocations for each packet", n)
				}
			})
		}
	}
}

func TestServeEndsTwiceAndDoAfterIt(t *testing.T) {
	s, err := Open(context.Background(), socketConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- s.Do(context.Background(), func(time.Time, int, *turn.Core) {}) }()
	eventually(t, "the call waits", func() bool {
		m := &s.shard(0).box
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.calls) == 1
	})
	if err := s.Close(); err != nil {
		t.Error("Close:", err)
	}
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Errorf("the call that waited: %v", err)
	}
	if err := s.Serve(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("Serve after Close: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error("Close again:", err)
	}
	if err := s.Do(context.Background(), func(time.Time, int, *turn.Core) {}); !errors.Is(err, ErrClosed) {
		t.Errorf("Do after Close: %v", err)
	}
}

func TestDescriptorTableIsLargeFromTheStart(t *testing.T) {
	startSocket(t, socketConfig(t))
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	limit, _ := descriptorLimit()
	for line := range strings.Lines(string(b)) {
		var size int
		if n, _ := fmt.Sscanf(line, "FDSize: %d", &size); n == 1 && size < min(limit, 10_000) {
			t.Errorf("the table has %d places: it grows, and a shard waits, while clients allocate", size)
		}
	}
}

//go:build e2e

package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn"
)

// TestEnginesAreOneServer drives all engines with the same traffic, valid and not, of UDP clients and peers over IPv4 and IPv6, and compares every datagram
// that comes out, in its order at each receiver, and all counters of the cores.
func TestEnginesAreOneServer(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			others := []Kind{Socket}
			if !long(seed) {
				others = append(others, Plain)
			}
			want := playTraffic(t, Kernel, seed, nil)
			for _, kind := range others {
				got := playTraffic(t, kind, seed, want)
				for i := range want.steps {
					if w, g := want.steps[i], got.steps[i]; !reflect.DeepEqual(w, g) {
						t.Fatalf("step %d, %s:\n kernel: %d read, %v\n %v: %d read, %v", i, w.what, w.read, w.out, kind, g.read, g.out)
					}
				}
				if !reflect.DeepEqual(want.stats, got.stats) {
					t.Errorf("counters:\n kernel: %+v\n %v: %+v", want.stats, kind, got.stats)
				}
			}
			if s := want.stats; s.Packets[turn.RelayedChannel] == 0 || s.Packets[turn.RelayedSend] == 0 || s.Packets[turn.RelayedToData] == 0 ||
				s.Packets[turn.RelayedToChannel] == 0 || s.Packets[turn.RelayedHairpin] == 0 || s.Packets[turn.DropPeerStranger] == 0 || s.Ended[turn.EndReleased] == 0 {
				t.Errorf("the traffic left something out: %+v", s)
			}
		})
	}
}

// long reports whether the run of a seed has datagrams that the plain engine does not relay.
func long(seed uint64) bool { return seed%2 == 1 }

// step is what came of one datagram.
type step struct {
	what string
	read uint64   // packets that the core has read so far
	out  []string // what each receiver got
}

// play is one run of the traffic.
type play struct {
	steps []step
	stats turn.Stats
}

// playSteps is how many datagrams a run has; about a third of them set something up.
const playSteps = 600

// playTraffic runs the traffic of a seed. What other engines did, if known, says what to wait for.
func playTraffic(t *testing.T, kind Kind, seed uint64, known *play) *play {
	t.Helper()
	cfg := socketConfig(t)
	cfg.Engine, cfg.Seed = kind, [32]byte{1: byte(seed), 2: 1}
	cfg.Listeners = cfg.Listeners[:3:3] // UDP on IPv4, TCP, UDP on IPv6
	rules := *cfg.Rules
	rules.Limits = turn.Limits{PerClient: 6, Permissions: 3, Channels: 3, Unconfirmed: 3}
	cfg.Rules = &rules
	s, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, why := s.Engine(); got != kind {
		t.Fatalf("the engine is %v: %s", got, why)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	x := &player{t: t, s: s, kind: kind, rng: rand.New(rand.NewPCG(seed, 7)), sizes: []int{0, 1, 2, 3, 33, 172, 1200, 1472, 1473, 4000}, names: make(map[netip.AddrPort]string), buf: make([]byte, 70000)}
	if long(seed) {
		x.sizes = append(x.sizes, 9000, 40000, 65000)
	}
	servers := []netip.AddrPort{s.cfg.Listeners[0].Address, s.cfg.Listeners[2].Address}
	if kind == Plain {
		p := s.engine.(*plain)
		servers = []netip.AddrPort{p.udp[0].local, p.udp[1].local}
	}
	for i := range 6 {
		x.clients = append(x.clients, x.open(fmt.Sprint("client ", i), i%3 == 2))
		x.server = append(x.server, servers[b2i(i%3 == 2)])
	}
	for i := range 5 {
		x.peers = append(x.peers, x.open(fmt.Sprint("peer ", i), i%3 == 2))
	}
	out := &play{}
	for i := range playSteps {
		from, to, msg, what := x.next()
		if err := unix.Sendto(from.fd, msg, unix.MSG_DONTWAIT, sockaddrOf(to)); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(what, ": ", err)
		}
		var w *step
		if known != nil {
			w = &known.steps[i]
		}
		out.steps = append(out.steps, x.await(what, w))
	}
	st, err := s.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	out.stats = st.Stats
	return out
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// host is a socket of a client or a peer.
type host struct {
	fd   int
	name string
	at   netip.AddrPort
}

type player struct {
	t              *testing.T
	s              *Server
	kind           Kind
	rng            *rand.Rand
	sizes          []int
	names          map[netip.AddrPort]string // of hosts, whose ports differ from run to run
	clients, peers []host
	server         []netip.AddrPort // of each client
	relayed        []netip.AddrPort // addresses that were ever allocated
	tokens         [][]byte
	id             uint32
	buf            []byte
}

func (x *player) open(name string, inet6 bool) host {
	at := loopback
	if inet6 {
		at = loopback6
	}
	fd, err := unix.Socket(family(inet6), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { unix.Close(fd) })
	if err := bind(fd, netip.AddrPortFrom(at, 0), inet6); err != nil {
		x.t.Fatal(err)
	}
	h := host{fd: fd, name: name}
	if h.at, err = localAddress(fd); err != nil {
		x.t.Fatal(err)
	}
	x.names[h.at] = name
	return h
}

func sockaddrOf(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// next makes up a datagram. What it draws does not depend on the engine.
func (x *player) next() (from host, to netip.AddrPort, msg []byte, what string) {
	i := x.rng.IntN(len(x.clients))
	from, to = x.clients[i], x.server[i]
	x.id++
	tx := stun.TransactionID{9: byte(x.id >> 16), 10: byte(x.id >> 8), 11: byte(x.id)}
	build := func(m stun.Method, c stun.Class, add func(*stun.Builder)) []byte {
		b := stun.Begin(nil, stun.NewType(m, c), tx)
		add(&b)
		return b.Bytes()
	}
	peer := x.peers[x.rng.IntN(len(x.peers))].at
	if len(x.relayed) > 0 && x.rng.IntN(6) == 0 {
		peer = x.relayed[x.rng.IntN(len(x.relayed))]
	}
	size := x.sizes[x.rng.IntN(len(x.sizes))]
	data := make([]byte, size)
	for k := range data {
		data[k] = byte(x.rng.Uint32())
	}
	number := 0x4001 + uint16(x.rng.IntN(4))
	switch op := x.rng.IntN(20); {
	case op < 3:
		even, token := x.rng.IntN(4), x.rng.IntN(4)
		return from, to, build(stun.Allocate, stun.Request, func(b *stun.Builder) {
			b.Attr(stun.AttrRequestedTransport, []byte{17, 0, 0, 0})
			switch {
			case even == 0:
				b.Attr(stun.AttrEvenPort, []byte{0x80})
			case token == 0 && len(x.tokens) > 0:
				b.Attr(stun.AttrReservationToken, x.tokens[len(x.tokens)-1])
			}
		}), "Allocate of " + from.name
	case op == 3:
		life := uint32(x.rng.IntN(2)) * 600
		return from, to, build(stun.Refresh, stun.Request, func(b *stun.Builder) { b.Uint32(stun.AttrLifetime, life) }), "Refresh of " + from.name
	case op < 6:
		return from, to, build(stun.ChannelBind, stun.Request, func(b *stun.Builder) {
			b.Attr(stun.AttrChannelNumber, []byte{byte(number >> 8), byte(number), 0, 0})
			b.XORAddress(stun.AttrXORPeerAddress, peer)
		}), "ChannelBind of " + from.name
	case op == 6:
		return from, to, build(stun.CreatePermission, stun.Request, func(b *stun.Builder) { b.XORAddress(stun.AttrXORPeerAddress, peer) }), "CreatePermission of " + from.name
	case op < 10:
		return from, to, build(stun.Send, stun.Indication, func(b *stun.Builder) {
			b.XORAddress(stun.AttrXORPeerAddress, peer)
			b.Attr(stun.AttrData, data)
		}), fmt.Sprintf("Send of %s, %d bytes", from.name, size)
	case op < 14:
		return from, to, channelData(number, data, false), fmt.Sprintf("ChannelData of %s, %d bytes", from.name, size)
	case op == 14: // truncated, or with a bit flipped
		b := build(stun.Send, stun.Indication, func(b *stun.Builder) {
			b.XORAddress(stun.AttrXORPeerAddress, peer)
			b.Attr(stun.AttrData, data[:min(size, 100)])
		})
		if x.rng.IntN(2) == 0 {
			b = channelData(number, data[:min(size, 100)], false)
		}
		b = b[:x.rng.IntN(len(b)+1)]
		if len(b) > 0 && x.rng.IntN(2) == 0 {
			b[x.rng.IntN(len(b))] ^= 1 << x.rng.IntN(8)
		}
		return from, to, b, "nonsense of " + from.name
	}
	if len(x.relayed) == 0 {
		return from, to, channelData(number, data, false), "ChannelData of " + from.name
	}
	to = x.relayed[x.rng.IntN(len(x.relayed))]
	at := x.rng.IntN(len(x.peers))
	for x.peers[at].at.Addr().Is6() != to.Addr().Is6() {
		at = (at + 1) % len(x.peers)
	}
	return x.peers[at], to, data, fmt.Sprintf("%d bytes of %s", size, x.peers[at].name)
}

// await waits until the datagram has had its effect. known says what it is; without it the shard is asked twice: what was there at the first time has been
// handled and sent at the second.
func (x *player) await(what string, known *step) step {
	st := step{what: what}
	for deadline := time.Now().Add(5 * time.Second); ; {
		for range 2 {
			stats, err := x.s.Stats(context.Background())
			if err != nil {
				x.t.Fatal(err)
			}
			st.read = stats.Read
		}
		for _, h := range append(x.clients[:len(x.clients):len(x.clients)], x.peers...) {
			st.out = append(st.out, x.drain(h)...)
		}
		if known == nil || st.read >= known.read && len(st.out) >= len(known.out) || time.Now().After(deadline) {
			return st
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// drain describes what has come to a host.
func (x *player) drain(h host) (out []string) {
	for {
		n, from, err := unix.Recvfrom(h.fd, x.buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ECONNREFUSED) {
			return out
		}
		if err != nil {
			x.t.Fatal(err)
		}
		source := fromSockaddr(from)
		s := fmt.Sprintf("%s: from %s ", h.name, x.name(source))
		b := x.buf[:n]
		m, err := stun.Parse(b)
		if err != nil {
			out = append(out, s+fmt.Sprintf("%d bytes %x", n, digest(b)))
			continue
		}
		s += fmt.Sprint(m.Type())
		for it := m.Attrs(); it.Next(); {
			switch it.Type {
			case stun.AttrXORPeerAddress, stun.AttrXORMappedAddress, stun.AttrXORRelayedAddress:
				a, _ := m.XORAddress(it.Value)
				s += fmt.Sprintf(" %v=%s", it.Type, x.name(a))
				if it.Type == stun.AttrXORRelayedAddress {
					x.relayed = append(x.relayed, a)
				}
			case stun.AttrReservationToken:
				x.tokens = append(x.tokens, append([]byte(nil), it.Value...))
				fallthrough
			default:
				s += fmt.Sprintf(" %v=%d:%x", it.Type, len(it.Value), digest(it.Value))
			}
		}
		out = append(out, s)
	}
}

// name names an address: a host by its name, a server by nothing, relayed ports, which the seed decides, by themselves.
func (x *player) name(a netip.AddrPort) string {
	if n := x.names[a]; n != "" {
		return n
	}
	if x.s.cfg.Ports.Contains(a.Port()) {
		return a.String()
	}
	return "the server"
}

// digest is short for short values, and a hash of long ones.
func digest(b []byte) []byte {
	if len(b) <= 16 {
		return b
	}
	var h uint64 = 14695981039346656037
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return binary.BigEndian.AppendUint64(nil, h)
}

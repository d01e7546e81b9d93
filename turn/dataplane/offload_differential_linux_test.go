//go:build e2e

package dataplane

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/internal/netns"
	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn"
)

// rig is a host with interfaces to clients and peers, the program at them, and a core that has the flows offloaded. Nothing is sent: each
// packet goes through the program by BPF_PROG_TEST_RUN, and through the core.
type rig struct {
	t     testing.TB
	o     *offload
	core  *turn.Core
	cfg   Config
	macs  map[string][6]byte // of our interfaces
	index map[string]int
	ports map[uint32]netip.AddrPort // relayed, local
	now   time.Time
	tally map[string]int
	buf   []byte
}

const rigListen = 3478

// Addresses of the rig. The interface "c" leads to clients, "p" to peers, and "v" stands for a VLAN above "c".
var rigNets = map[string][2]string{
	"c": {"10.1.0.1/24", "fd00:1::1/64"},
	"p": {"203.0.113.1/24", "2001:db8:2::1/64"},
	"v": {"10.7.0.1/24", "fd00:7::1/64"},
}

var farMAC = [6]byte{2, 0x77, 0, 0, 0, 9}

const rigVLAN = 7

func (b *rig) OpenRelay(i uint32, local netip.AddrPort) error { b.ports[i] = local; return nil }
func (b *rig) CloseRelay(i uint32)                            { delete(b.ports, i) }
func (b *rig) CloseStream(uint32)                             {}

// onRig runs f on the host of a rig.
func onRig(t testing.TB, configure func(*Config), f func(b *rig)) {
	lab := netns.New(t)
	here, clients, peers := lab.Host("server"), lab.Host("clients"), lab.Host("peers")
	lab.Link(clients.At("10.1.0.2/24", "fd00:1::2/64").Named("far"), here.At(rigNets["c"][0], rigNets["c"][1]).Named("c"))
	lab.Link(peers.At("203.0.113.2/24", "2001:db8:2::2/64").Named("far"), here.At(rigNets["p"][0], rigNets["p"][1]).Named("p"))
	lab.Link(clients.At().Named("below"), here.At(rigNets["v"][0], rigNets["v"][1]).Named("v"))
	for _, h := range []*netns.Host{clients, peers} {
		if err := h.Do(func() error { return generousReceive("far") }); err != nil {
			t.Fatal(err)
		}
	}
	err := here.Do(func() error {
		b := &rig{t: t, macs: map[string][6]byte{}, index: map[string]int{}, ports: map[uint32]netip.AddrPort{}, tally: map[string]int{}}
		for name := range rigNets {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			b.macs[name], b.index[name] = [6]byte(l.Attrs().HardwareAddr), l.Attrs().Index
		}
		for addr, name := range map[string]string{
			"10.1.0.2": "c", "10.1.0.3": "c", "fd00:1::2": "c", "fd00:1::3": "c", "10.7.0.2": "v", "fd00:7::2": "v",
			"203.0.113.2": "p", "2001:db8:2::2": "p",
		} {
			ip := netip.MustParseAddr(addr)
			family := netlink.FAMILY_V4
			if ip.Is6() {
				family = netlink.FAMILY_V6
			}
			err := netlink.NeighSet(&netlink.Neigh{LinkIndex: b.index[name], Family: family, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: farMAC[:]})
			if err != nil {
				return err
			}
		}
		relays := []turn.RelayAddress{}
		for _, a := range []string{"203.0.113.1", "2001:db8:2::1"} {
			ip := netip.MustParseAddr(a)
			relays = append(relays, turn.RelayAddress{Public: ip, Local: ip})
		}
		b.cfg = Config{
			Listeners: []Listener{{Network: "udp", Address: netip.AddrPortFrom(netip.IPv6Unspecified(), rigListen)}},
			Relays:    relays, Ports: turn.PortRange{First: 50000, Last: 50999}, OffloadInterfaces: []string{"c", "p"},
		}
		limits := turn.DefaultLimits()
		limits.UnansweredPackets, limits.UnansweredBytes, limits.PacketsPerSecond, limits.BytesPerSecond = 0, 0, 0, 0
		policy, err := turn.NewPolicy(turn.PolicyConfig{Profile: turn.ProfileLab, Relays: relays, RelayPorts: b.cfg.Ports, Hairpin: turn.HairpinAll})
		if err != nil {
			return err
		}
		b.cfg.Rules = &turn.Rules{Policy: policy, Limits: limits, ModernWithoutCredentials: true}
		if configure != nil {
			configure(&b.cfg)
		}
		if b.o, err = newOffload(&b.cfg); err != nil {
			return err
		}
		defer b.o.close()
		if err := forwardFromHere(&b.cfg); err != nil {
			return err
		}
		if err := b.o.refresh(); err != nil {
			return err
		}
		// Not every kernel that tests run on has VLANs: an interface of its own with the addresses stands for one, and is described as one.
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for i, l := range links {
			if attrs := *l.Attrs(); attrs.Name == "v" {
				attrs.ParentIndex = b.index["c"]
				links[i] = &netlink.Vlan{LinkAttrs: attrs, VlanId: rigVLAN, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
			}
		}
		if err := b.o.describe(links); err != nil {
			return err
		}
		for _, i := range b.o.state().Interfaces {
			if i.Why != "" || !i.Native {
				return fmt.Errorf("interface %s: %s", i.Name, i.Why)
			}
		}
		b.now = time.Now()
		b.buf = make([]byte, turn.Headroom+turn.MaxFrame+turn.Tailroom)
		ledger := turn.NewLedger(relays, b.cfg.Ports, b.cfg.Rules.Limits, [32]byte{1})
		b.core = turn.NewCore(b.now, turn.Config{Ledger: ledger, Relays: relays, Rules: b.cfg.Rules, Opener: b, Offload: b.o, Seed: [32]byte{2}})
		f(b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// generousReceive turns on GRO, without which a veth does not take what a program at its other end sends.
func generousReceive(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	arg := struct{ cmd, data uint32 }{unix.ETHTOOL_SGRO, 1}
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&arg)}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}

// packet puts a payload where the core wants it.
func (b *rig) packet(payload []byte) turn.Packet {
	n := copy(b.buf[turn.Headroom:], payload)
	return turn.Packet{Buf: b.buf, At: turn.Headroom, Len: n}
}

func (b *rig) outputs() (out []turn.Output) {
	for _, o := range b.core.Outputs() {
		o.Data = bytes.Clone(o.Data)
		out = append(out, o)
	}
	b.core.Reset()
	b.core.TakeEvents()
	return out
}

func (b *rig) fromClient(client, server netip.AddrPort, payload []byte) []turn.Output {
	b.core.FromClient(b.now, &turn.Source{Client: client, Server: server}, b.packet(payload))
	return b.outputs()
}

// fromPeer delivers to a relayed port, as the engines do.
func (b *rig) fromPeer(from, relayed netip.AddrPort, payload []byte) []turn.Output {
	for i, at := range b.ports {
		if at == relayed {
			b.core.FromPeer(b.now, i, from, b.packet(payload))
			return b.outputs()
		}
	}
	return nil
}

// client is one with an allocation and what it has bound.
type rigClient struct {
	b              *rig
	addr, server   netip.AddrPort
	iface          string
	relayed        netip.AddrPort
	tx             byte
	allocatesInet6 bool
}

func (b *rig) client(iface, addr string, port uint16, relayInet6 bool) *rigClient {
	b.t.Helper()
	ip := netip.MustParseAddr(addr)
	at := rigNets[iface][0]
	if ip.Is6() {
		at = rigNets[iface][1]
	}
	c := &rigClient{b: b, iface: iface, addr: netip.AddrPortFrom(ip, port), server: netip.AddrPortFrom(netip.MustParsePrefix(at).Addr(), rigListen)}
	family := byte(1)
	if relayInet6 {
		family = 2
	}
	m := c.request(stun.Allocate, func(m *stun.Builder) {
		m.Attr(stun.AttrRequestedTransport, []byte{17, 0, 0, 0})
		m.Attr(stun.AttrRequestedFamily, []byte{family, 0, 0, 0})
	})
	var ok bool
	if c.relayed, ok = m.GetXORAddress(stun.AttrXORRelayedAddress); !ok {
		b.t.Fatalf("Allocate: %v", m.Type())
	}
	return c
}

// legacy allocates without a word of the modern dialect.
func (b *rig) legacy(iface, addr string, port uint16) *rigClient {
	b.t.Helper()
	ip := netip.MustParseAddr(addr)
	at := rigNets[iface][0]
	if ip.Is6() {
		at = rigNets[iface][1]
	}
	c := &rigClient{b: b, iface: iface, addr: netip.AddrPortFrom(ip, port), server: netip.AddrPortFrom(netip.MustParsePrefix(at).Addr(), rigListen)}
	m := c.request(stun.Allocate, nil)
	c.relayed, _ = m.GetXORAddress(stun.AttrXORRelayedAddress)
	return c
}

func (c *rigClient) request(method stun.Method, fill func(*stun.Builder)) stun.Message {
	c.b.t.Helper()
	c.tx++
	m := stun.Begin(nil, stun.NewType(method, stun.Request), stun.TransactionID{c.tx, byte(c.addr.Port())})
	if fill != nil {
		fill(&m)
	}
	out := c.b.fromClient(c.addr, c.server, m.Bytes())
	if len(out) != 1 {
		c.b.t.Fatalf("%v: %d answers", method, len(out))
	}
	answer, err := stun.Parse(out[0].Data)
	if err != nil || answer.Class() != stun.Success {
		c.b.t.Fatalf("%v: %v, %v", method, err, answer.Type())
	}
	return answer
}

func (c *rigClient) bind(number uint16, peer netip.AddrPort) {
	c.b.t.Helper()
	c.request(stun.ChannelBind, func(m *stun.Builder) {
		m.Attr(stun.AttrChannelNumber, []byte{byte(number >> 8), byte(number), 0, 0})
		m.XORAddress(stun.AttrXORPeerAddress, peer)
	})
}

func (c *rigClient) permit(peer netip.AddrPort) {
	c.b.t.Helper()
	c.request(stun.CreatePermission, func(m *stun.Builder) { m.XORAddress(stun.AttrXORPeerAddress, peer) })
}

func channelMessage(number uint16, data []byte, padding int) []byte {
	b := binary.BigEndian.AppendUint16(nil, number)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(append(b, data...), make([]byte, padding)...)
}

func sendMessage(peer netip.AddrPort, data []byte) []byte {
	m := stun.Begin(nil, stun.NewType(stun.Send, stun.Indication), stun.TransactionID{0xAA, 0xBB, 0xCC, 0xDD, 1, 2, 3, 4, 5, 6, 7, byte(len(data))})
	m.XORAddress(stun.AttrXORPeerAddress, peer)
	m.Attr(stun.AttrData, data)
	return m.Bytes()
}

// up is the frame of a client's message.
func (c *rigClient) up(payload []byte) wireFrame {
	f := wireFrame{to: c.b.macs[c.iface], from: farMAC, source: c.addr, dest: c.server, payload: payload, hasChecksum: true}
	if c.iface == "v" {
		f.vlan, f.protocol = rigVLAN, 0x8100
	}
	return f
}

// down is the frame of a peer's datagram.
func (c *rigClient) down(peer netip.AddrPort, payload []byte) wireFrame {
	return wireFrame{to: c.b.macs["p"], from: farMAC, source: peer, dest: c.relayed, payload: payload, hasChecksum: true}
}

// device is the interface that frames to and from it pass, without tags.
func (b *rig) device(iface string) int {
	if iface == "v" {
		iface = "c"
	}
	return b.index[iface]
}

// What the program answers.
const (
	xdpAborted  = 0
	xdpPass     = 2
	xdpTx       = 3
	xdpRedirect = 4
)

// forget ends what the program knows of routes, which it asks for again after a quarter of a second.
func (b *rig) forget() {
	for i := range b.o.table.slots {
		b.o.table.slots[i].routeUntil.Store(0)
	}
}

// run gives a frame to the program.
func (b *rig) run(iface string, frame []byte) (verdict uint32, out []byte) {
	b.t.Helper()
	ctx := make([]byte, 24) // struct xdp_md: data, data_end, data_meta, ingress_ifindex, …
	binary.NativeEndian.PutUint32(ctx[4:], uint32(len(frame)))
	binary.NativeEndian.PutUint32(ctx[12:], uint32(b.device(iface)))
	out = make([]byte, len(frame)+512)
	opts := &ebpf.RunOptions{Data: frame, DataOut: out, Context: ctx}
	verdict, err := b.o.programs.Programs["offload"].Run(opts)
	if err != nil {
		b.t.Fatalf("run: %v", err)
	}
	return verdict, opts.DataOut
}

// compare gives a frame to the program and, if it relays it, its payload to the core, which must do exactly the same. It returns what the
// program did.
func (b *rig) compare(iface string, frame []byte) string {
	b.t.Helper()
	verdict, got := b.run(iface, frame)
	fail := func(format string, args ...any) {
		b.t.Helper()
		b.t.Fatalf("%s\ninto %s: %s\nout: %s", fmt.Sprintf(format, args...), iface, hex.EncodeToString(frame), hex.EncodeToString(got))
	}
	switch verdict {
	case xdpPass:
		// It may have cut or lengthened what is behind the packet, and nothing else.
		if n := min(len(frame), len(got)); !bytes.Equal(frame[:n], got[:n]) {
			fail("the program passed a packet on that it had changed")
		}
		before, ok := readFrame(frame)
		after, ok2 := readFrame(got)
		if ok != ok2 || ok && !bytes.Equal(before.payload, after.payload) {
			fail("the program passed a packet on that it had cut")
		}
		b.tally["pass"]++
		return "pass"
	case xdpTx, xdpRedirect:
	default:
		fail("verdict %d", verdict)
	}
	in, ok := readFrame(frame)
	if !ok {
		fail("the program relayed what the kernel would bring to no socket")
	}
	var outs []turn.Output
	if in.dest.Port() == rigListen {
		outs = b.fromClient(in.source, in.dest, in.payload)
	} else {
		outs = b.fromPeer(in.source, in.dest, in.payload)
	}
	if len(outs) != 1 {
		fail("the program relayed it, the core sends %d datagrams", len(outs))
	}
	out, ok := readFrame(got)
	if !ok {
		fail("the program sent no UDP datagram")
	}
	if out.validChecksum != in.validChecksum || out.hasChecksum != in.hasChecksum {
		fail("the checksum was valid: %v, and is: %v", in.validChecksum, out.validChecksum)
	}
	want := wireFrame{payload: outs[0].Data, from: b.macs["p"], to: farMAC, hasChecksum: in.hasChecksum, id: out.id}
	switch o := &outs[0]; o.Kind {
	case turn.ToPeer:
		want.source, want.dest = b.ports[o.Allocation], o.Peer
	case turn.ToClient:
		want.source, want.dest = o.Source.Server, o.Source.Client
		if want.payload[0] == 0 {
			want.payload = withTransaction(b.t, want.payload, out.payload)
		}
	default:
		fail("the core hands it to another shard")
	}
	egress := "p"
	for name, nets := range rigNets {
		for _, p := range nets {
			if netip.MustParsePrefix(p).Contains(want.dest.Addr()) {
				egress = name
			}
		}
	}
	want.from = b.macs[egress]
	if egress == "v" {
		want.vlan, want.protocol = rigVLAN, 0x8100
	}
	expected := want.build()
	if !in.validChecksum { // then it must be as wrong as it was: only the rest can be compared
		at := len(expected) - len(want.payload) - 2
		copy(expected[at:at+2], got[at:at+2])
	}
	if !bytes.Equal(got, expected) {
		fail("the core and the kernel would send\n     %s", hex.EncodeToString(expected))
	}
	sameDevice := b.device(iface) == b.device(egress)
	if sameDevice != (verdict == xdpTx) {
		fail("verdict %d from %s to %s", verdict, iface, egress)
	}
	b.tally["relayed"]++
	return "relayed"
}

// withTransaction gives a Data indication the transaction ID of another, by which an IPv6 address in it is coded (§14.2).
func withTransaction(t testing.TB, message, other []byte) []byte {
	t.Helper()
	if len(other) < stun.HeaderSize || len(message) < stun.HeaderSize+8 {
		t.Fatalf("a Data indication of %d bytes", len(other))
	}
	b := bytes.Clone(message)
	if b[25] == 2 {
		for i := range 12 {
			b[32+i] ^= message[8+i] ^ other[8+i]
		}
	}
	copy(b[8:20], other[8:20])
	return b
}

// path is one direction of a flow in the corpus.
type path struct {
	name  string
	iface string
	frame func(data []byte) wireFrame
}

// corpus sets up flows of every kind and returns their paths, all of which are offloaded.
func (b *rig) corpus() (paths []path) {
	type kind struct {
		iface, client string
		relayInet6    bool
		peer          string
	}
	port := uint16(4000)
	for _, k := range []kind{
		{"c", "10.1.0.2", false, "203.0.113.2"}, {"c", "fd00:1::2", true, "2001:db8:2::2"},
		{"c", "10.1.0.2", true, "2001:db8:2::2"}, {"c", "fd00:1::2", false, "203.0.113.2"},
		{"v", "10.7.0.2", false, "203.0.113.2"}, {"v", "fd00:7::2", true, "2001:db8:2::2"},
		{"c", "10.1.0.2", false, "10.1.0.3"}, {"v", "10.7.0.2", false, "10.1.0.3"}, {"c", "fd00:1::2", true, "fd00:1::3"},
	} {
		for _, channel := range []bool{true, false} {
			port++
			c := b.client(k.iface, k.client, port, k.relayInet6)
			peer := netip.AddrPortFrom(netip.MustParseAddr(k.peer), 6000+port)
			wrap := func(data []byte) []byte { return sendMessage(peer, data) }
			name := fmt.Sprintf("%s on %s to %s by indications", k.client, k.iface, k.peer)
			if channel {
				c.bind(0x4000, peer)
				wrap = func(data []byte) []byte { return channelMessage(0x4000, data, 0) }
				name = fmt.Sprintf("%s on %s to %s by a channel", k.client, k.iface, k.peer)
			} else {
				c.permit(peer)
			}
			b.fromClient(c.addr, c.server, wrap([]byte("hello")))
			b.fromPeer(peer, c.relayed, []byte("hello"))
			b.fromClient(c.addr, c.server, wrap([]byte("hello")))
			from := "p"
			if netip.MustParsePrefix(rigNets["c"][0]).Contains(peer.Addr()) || netip.MustParsePrefix(rigNets["c"][1]).Contains(peer.Addr()) {
				from = "c"
			}
			down := func(data []byte) wireFrame {
				f := c.down(peer, data)
				f.to = b.macs[from]
				return f
			}
			paths = append(paths, path{"up from " + name, k.iface, func(data []byte) wireFrame { return c.up(wrap(data)) }}, path{"down, " + name, from, down})
		}
	}
	// Between two clients of this server.
	for _, k := range []kind{{"c", "10.1.0.2", false, "10.7.0.2"}, {"c", "fd00:1::2", true, "10.1.0.3"}, {"c", "10.1.0.2", true, "fd00:1::3"}} {
		for _, channel := range []bool{true, false} {
			port += 2
			iface := "c"
			if k.peer == "10.7.0.2" {
				iface = "v"
			}
			one, two := b.client(k.iface, k.client, port, k.relayInet6), b.client(iface, k.peer, port+1, k.relayInet6)
			for range 3 {
				for _, way := range [][2]*rigClient{{one, two}, {two, one}} {
					if channel {
						way[0].bind(0x4001, way[1].relayed)
						b.fromClient(way[0].addr, way[0].server, channelMessage(0x4001, []byte("hello"), 0))
					} else {
						way[0].permit(way[1].relayed)
						b.fromClient(way[0].addr, way[0].server, sendMessage(way[1].relayed, []byte("hello")))
					}
				}
			}
			wrap := func(data []byte) []byte {
				if channel {
					return channelMessage(0x4001, data, 0)
				}
				return sendMessage(two.relayed, data)
			}
			paths = append(paths, path{fmt.Sprintf("between %s and %s, channel %v", k.client, k.peer, channel), k.iface, func(data []byte) wireFrame { return one.up(wrap(data)) }})
		}
	}
	return paths
}

func randomData(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestOffloadSendsWhatTheCoreSends: of every flow, for every size, the program sends the bytes that the core and the kernel would.
func TestOffloadSendsWhatTheCoreSends(t *testing.T) {
	onRig(t, nil, func(b *rig) {
		r := rand.New(rand.NewPCG(1, 2))
		sizes := []int{20, 21, 22, 23, 24, 100, 171, 172, 173, 174, 175, 1200, 1201, 1202, 1203, 1380}
		paths := b.corpus()
		for _, p := range paths {
			for _, n := range sizes {
				f := p.frame(randomData(r, n))
				if got := b.compare(p.iface, f.build()); got != "relayed" {
					t.Errorf("%s: %d bytes: %s: %v", p.name, n, got, b.o.state().Passed)
				}
				for _, fill := range []byte{0, 0xFF} { // the sum of which is one of the two zeros
					f = p.frame(bytes.Repeat([]byte{fill}, n))
					if got := b.compare(p.iface, f.build()); got != "relayed" {
						t.Errorf("%s: %d bytes of %#x: %s", p.name, n, fill, got)
					}
				}
			}
			for n := range 20 { // too short for a frame, or not
				b.compare(p.iface, p.frame(randomData(r, n)).build())
			}
			for _, n := range []int{1440, 1452, 1456, 1460, 1464, 1468, 1472} { // about the MTU
				b.compare(p.iface, p.frame(randomData(r, n)).build())
			}
		}
		t.Logf("%d paths: %v", len(paths), b.tally)
	})
}

// TestOffloadChangesNothingThatTheCoreWouldNot: truncations, lies about lengths, flipped bits and bytes. What the program relays, the
// core relays in the same way; all else passes unchanged.
func TestOffloadChangesNothingThatTheCoreWouldNot(t *testing.T) {
	onRig(t, nil, func(b *rig) {
		r := rand.New(rand.NewPCG(3, 4))
		for _, p := range b.corpus() {
			for _, n := range []int{21, 64} {
				frame := p.frame(randomData(r, n)).build()
				for cut := range frame {
					b.compare(p.iface, frame[:max(cut, 14)])
				}
				for at := range frame { // every header byte, and what is behind the packet
					for _, mask := range []byte{0x01, 0x80, 0xFF, byte(1 << r.IntN(8)), byte(r.Uint32())} {
						bad := bytes.Clone(frame)
						bad[at] ^= mask
						b.compare(p.iface, bad)
						if fixed, ok := withChecksums(bad); ok {
							b.compare(p.iface, fixed)
						}
					}
				}
				for range 200 {
					bad := bytes.Clone(frame)
					for range 1 + r.IntN(4) {
						bad[12+r.IntN(min(len(bad)-12, 100))] = byte(r.Uint32())
					}
					if r.IntN(3) == 0 {
						bad = append(bad, randomData(r, r.IntN(8))...)
					}
					if fixed, ok := withChecksums(bad); ok && r.IntN(2) == 0 {
						bad = fixed
					}
					b.compare(p.iface, bad)
				}
				// Behind the IP packet a frame may have anything.
				if got := b.compare(p.iface, append(bytes.Clone(frame), 1, 2, 3, 4, 5)); got != "relayed" {
					t.Errorf("%s: a padded frame: %s", p.name, got)
				}
			}
		}
		t.Logf("%v", b.tally)
		if b.tally["relayed"] == 0 || b.tally["pass"] == 0 {
			t.Error("the corpus has only one kind of outcome")
		}
	})
}

// withChecksums repairs both checksums of a frame, so that what else was changed is looked at.
func withChecksums(b []byte) ([]byte, bool) {
	f, ok := readFrame(b)
	if !ok {
		return nil, false
	}
	f.hasChecksum = true
	return f.build(), true
}

// TestOffloadAgreesOnTheCorpus of the fuzzers of the core: each message and all its truncations, as a client's message and as data either way.
func TestOffloadAgreesOnTheCorpus(t *testing.T) {
	files, err := filepath.Glob("../testdata/fuzz/FuzzF*/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	var messages [][]byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			quoted, ok := strings.CutPrefix(strings.TrimSpace(line), "[]byte(")
			if !ok {
				continue
			}
			message, err := strconv.Unquote(strings.TrimSuffix(quoted, ")"))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			messages = append(messages, []byte(message))
		}
	}
	onRig(t, nil, func(b *rig) {
		client := b.client("c", "10.1.0.3", 4000, false) // whose requests they are: they end its allocation, too
		for _, p := range b.corpus()[:8] {
			for _, m := range messages {
				if len(m) > 1200 {
					m = m[:1200]
				}
				for n := range len(m) + 1 {
					b.compare(p.iface, p.frame(m[:n]).build())
					b.compare(client.iface, client.up(m[:n]).build())
				}
			}
		}
		t.Logf("%d messages: %v", len(messages), b.tally)
		if b.tally["relayed"] == 0 {
			t.Error("none of them was relayed as data")
		}
	})
}

// TestOffloadThatIsFullLeavesFlowsToTheEngine, and takes flows again when others have gone.
func TestOffloadThatIsFullLeavesFlowsToTheEngine(t *testing.T) {
	onRig(t, nil, func(b *rig) {
		meter, ok := b.o.OpenMeter(b.now, turn.Meter{PacketsFull: b.now, BytesFull: b.now})
		if !ok {
			t.Fatal("no meter")
		}
		most := b.o.state().MaxFlows
		flow := func(n int) *turn.Flow {
			peer := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.2"), uint16(n))
			return &turn.Flow{
				Kind: turn.DataDown, Client: netip.MustParseAddrPort("10.1.0.2:1"), Server: netip.MustParseAddrPort("10.1.0.1:3478"),
				Relayed: netip.MustParseAddrPort("203.0.113.1:50000"), Named: peer, Peer: peer, Meter: meter, Until: b.now.Add(time.Minute),
			}
		}
		var last uint32
		for n := range most {
			if last, ok = b.o.Add(flow(n)); !ok {
				t.Fatalf("no room for flow %d of %d", n, most)
			}
		}
		if _, ok := b.o.Add(flow(most)); ok {
			t.Error("one more than there is room for")
		}
		if s := b.o.state(); s.Flows != most || s.Refused != 1 {
			t.Errorf("%d flows of %d, %d refused", s.Flows, most, s.Refused)
		}
		peer := netip.MustParseAddrPort("203.0.113.2:6000")
		c := b.client("c", "10.1.0.2", 4000, false)
		c.permit(peer)
		if out := b.fromPeer(peer, c.relayed, []byte("hello")); len(out) != 1 {
			t.Error("the engine does not relay")
		}
		b.o.Remove(last)
		if _, ok := b.o.Add(flow(most)); !ok {
			t.Error("no room when one has gone")
		}
		b.o.Reset(0)
		if s := b.o.state(); s.Flows != 0 {
			t.Errorf("%d flows after a reset", s.Flows)
		}
	})
}

// TestOffloadPassesEveryDoubt has one packet of a flow for each doubt.
func TestOffloadPassesEveryDoubt(t *testing.T) {
	onRig(t, nil, func(b *rig) {
		peer := netip.MustParseAddrPort("203.0.113.2:6000")
		c := b.client("c", "10.1.0.2", 4000, false)
		c.bind(0x4000, peer)
		hello := channelMessage(0x4000, []byte("hello"), 0)
		b.fromClient(c.addr, c.server, hello)
		up := c.up(channelMessage(0x4000, randomData(rand.New(rand.NewPCG(1, 1)), 172), 0))
		if got := b.compare("c", up.build()); got != "pass" {
			t.Fatalf("a flow whose peer has not answered: %s", got)
		}
		b.fromPeer(peer, c.relayed, []byte("hello"))
		b.fromClient(c.addr, c.server, hello)
		down := c.down(peer, up.payload[4:])
		if got := b.compare("c", up.build()); got != "relayed" {
			t.Fatalf("up: %s, %v, %d flows", got, b.o.state().Passed, b.o.state().Flows)
		}
		if got := b.compare("p", down.build()); got != "relayed" {
			t.Fatalf("down: %s, %v", got, b.o.state())
		}
		change := func(f wireFrame, at int, v ...byte) []byte {
			frame := f.build()
			copy(frame[at:], v)
			return frame
		}
		ipSum := func(frame []byte) []byte {
			frame[24], frame[25] = 0, 0
			binary.BigEndian.PutUint16(frame[24:], ^referenceSum(frame[14:34]))
			return frame
		}
		options := slices.Insert(up.build(), 34, 1, 1, 1, 1)
		options[14], options[17] = 0x46, options[17]+4
		for name, frame := range map[string][]byte{
			"IP options":                             ipSum(options),
			"more fragments":                         ipSum(change(up, 20, 0x20)),
			"a later fragment":                       ipSum(change(up, 21, 9)),
			"a wrong IP checksum":                    change(up, 24, 1),
			"a frame for another host":               change(up, 0, 2, 9, 9, 9, 9, 9),
			"the pseudo-header's sum for a checksum": change(up, 40, partialSum(up)...),
			"trailing data":                          c.up(append(bytes.Clone(up.payload), 0, 0, 0, 0)).build(),
			"padding that is not zero":               c.up(append(bytes.Clone(up.payload), 0, 1)).build(),
			"an unbound channel":                     c.up(channelMessage(0x4001, up.payload[4:], 0)).build(),
			"another client":                         wireFrame{to: up.to, from: farMAC, source: netip.MustParseAddrPort("10.1.0.2:4001"), dest: up.dest, payload: up.payload, hasChecksum: true}.build(),
			"larger than the way out":                c.up(channelMessage(0x4000, make([]byte, 1473), 0)).build(),
		} {
			if got := b.compare("c", frame); got != "pass" {
				t.Errorf("%s: %s", name, got)
			}
		}
		none := up
		none.hasChecksum = false
		if got := b.compare("c", none.build()); got != "relayed" {
			t.Errorf("no checksum from IPv4 to IPv4: %s", got)
		}
		tagged := up
		tagged.vlan, tagged.protocol = rigVLAN, 0x8100
		if got := b.compare("c", tagged.build()); got != "pass" && tagged.to != b.macs["v"] {
			t.Errorf("the tag of an interface with another address: %s", got)
		}
		tagged.vlan = 8
		if got := b.compare("c", tagged.build()); got != "pass" {
			t.Errorf("a tag of no interface here: %s", got)
		}

		// A peer that is IPv4 in IPv6 clothes is another one to the core.
		sender := b.client("c", "10.1.0.2", 4004, false)
		sender.permit(peer)
		b.fromPeer(peer, sender.relayed, []byte("hello"))
		b.fromClient(sender.addr, sender.server, sendMessage(peer, []byte("hello")))
		if got := b.compare("c", sender.up(sendMessage(peer, up.payload)).build()); got != "relayed" {
			t.Errorf("a Send: %s", got)
		}
		id := stun.TransactionID{1}
		clothed := []byte{0, 2, byte(peer.Port()>>8) ^ 0x21, byte(peer.Port()) ^ 0x12}
		for i, v := range peer.Addr().As16() {
			clothed = append(clothed, v^slices.Concat([]byte{0x21, 0x12, 0xA4, 0x42}, id[:])[i])
		}
		m := stun.Begin(nil, stun.NewType(stun.Send, stun.Indication), id)
		m.Attr(stun.AttrXORPeerAddress, clothed)
		m.Attr(stun.AttrData, up.payload)
		if got := b.compare("c", sender.up(m.Bytes()).build()); got != "pass" {
			t.Errorf("a mapped peer: %s", got)
		}

		// From a client over IPv6 to an IPv6 peer a checksum is needed.
		six := b.client("c", "10.1.0.2", 4002, true)
		peer6 := netip.MustParseAddrPort("[2001:db8:2::2]:6000")
		six.bind(0x4000, peer6)
		b.fromClient(six.addr, six.server, hello)
		b.fromPeer(peer6, six.relayed, []byte("hello"))
		b.fromClient(six.addr, six.server, hello)
		none = six.up(up.payload)
		if got := b.compare("c", none.build()); got != "relayed" {
			t.Errorf("to IPv6: %s", got)
		}
		none.hasChecksum = false
		if got := b.compare("c", none.build()); got != "pass" {
			t.Errorf("no checksum for IPv6: %s", got)
		}

		// The neighbour goes.
		gone := &netlink.Neigh{LinkIndex: b.index["p"], Family: netlink.FAMILY_V4, IP: net.IP(peer.Addr().AsSlice())}
		if err := netlink.NeighDel(gone); err != nil {
			t.Fatal(err)
		}
		b.forget()
		if got := b.compare("c", up.build()); got != "pass" {
			t.Errorf("no neighbour: %s", got)
		}
		gone.State, gone.HardwareAddr = netlink.NUD_PERMANENT, farMAC[:]
		if err := netlink.NeighSet(gone); err != nil {
			t.Fatal(err)
		}
		if got := b.compare("c", up.build()); got != "relayed" {
			t.Errorf("the neighbour is back: %s", got)
		}
		// A host route that leads nowhere.
		nowhere := &netlink.Route{Dst: &net.IPNet{IP: peer.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}, Type: unix.RTN_BLACKHOLE}
		if err := netlink.RouteAdd(nowhere); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) { // this time by itself
			if verdict, _ := b.run("c", up.build()); verdict == xdpPass {
				break
			}
		}
		if got := b.compare("c", up.build()); got != "pass" {
			t.Errorf("a blackhole: %s", got)
		}
		if err := netlink.RouteDel(nowhere); err != nil {
			t.Fatal(err)
		}
		passed := b.o.state().Passed
		for _, why := range []string{"no_checksum", "padding", "too_long", "no_neighbour", "no_route", "other_mac"} {
			if passed[why] == 0 {
				t.Errorf("no packet passed for %q: %v", why, passed)
			}
		}
	})
}

// partialSum is what a sender leaves in the checksum's place for its interface to complete.
func partialSum(f wireFrame) []byte {
	datagram := make([]byte, 8+len(f.payload))
	pseudo := append(f.source.Addr().AsSlice(), f.dest.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(datagram)))
	return binary.BigEndian.AppendUint16(nil, referenceSum(append(pseudo, 0, 0, 0, 17)))
}

// TestOffloadEndsWithWhatItLeadsThrough by the clock alone, while the core sleeps, and at once when the core says so.
func TestOffloadEndsWithWhatItLeadsThrough(t *testing.T) {
	onRig(t, nil, func(b *rig) {
		peer := netip.MustParseAddrPort("203.0.113.2:6000")
		flow := func(port uint16) (*rigClient, wireFrame) {
			c := b.client("c", "10.1.0.2", port, false)
			c.bind(0x4000, peer)
			b.fromPeer(peer, c.relayed, []byte("hello"))
			up := channelMessage(0x4000, make([]byte, 172), 0)
			b.fromClient(c.addr, c.server, up)
			return c, c.up(up)
		}
		const left = 2 * time.Second
		b.now = b.now.Add(left - turn.PermissionLifetime)
		_, old := flow(4000)
		b.now = time.Now()
		young, fresh := flow(4001)
		if old, fresh := b.compare("c", old.build()), b.compare("c", fresh.build()); old != "relayed" || fresh != "relayed" {
			t.Fatalf("before: %s, %s", old, fresh)
		}
		for deadline := time.Now().Add(left + 10*time.Second); ; time.Sleep(20 * time.Millisecond) {
			verdict, _ := b.run("c", old.build())
			if verdict == xdpPass {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the flow has not ended with its permission")
			}
		}
		if got := b.compare("c", fresh.build()); got != "relayed" {
			t.Errorf("one that has not ended: %s", got)
		}
		sessions := b.core.Sessions(b.now, nil)
		at := slices.IndexFunc(sessions, func(s turn.Session) bool { return s.Client == young.addr })
		before, flows := sessions[at].PacketsUp, b.o.state().Flows
		if before < 3 {
			t.Errorf("%d packets counted", before)
		}
		b.core.Kill(b.now, sessions[at].ID)
		if verdict, _ := b.run("c", fresh.build()); verdict != xdpPass {
			t.Error("the flow of a killed allocation goes on")
		}
		if n := b.o.state().Flows; n != flows-2 {
			t.Errorf("%d flows, before %d", n, flows)
		}
	})
}

// TestOffloadHoldsTheRate: program and core together relay no more than the allocation may.
func TestOffloadHoldsTheRate(t *testing.T) {
	onRig(t, func(c *Config) { c.Rules.Limits.PacketsPerSecond = 50 }, func(b *rig) {
		peer := netip.MustParseAddrPort("203.0.113.2:6000")
		c := b.client("c", "10.1.0.2", 4000, false)
		c.bind(0x4000, peer)
		b.fromPeer(peer, c.relayed, []byte("hello"))
		up := channelMessage(0x4000, make([]byte, 172), 0)
		b.fromClient(c.addr, c.server, up)
		begin, relayed := time.Now(), 0
		for range 500 {
			b.now = time.Now()
			if verdict, _ := b.run("c", c.up(up).build()); verdict != xdpPass {
				relayed++
			} else {
				relayed += len(b.fromClient(c.addr, c.server, up))
			}
		}
		most := 50 + int(50*time.Since(begin).Seconds()) + 2
		if relayed < 40 || relayed > most {
			t.Errorf("%d packets in %v, at most %d", relayed, time.Since(begin), most)
		}
		if n := b.o.state().Passed["rate"]; n == 0 {
			t.Error("nothing passed for the rate")
		}
	})
}

package turn

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// flow is one allocation among many with a channel, ready for packets.
type flow struct {
	core  *Core
	src   Source
	index uint32
	now   time.Time
	buf   []byte
	b     []byte // the message
	from  netip.AddrPort
}

const flowPeer, dataPeer = "203.0.113.5:5000", "203.0.113.6:5000"

// newFlow makes n allocations with a permission and a channel each, and returns the last.
func newFlow(t testing.TB, n int) (*flow, *server) {
	s := newServer(t, setup{noOffload: true, ports: PortRange{20000, 60000}, limits: func(l *Limits) {
		d := DefaultLimits()
		d.BytesPerSecond, d.PacketsPerSecond, d.PerClient, d.PerClientPrefix = 1<<40, 1<<30, 0, 0
		*l = d
	}})
	s.quiet = true
	var c *client
	for k := range n {
		c = s.client(netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(k >> 8), byte(k)}), 7000).String()).allocate()
		c.bind(0x4000, flowPeer)
		c.sendTo(dataPeer, "x")
		c.hears(flowPeer)
		c.hears(dataPeer)
		s.events = nil
	}
	core := s.cores[0]
	return &flow{core: core, src: c.src, index: core.tuples[c.src.key()], now: s.now, buf: make([]byte, Headroom+2048+Tailroom)}, s
}

func (f *flow) up() {
	n := copy(f.buf[Headroom:], f.b)
	f.now = f.now.Add(time.Microsecond)
	f.core.FromClient(f.now, &f.src, Packet{f.buf, Headroom, n})
	if len(f.core.Outputs()) != 1 {
		panic("not relayed")
	}
	f.core.Reset()
}

func (f *flow) down() {
	n := copy(f.buf[Headroom:], f.b)
	f.now = f.now.Add(time.Microsecond)
	f.core.FromPeer(f.now, f.index, f.from, Packet{f.buf, Headroom, n})
	if len(f.core.Outputs()) != 1 {
		panic("not relayed")
	}
	f.core.Reset()
}

func TestARelayedPacketAllocatesNothing(t *testing.T) {
	f, s := newFlow(t, 10)
	f.b = channelData(0x4000, "hello")
	same(t, "ChannelDataUp", testing.AllocsPerRun(1000, f.up), 0)
	f.b = (&client{server: s, src: f.src}).message(0x006, 0x0010, peerOf(dataPeer), dataOf("hello"))
	same(t, "SendUp", testing.AllocsPerRun(1000, f.up), 0)
	f.b, f.from = []byte("hello"), endpointOf(flowPeer)
	same(t, "ChannelDataDown", testing.AllocsPerRun(1000, f.down), 0)
	f.from = endpointOf(dataPeer)
	same(t, "DataDown", testing.AllocsPerRun(1000, f.down), 0)
	f.from = endpointOf("203.0.113.99:1")
	same(t, "a stranger", testing.AllocsPerRun(1000, func() {
		f.core.FromPeer(f.now, f.index, f.from, Packet{f.buf, Headroom, 5})
	}), 0)
}

func benchmarkFlow(b *testing.B, prepare func(f *flow, s *server) func()) {
	f, s := newFlow(b, 10000)
	step := prepare(f, s)
	b.ReportAllocs()
	for b.Loop() {
		step()
	}
}

func BenchmarkChannelDataUp(b *testing.B) {
	benchmarkFlow(b, func(f *flow, _ *server) func() { f.b = channelData(0x4000, string(make([]byte, 172))); return f.up })
}

func BenchmarkChannelDataDown(b *testing.B) {
	benchmarkFlow(b, func(f *flow, _ *server) func() {
		f.b, f.from = make([]byte, 172), endpointOf(flowPeer)
		return f.down
	})
}

func BenchmarkSendUp(b *testing.B) {
	benchmarkFlow(b, func(f *flow, s *server) func() {
		f.b = (&client{server: s, src: f.src}).message(0x006, 0x0010, peerOf(dataPeer), dataOf(string(make([]byte, 172))))
		return f.up
	})
}

func BenchmarkDataDown(b *testing.B) {
	benchmarkFlow(b, func(f *flow, _ *server) func() {
		f.b, f.from = make([]byte, 172), endpointOf(dataPeer)
		return f.down
	})
}

// BenchmarkAllocateFlood is a flood of Allocate requests from forged addresses against a full pool of unconfirmed allocations.
func BenchmarkAllocateFlood(b *testing.B) {
	f, s := newFlow(b, 1000)
	request := (&client{server: s, src: f.src}).message(0x003, 0, udp)
	var k uint32
	flood := func() {
		k++
		f.src.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(k >> 16), byte(k >> 8), byte(k)}), uint16(1024+k%60000))
		binary.BigEndian.PutUint32(request[8:], k)
		n := copy(f.buf[Headroom:], request)
		f.core.FromClient(f.now, &f.src, Packet{f.buf, Headroom, n})
		f.core.Reset()
	}
	for range 2 * s.rules.Limits.Unconfirmed {
		flood()
	}
	before := f.core.stats.Recycled
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		flood()
		n++
	}
	if got := f.core.stats.Recycled - before; got != uint64(n) {
		b.Fatalf("%d recycled of %d", got, n)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestAnAllocationNeedsLittleMemory(t *testing.T) {
	const n, most = 10000, 1536 // allocations, bytes for each with a channel and two permissions
	before := heap()
	f, s := newFlow(t, n)
	s.ports[0].open = nil // the test's own
	each := (heap() - before - uint64(len(s.buf))) / n
	runtime.KeepAlive(f)
	t.Logf("%d bytes for each allocation with a channel and two permissions, its share of %d ports included", each, s.ledger.Ports().Total)
	if each > most {
		t.Errorf("%d bytes for each allocation, at most %d", each, most)
	}
}

package dataplane

import (
	"net/netip"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/turn"
)

// What follows has the layout of the structures of the same names in bpf/offload.c.

type offloadAddress [16]byte // IPv4 mapped

type offloadPort [2]byte // network order

type offloadKey struct {
	from, to, peer             offloadAddress
	fromPort, toPort, peerPort offloadPort
	channel                    offloadPort
}

type offloadFlow struct {
	from, to, peer             offloadAddress
	fromPort, toPort, peerPort offloadPort
	channel                    offloadPort
	form, half, inet6, peer6   uint8
	slot, meter, prefix        uint32
}

const (
	formPlain = iota
	formChannel
	formIndication
)

const (
	halfNone = iota
	halfFirst
	halfSecond
)

type offloadSlot struct {
	until, packets, bytes, last atomic.Uint64
	routeUntil                  atomic.Uint64
	_                           [24]byte // the route, the program's own
}

type offloadHop struct {
	neighbour offloadAddress
	iface     uint32
	_         [3]uint32
}

type offloadMeter struct {
	packets, bytes       atomic.Uint64
	packetCost, byteCost atomic.Uint64
}

// The program reads an element of an array at its size, which user space must not believe in another.
const (
	_ = uint(unsafe.Sizeof(offloadKey{}) - 56)
	_ = uint(56 - unsafe.Sizeof(offloadKey{}))
	_ = uint(unsafe.Sizeof(offloadFlow{}) - 72)
	_ = uint(72 - unsafe.Sizeof(offloadFlow{}))
	_ = uint(unsafe.Sizeof(offloadSlot{}) - 64)
	_ = uint(64 - unsafe.Sizeof(offloadSlot{}))
	_ = uint(unsafe.Sizeof(offloadHop{}) - 32)
	_ = uint(32 - unsafe.Sizeof(offloadHop{}))
	_ = uint(unsafe.Sizeof(offloadMeter{}) - 32)
	_ = uint(32 - unsafe.Sizeof(offloadMeter{}))
)

// flowGuard is how much earlier than the core a flow ends in the program, whose clock is some milliseconds coarse.
const flowGuard = 100 * time.Millisecond

func wirePort(p uint16) offloadPort { return offloadPort{byte(p >> 8), byte(p)} }

// keyOf is what the packets of a flow look like.
func keyOf(f *turn.Flow) (k offloadKey) {
	switch f.Kind {
	case turn.ChannelUp, turn.SendUp:
		k.from, k.fromPort = f.Client.Addr().As16(), wirePort(f.Client.Port())
		k.to, k.toPort = f.Server.Addr().As16(), wirePort(f.Server.Port())
		if f.Kind == turn.ChannelUp {
			k.channel = wirePort(f.Channel)
		} else {
			k.peer, k.peerPort = f.Named.Addr().As16(), wirePort(f.Named.Port())
		}
	default:
		k.from, k.fromPort = f.Peer.Addr().As16(), wirePort(f.Peer.Port())
		k.to, k.toPort = f.Relayed.Addr().As16(), wirePort(f.Relayed.Port())
	}
	return k
}

// flowOf is what becomes of them.
func flowOf(f *turn.Flow) (v offloadFlow) {
	from, to := f.Server, f.Client
	if f.Kind.Up() {
		from, to = f.Relayed, f.Peer
	}
	v.from, v.fromPort = from.Addr().As16(), wirePort(from.Port())
	v.to, v.toPort = to.Addr().As16(), wirePort(to.Port())
	v.meter, v.prefix = f.Meter, uint32(f.Prefix)
	if to.Addr().Is6() {
		v.inet6 = 1
	}
	switch f.Kind {
	case turn.ChannelDown:
		v.form, v.channel = formChannel, wirePort(f.Channel)
	case turn.DataDown:
		v.form, v.peer, v.peerPort = formIndication, f.Named.Addr().As16(), wirePort(f.Named.Port())
		if f.Named.Addr().Is6() {
			v.peer6 = 1
		}
	}
	if f.Hairpin {
		v.half = halfSecond
		if f.Kind.Up() {
			v.half = halfFirst
		}
	}
	return v
}

// table is the flows and budgets of all shards, which the program reads. Its lock is taken when a flow comes or goes, never for a packet.
type table struct {
	flows                              *ebpf.Map
	slotMemory, meterMemory, hopMemory []byte
	slots                              []offloadSlot // in slotMemory
	hopsOf                             []offloadHop
	meters                             []offloadMeter
	freeSlots, freeMeters              freeList
	keys                               []offloadKey // by slot
	shards                             []int32      // by slot: the shard plus one, 0 when it is free
	meterShards                        []int32      // by meter
	used                               int
	refused                            uint64
	base                               time.Time // and what the kernel's clock showed then
	baseNanoseconds                    int64
}

// freeList gives the index that was freed first: a processor that still has the flow of before in hand is then long done with it.
type freeList struct {
	ring []uint32
	head int
	n    int
}

func newFreeList(size int) freeList {
	l := freeList{ring: make([]uint32, size), n: size}
	for i := range l.ring {
		l.ring[i] = uint32(i)
	}
	return l
}

func (l *freeList) take() (uint32, bool) {
	if l.n == 0 {
		return 0, false
	}
	v := l.ring[l.head]
	l.head = (l.head + 1) % len(l.ring)
	l.n--
	return v, true
}

func (l *freeList) put(v uint32) {
	l.ring[(l.head+l.n)%len(l.ring)] = v
	l.n++
}

func newTable(programs *ebpf.Collection, flows, meters int) (t *table, err error) {
	t = &table{
		flows: programs.Maps["flows"], freeSlots: newFreeList(flows), freeMeters: newFreeList(meters),
		keys: make([]offloadKey, flows), shards: make([]int32, flows), meterShards: make([]int32, meters),
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return nil, err
	}
	t.base, t.baseNanoseconds = time.Now(), ts.Nano()
	if t.slotMemory, err = mapMemory(programs.Maps["slots"], flows*int(unsafe.Sizeof(offloadSlot{}))); err != nil {
		return nil, err
	}
	if t.hopMemory, err = mapMemory(programs.Maps["hops"], flows*int(unsafe.Sizeof(offloadHop{}))); err != nil {
		t.close()
		return nil, err
	}
	if t.meterMemory, err = mapMemory(programs.Maps["meters"], meters*int(unsafe.Sizeof(offloadMeter{}))); err != nil {
		t.close()
		return nil, err
	}
	t.hopsOf = unsafe.Slice((*offloadHop)(unsafe.Pointer(&t.hopMemory[0])), flows)
	t.slots = unsafe.Slice((*offloadSlot)(unsafe.Pointer(&t.slotMemory[0])), flows)
	t.meters = unsafe.Slice((*offloadMeter)(unsafe.Pointer(&t.meterMemory[0])), meters)
	return t, nil
}

func mapMemory(m *ebpf.Map, size int) ([]byte, error) {
	page := unix.Getpagesize()
	return unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func (t *table) close() {
	t.slots, t.meters, t.hopsOf = nil, nil, nil
	for _, m := range [][]byte{t.slotMemory, t.meterMemory, t.hopMemory} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
}

// clock is a time as the program reads it.
func (t *table) clock(at time.Time) uint64 {
	return uint64(max(0, t.baseNanoseconds+int64(at.Sub(t.base))))
}

func (t *table) time(clock uint64) time.Time {
	return t.base.Add(time.Duration(int64(clock) - t.baseNanoseconds))
}

// OpenMeter implements turn.Offload.
func (o *offload) OpenMeter(_ time.Time, m turn.Meter) (uint32, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.table
	if !o.runs {
		return 0, false
	}
	id, ok := t.freeMeters.take()
	if !ok {
		t.refused++
		return 0, false
	}
	x := &t.meters[id]
	x.packetCost.Store(costOf(m.PacketsPerSecond, 1))
	x.byteCost.Store(costOf(m.BytesPerSecond, 1024))
	x.packets.Store(t.clock(m.PacketsFull))
	x.bytes.Store(t.clock(m.BytesFull))
	t.meterShards[id] = int32(m.Shard) + 1
	return id, true
}

// costOf is what one of so many for each second takes of the bucket, in 1/unit nanoseconds.
func costOf(perSecond, unit int) uint64 {
	if perSecond <= 0 {
		return 0
	}
	return max(1, uint64(time.Second)*uint64(unit)/uint64(perSecond))
}

// Take implements turn.Offload, with the arithmetic of the program.
func (o *offload) Take(now time.Time, meter uint32, size int) bool {
	m, at := &o.table.meters[meter], o.table.clock(now)
	return spend(&m.packets, at, m.packetCost.Load()) && spend(&m.bytes, at, uint64(size)*m.byteCost.Load()>>10)
}

func spend(bucket *atomic.Uint64, now, cost uint64) bool {
	if cost == 0 {
		return true
	}
	for {
		old := bucket.Load()
		next := max(old, now) + cost
		if next-now > uint64(time.Second) {
			return false
		}
		if bucket.CompareAndSwap(old, next) {
			return true
		}
	}
}

// CloseMeter implements turn.Offload.
func (o *offload) CloseMeter(_ time.Time, meter uint32) turn.Meter {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.table
	x := &t.meters[meter]
	m := turn.Meter{PacketsFull: t.time(x.packets.Load()), BytesFull: t.time(x.bytes.Load())}
	t.meterShards[meter] = 0
	t.freeMeters.put(meter)
	return m
}

// Add implements turn.Offload.
func (o *offload) Add(f *turn.Flow) (uint32, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.table
	if !o.runs {
		return 0, false
	}
	id, ok := t.freeSlots.take()
	if !ok {
		t.refused++
		return 0, false
	}
	key, value := keyOf(f), flowOf(f)
	value.slot = id
	s := &t.slots[id]
	s.packets.Store(0)
	s.bytes.Store(0)
	s.last.Store(0)
	s.routeUntil.Store(0)
	if err := t.flows.Update(bytesOf(&key), bytesOf(&value), ebpf.UpdateNoExist); err != nil { // full, or the key of another shard's flow that ends
		t.refused++
		t.freeSlots.put(id)
		return 0, false
	}
	t.keys[id], t.shards[id] = key, int32(f.Shard)+1
	t.used++
	s.until.Store(t.clock(f.Until.Add(-flowGuard)))
	return id, true
}

// bytesOf is the memory of a value without pointers.
func bytesOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }

// Extend implements turn.Offload.
func (o *offload) Extend(id uint32, until time.Time) {
	o.table.slots[id].until.Store(o.table.clock(until.Add(-flowGuard)))
}

// Usage implements turn.Offload.
func (o *offload) Usage(id uint32) turn.Usage {
	s := &o.table.slots[id]
	return turn.Usage{Packets: s.packets.Load(), Bytes: s.bytes.Load(), Last: o.table.time(s.last.Load())}
}

// Remove implements turn.Offload. The store ends the flow at once, even if the system call that follows failed.
func (o *offload) Remove(id uint32) turn.Usage {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.remove(id)
}

func (o *offload) remove(id uint32) turn.Usage {
	t := o.table
	t.slots[id].until.Store(0)
	_ = t.flows.Delete(bytesOf(&t.keys[id])) // it is there, or somebody has emptied the map
	u := o.Usage(id)
	t.shards[id] = 0
	t.used--
	t.freeSlots.put(id)
	return u
}

// Reset implements turn.Offload.
func (o *offload) Reset(shard int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.table
	for id, of := range t.shards {
		if of == int32(shard)+1 {
			o.remove(uint32(id))
		}
	}
	for id, of := range t.meterShards {
		if of == int32(shard)+1 {
			t.meterShards[id] = 0
			t.freeMeters.put(uint32(id))
		}
	}
}

// hops is the neighbours that flows with packets since then have gone to.
func (t *table) hops(since time.Time) map[neighbour]bool {
	after := t.clock(since)
	seen := make(map[neighbour]bool)
	for id := range t.slots {
		s := &t.slots[id]
		if t.shards[id] == 0 || s.packets.Load() == 0 || s.last.Load() < after || len(seen) >= maxNeighbours {
			continue
		}
		h := &t.hopsOf[id]
		seen[neighbour{int(h.iface), netip.AddrFrom16(h.neighbour).Unmap()}] = true
	}
	return seen
}

type neighbour struct {
	iface int
	addr  netip.Addr
}

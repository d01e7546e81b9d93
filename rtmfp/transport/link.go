package transport

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// Ours to tune.
const (
	// batchCount is how many datagrams are read and handed to the endpoint together.
	batchCount = 64
	// bufferSize is above any datagram of RTMFP, so that a longer one is known by its size.
	bufferSize = 4096 + 1
	// batchesPerLink is how many batches a reader fills before it waits for the endpoint; the socket's buffer holds what comes
	// meanwhile.
	batchesPerLink = 3
	// A read that fails is repeated after readPause, doubled up to maxReadPause, and given up after readFailures in a row.
	readPause    = 5 * time.Millisecond
	maxReadPause = time.Second
	readFailures = 12
)

// Interface is a socket that a Transport uses.
type Interface struct {
	Conn net.PacketConn
	// IPv4 and IPv6 are the families of addresses that it reaches. Neither means by its local address: that family, or both
	// for the unspecified IPv6 address.
	IPv4, IPv6 bool
	// Delay is that of rtmfp.Interface.
	Delay time.Duration
}

// link is an interface with its buffers.
type link struct {
	t       *Transport
	index   int
	conn    net.PacketConn
	reach   rtmfp.Interface
	io      packetIO
	free    chan *batch
	closing atomic.Bool
}

// packetIO reads and writes several datagrams at once, if the system can.
type packetIO interface {
	// read waits for a datagram and fills the batch with all that wait.
	read(b *batch) error
	// room is how many datagrams read may fill a batch with.
	room() int
	// write returns how many were not sent.
	write(out []rtmfp.Datagram) (lost int)
}

// batch is datagrams that were read together.
type batch struct {
	slab  []byte
	sizes [batchCount]int
	from  [batchCount]netip.AddrPort
	n     int
	link  int
	home  chan *batch // where it goes back to; nil if nowhere
}

func newBatch(room int, home chan *batch) *batch {
	return &batch{slab: make([]byte, room*bufferSize), home: home}
}

func (b *batch) buffer(n int) []byte {
	return b.slab[n*bufferSize : (n+1)*bufferSize : (n+1)*bufferSize]
}

func (b *batch) datagram(n int) ([]byte, netip.AddrPort) { return b.buffer(n)[:b.sizes[n]], b.from[n] }

func newLink(t *Transport, index int, i Interface) (*link, error) {
	if i.Conn == nil {
		return nil, errors.New("transport: Interface.Conn is required")
	}
	l := &link{
		t: t, index: index, conn: i.Conn, reach: rtmfp.Interface{IPv4: i.IPv4, IPv6: i.IPv6, Delay: i.Delay}, free: make(chan *batch, batchesPerLink),
	}
	if !i.IPv4 && !i.IPv6 {
		local, err := addrPort(i.Conn.LocalAddr())
		if err != nil {
			return nil, fmt.Errorf("transport: interface %v: %w", i.Conn.LocalAddr(), err)
		}
		ip := local.Addr().Unmap()
		l.reach = rtmfp.Interface{IPv4: ip.Is4() || ip == netip.IPv6Unspecified(), IPv6: ip.Is6(), Delay: i.Delay}
	}
	l.io = newPacketIO(i.Conn)
	return l, nil
}

func (l *link) close() {
	if !l.closing.Swap(true) {
		_ = l.conn.Close()
	}
}

// read reads until the socket has ended.
func (l *link) read() error {
	pause, failures, made := readPause, 0, 0
	for {
		var b *batch
		if made < batchesPerLink {
			select {
			case b = <-l.free:
			default:
				b = newBatch(l.io.room(), l.free)
				made++
			}
		} else {
			b = <-l.free
		}
		b.n = 0
		if err := l.io.read(b); err != nil {
			l.free <- b
			if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || l.closing.Load() {
				return net.ErrClosed
			}
			// A UDP socket fails for what happened to a datagram that it has sent.
			l.t.stats.readErrors.Add(1)
			if failures++; failures > readFailures {
				return err
			}
			time.Sleep(pause)
			pause = min(2*pause, maxReadPause)
			continue
		}
		pause, failures = readPause, 0
		b.link = l.index
		l.t.stats.read.Add(uint64(b.n))
		l.deliver(b)
	}
}

// deliver drops what is too long, hands over what is other shards', and gives the rest to the endpoint.
func (l *link) deliver(b *batch) {
	kept := 0
	for n := range b.n {
		data, from := b.datagram(n)
		if len(data) == bufferSize {
			l.t.stats.long.Add(1)
			continue
		}
		if g := l.t.cfg.group; g != nil {
			if id, ok := rtmfp.SessionID(data); ok && id != 0 && id%uint32(len(g.shards)) != l.t.cfg.shard {
				l.t.stats.handed.Add(1)
				g.handOver(id%uint32(len(g.shards)), l.index, from, data)
				continue
			}
		}
		if kept != n {
			copy(b.buffer(kept), data)
		}
		b.sizes[kept], b.from[kept] = len(data), from
		kept++
	}
	b.n = kept
	l.t.in <- b
}

func (l *link) send(out []rtmfp.Datagram) (lost int) { return l.io.write(out) }

// addrPort converts the address of a socket.
func addrPort(a net.Addr) (netip.AddrPort, error) {
	if u, ok := a.(*net.UDPAddr); ok {
		return u.AddrPort(), nil
	}
	return netip.ParseAddrPort(a.String())
}

// addrPortConn is a *net.UDPConn and what is made like it.
type addrPortConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
}

// single is a packetIO of any net.PacketConn.
type single struct {
	conn  net.PacketConn
	quick addrPortConn // nil if it is none
}

func newSingle(c net.PacketConn) *single {
	s := &single{conn: c}
	s.quick, _ = c.(addrPortConn)
	return s
}

func (s *single) room() int { return 1 }

func (s *single) read(b *batch) error {
	if s.quick != nil {
		n, from, err := s.quick.ReadFromUDPAddrPort(b.buffer(0))
		if err != nil {
			return err
		}
		b.sizes[0], b.from[0], b.n = n, from, 1
		return nil
	}
	n, a, err := s.conn.ReadFrom(b.buffer(0))
	if err != nil {
		return err
	}
	from, err := addrPort(a)
	if err != nil {
		return nil // from nowhere that can be answered
	}
	b.sizes[0], b.from[0], b.n = n, from, 1
	return nil
}

func (s *single) write(out []rtmfp.Datagram) (lost int) {
	for i := range out {
		var err error
		if s.quick != nil {
			_, err = s.quick.WriteToUDPAddrPort(out[i].Data, out[i].To)
		} else {
			_, err = s.conn.WriteTo(out[i].Data, net.UDPAddrFromAddrPort(out[i].To))
		}
		if err != nil {
			lost++
		}
	}
	return lost
}

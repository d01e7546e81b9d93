package client

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// transport carries messages to and from the server. receive belongs to one goroutine, the rest is safe for concurrent use.
type transport interface {
	// receive waits for the next message. It is valid until the next call. An error ends the transport.
	receive() ([]byte, error)
	// control sends a message of the core. It never waits for the server. An error is the socket's; the message is lost.
	control(b []byte) error
	// data sends a message with a payload. It may wait for room until one of the two channels is closed or the transport
	// has failed, and then returns errStopped. b is the transport's only until it returns.
	data(b []byte, deadline, closing <-chan struct{}) error
	// foreign counts the messages that were not the server's.
	foreign() uint64
	local() net.Addr
	close() error
}

// buffers are for messages under way.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 2048); return &b }}

// datagrams is a transport over UDP.
type datagrams struct {
	pc       net.PacketConn
	fast     addrPortReader // pc, if it can
	server   netip.AddrPort
	to       *net.UDPAddr
	buf      []byte
	strays   atomic.Uint64
	failures int
}

// addrPortReader is what *net.UDPConn has beyond net.PacketConn: reading without an allocation.
type addrPortReader interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
}

func newDatagrams(pc net.PacketConn, server netip.AddrPort) *datagrams {
	d := &datagrams{pc: pc, server: server, to: net.UDPAddrFromAddrPort(server), buf: make([]byte, 1<<16)}
	d.fast, _ = pc.(addrPortReader)
	return d
}

func (d *datagrams) receive() ([]byte, error) {
	for {
		n, from, err := d.read()
		if err != nil {
			// Windows reports an ICMP error of an earlier datagram here; the socket is still good. A socket that fails again
			// and again is not.
			if d.failures++; d.failures > readErrors || isClosed(err) {
				return nil, err
			}
			continue
		}
		d.failures = 0
		if from != d.server {
			d.strays.Add(1)
			continue
		}
		return d.buf[:n], nil
	}
}

func (d *datagrams) read() (int, netip.AddrPort, error) {
	if d.fast != nil {
		n, from, err := d.fast.ReadFromUDPAddrPort(d.buf)
		return n, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), err
	}
	n, addr, err := d.pc.ReadFrom(d.buf)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	from, _ := addrPort(addr)
	return n, from, nil
}

func (d *datagrams) control(b []byte) error { return d.data(b, nil, nil) }

func (d *datagrams) data(b []byte, _, _ <-chan struct{}) error {
	_, err := d.pc.WriteTo(b, d.to)
	return err
}

func (d *datagrams) foreign() uint64 { return d.strays.Load() }
func (d *datagrams) local() net.Addr { return d.pc.LocalAddr() }
func (d *datagrams) close() error    { return d.pc.Close() }

// stream is a transport over TCP. One goroutine writes, so that a deadline of the caller never leaves half a message on the
// wire, and a server that does not read blocks no reader.
type stream struct {
	conn   net.Conn
	buf    []byte
	start  int // of what is read and not yet taken
	end    int
	queue  chan *[]byte
	urgent chan struct{} // holds a token while there is something in first
	done   chan struct{} // closed by close
	dead   chan struct{} // closed when the writer has ended
	wg     sync.WaitGroup

	mu     sync.Mutex
	first  []byte // messages of the core; the core's tables bound them
	failed error  // what ended the connection
}

func newStream(conn net.Conn) *stream {
	s := &stream{conn: conn, buf: make([]byte, maxFrame), queue: make(chan *[]byte, streamQueue),
		urgent: make(chan struct{}, 1), done: make(chan struct{}), dead: make(chan struct{})}
	s.wg.Go(s.write)
	return s
}

func (s *stream) receive() ([]byte, error) {
	b, err := s.next()
	if err != nil {
		return nil, s.fail(err)
	}
	return b, nil
}

// fail ends both directions and returns what failed first: what fails after it does so because of it.
func (s *stream) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
		_ = s.conn.Close()
	}
	return s.failed
}

// next cuts the next message out of the stream.
func (s *stream) next() ([]byte, error) {
	need := frameHead
	for {
		if s.end-s.start >= need {
			head := s.buf[s.start:s.end]
			size, err := frameSize(head)
			if err != nil {
				return nil, err
			}
			if len(head) >= size {
				s.start += size
				return head[:size], nil
			}
			need = size
		}
		if s.start > 0 {
			s.end = copy(s.buf, s.buf[s.start:s.end])
			s.start = 0
		}
		n, err := s.conn.Read(s.buf[s.end:])
		s.end += n
		if err != nil && s.end-s.start < need {
			return nil, err
		}
	}
}

func (s *stream) control(b []byte) error {
	s.mu.Lock()
	s.first = append(s.first, b...)
	s.mu.Unlock()
	select {
	case s.urgent <- struct{}{}:
	default:
	}
	return nil
}

func (s *stream) data(b []byte, deadline, closing <-chan struct{}) error {
	buf := buffers.Get().(*[]byte)
	*buf = append((*buf)[:0], b...)
	select {
	case s.queue <- buf:
		return nil
	case <-deadline:
	case <-closing:
	case <-s.dead:
	}
	buffers.Put(buf)
	return errStopped
}

// write is the goroutine that writes. Several messages go out in one call when they wait.
func (s *stream) write() {
	defer close(s.dead)
	out := make([]byte, 0, 1<<16)
	for {
		out = out[:0]
		select {
		case <-s.done:
			return
		case <-s.urgent:
		case b := <-s.queue:
			out = take(out, b)
		}
		s.mu.Lock()
		out = append(out, s.first...)
		s.first = s.first[:0]
		s.mu.Unlock()
	more:
		for len(out) < 1<<15 {
			select {
			case b := <-s.queue:
				out = take(out, b)
			default:
				break more
			}
		}
		if len(out) == 0 {
			continue
		}
		_ = s.conn.SetWriteDeadline(time.Now().Add(streamStall))
		if _, err := s.conn.Write(out); err != nil {
			_ = s.fail(err) // the reader notices and says that the allocation is lost
			return
		}
	}
}

func take(out []byte, b *[]byte) []byte {
	out = append(out, *b...)
	buffers.Put(b)
	return out
}

func (s *stream) foreign() uint64 { return 0 }
func (s *stream) local() net.Addr { return s.conn.LocalAddr() }

func (s *stream) close() error {
	close(s.done)
	err := s.conn.Close()
	s.wg.Wait()
	if isClosed(err) {
		return nil // fail was first
	}
	return err
}

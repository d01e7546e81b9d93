package dataplane

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/stilenet/stile/turn"
)

// accept takes the TCP connections of one listener.
func (p *plain) accept(l net.Listener, index int) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors, or a connection that ended while it waited
			continue
		}
		p.startStream(conn, index)
	}
}

func (p *plain) startStream(conn net.Conn, index int) {
	client, server := addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr())
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.cfg.Streams > 0 && len(p.streams) >= p.cfg.Streams ||
		p.cfg.StreamsPerClient > 0 && p.perClient[client.Addr()] >= p.cfg.StreamsPerClient {
		p.stats.StreamsRefused++
		conn.Close()
		return
	}
	for {
		if p.last++; p.last != 0 && p.streams[p.last] == nil {
			break
		}
	}
	s := &plainStream{conn: conn, out: make(chan []byte, plainStreamQueue)}
	p.streams[p.last] = s
	p.perClient[client.Addr()]++
	src := turn.Source{Client: client, Server: server, Stream: p.last, Listener: uint16(index)}
	p.readers.Go(func() { p.readStream(s, src) })
	p.readers.Go(s.write)
}

// readStream takes the frames of one connection until it ends.
func (p *plain) readStream(s *plainStream, src turn.Source) {
	r := bufio.NewReaderSize(s.conn, 4096)
	buf := make([]byte, turn.Headroom+plainRelayBuffer+turn.Tailroom)
	broken, wait := false, streamIdle
	for {
		n, err := p.readFrame(s, src.Stream, r, &buf, wait)
		wait = turn.MaxLifetime + streamIdle
		if err != nil {
			broken = errors.Is(err, errFrame)
			break
		}
		p.fromClient(&src, turn.Packet{Buf: buf, At: turn.Headroom, Len: n})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if broken {
		p.stats.StreamsBroken++
	}
	p.removeStream(src.Stream, s)
	if !p.closed {
		p.guarded(func() { p.core.StreamClosed(time.Now(), src.Stream) })
	}
}

var errFrame = errors.New("dataplane: no message can begin like this")

// readFrame reads one message into buf behind the headroom; buf grows for long ones.
//
// A connection that has sent nothing yet, or is within a message, must hurry; between messages it may be quiet for wait,
// as long as an allocation may live.
func (p *plain) readFrame(s *plainStream, number uint32, r *bufio.Reader, buf *[]byte, wait time.Duration) (int, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, err
	}
	if _, err := r.Peek(1); err != nil {
		return 0, err
	}
	if err := s.conn.SetReadDeadline(time.Now().Add(streamIdle)); err != nil {
		return 0, err
	}
	head, err := r.Peek(8)
	size, ok := turn.Frame(head)
	if !ok || channelTooEarly(head, p.hasStream(number)) {
		return 0, errFrame
	}
	if size == 0 || err != nil && size > len(head) {
		return 0, err
	}
	if need := turn.Headroom + size + turn.Tailroom; need > len(*buf) {
		*buf = make([]byte, need)
	}
	return io.ReadFull(r, (*buf)[turn.Headroom:turn.Headroom+size])
}

func (p *plain) hasStream(number uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.closed && p.core.HasStream(number)
}

// write sends what the queue has, so that a slow client never makes the core wait.
func (s *plainStream) write() {
	for b := range s.out {
		if s.conn.SetWriteDeadline(time.Now().Add(streamWrite)) != nil {
			break
		}
		if _, err := s.conn.Write(b); err != nil {
			break
		}
	}
	s.conn.Close() // wakes the reader, which removes the stream
	for range s.out {
	}
}

// removeStream forgets a connection. The lock is held.
func (p *plain) removeStream(n uint32, s *plainStream) {
	if s.removed {
		return
	}
	s.removed = true
	delete(p.streams, n)
	client := addrPort(s.conn.RemoteAddr()).Addr()
	if p.perClient[client]--; p.perClient[client] <= 0 {
		delete(p.perClient, client)
	}
	close(s.out)
}

// CloseStream implements turn.Opener: what is queued is sent first. The lock is held.
func (p *plain) CloseStream(n uint32) {
	if s := p.streams[n]; s != nil {
		p.removeStream(n, s)
	}
}

// addrPort is the unmapped address of a socket.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	case nil:
	default:
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

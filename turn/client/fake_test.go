package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

// fakeServer answers as a draft-08 server does whose every peer echoes, unless script says otherwise. It keeps no state
// beyond the channels and is here for what real servers cannot be brought to do.
type fakeServer struct {
	// script answers a message; handled false leaves it to the server. Replies are messages as they go over UDP.
	script func(m stun.Message, from string) (replies [][]byte, handled bool)

	mu       sync.Mutex
	log      []request
	channels map[uint16]netip.AddrPort
}

type request struct {
	method stun.Method
	class  stun.Class
	from   string // network and address
	at     time.Time
	msg    stun.Message
}

// receive takes a message of a client and returns the answers.
func (s *fakeServer) receive(raw []byte, from string) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw = append([]byte(nil), raw...)
	if isChannelData(raw) {
		number, payload, ok := parseChannelData(raw)
		if _, bound := s.channels[number]; ok && bound {
			return [][]byte{appendChannelData(nil, number, payload, false)}
		}
		return nil
	}
	m, err := stun.Parse(raw)
	if err != nil {
		return nil
	}
	s.log = append(s.log, request{m.Method(), m.Class(), from, time.Now(), m})
	if s.script != nil {
		if replies, handled := s.script(m, from); handled {
			return replies
		}
	}
	peer, _ := m.GetXORAddress(stun.AttrXORPeerAddress)
	switch m.Type() {
	case stun.NewType(stun.Allocate, stun.Request):
		return [][]byte{answer(m, stun.Success, allocation(600))}
	case stun.NewType(stun.Refresh, stun.Request):
		seconds, ok := m.Uint32(stun.AttrLifetime)
		if !ok {
			seconds = 600
		}
		return [][]byte{answer(m, stun.Success, func(b *stun.Builder) { b.Uint32(stun.AttrLifetime, seconds) })}
	case stun.NewType(stun.ChannelBind, stun.Request):
		number, _ := m.Uint32(stun.AttrChannelNumber)
		if s.channels == nil {
			s.channels = map[uint16]netip.AddrPort{}
		}
		s.channels[uint16(number>>16)] = peer
		return [][]byte{answer(m, stun.Success, nothing)}
	case stun.NewType(stun.Send, stun.Indication):
		if data, ok := m.Get(stun.AttrData); ok {
			return [][]byte{dataFrom(peer, data)}
		}
	}
	return nil
}

// serve answers over a socket until that is closed.
func (s *fakeServer) serve(pc net.PacketConn) {
	b := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			return
		}
		for _, reply := range s.receive(b[:n], from.String()) {
			_, _ = pc.WriteTo(reply, from)
		}
	}
}

// dataFrom is a Data indication.
func dataFrom(peer netip.AddrPort, data []byte) []byte {
	b := stun.Begin(nil, stun.NewType(stun.Data, stun.Indication), stun.TransactionID{7})
	b.XORAddress(stun.AttrXORPeerAddress, peer)
	b.Attr(stun.AttrData, data)
	return b.Bytes()
}

// requests lists what came so far.
func (s *fakeServer) requests(method stun.Method) (out []request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.log {
		if r.method == method {
			out = append(out, r)
		}
	}
	return out
}

// fakeNet joins clients and fake servers without a kernel, so that time is that of the bubble.
type fakeNet struct {
	t       *testing.T
	udp     map[netip.AddrPort]*fakeServer // absent: silence
	tcp     map[netip.AddrPort]*fakeServer // absent: connection refused
	chunk   int                            // bytes a server writes to a stream at a time; 0: whole messages
	broken  map[netip.AddrPort]error       // what sending there meets
	mu      sync.Mutex
	sockets []*fakeSocket
}

var (
	serverAddr = netip.MustParseAddrPort("198.51.100.1:3478")
	otherAddr  = netip.MustParseAddrPort("198.51.100.2:3478")
)

func (n *fakeNet) config() Config {
	return Config{
		Server: serverAddr.String(), ListenPacket: n.listen, DialContext: n.dial,
		Resolve: func(_ context.Context, _, host string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		},
	}
}

func (n *fakeNet) listen(_ context.Context, network, address string) (net.PacketConn, error) {
	if network != "udp4" || address != "0.0.0.0:0" {
		n.t.Errorf("ListenPacket(%q, %q)", network, address)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	port := uint16(40001) // the lowest free one, so that a port that was closed is had again
	for _, s := range n.sockets {
		if s.addr.Port() == port && !s.isClosed() {
			port++
		}
	}
	s := &fakeSocket{net: n, addr: netip.AddrPortFrom(mapped.Addr(), port), inbox: make(chan fakeDatagram, 1024), closed: make(chan struct{})}
	n.sockets = append(n.sockets, s)
	return s, nil
}

func (n *fakeNet) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "tcp" {
		n.t.Errorf("DialContext(%q, %q)", network, address)
	}
	server := n.tcp[netip.MustParseAddrPort(address)]
	if server == nil {
		return nil, syscall.ECONNREFUSED
	}
	near, far := net.Pipe()
	go n.serve(server, far)
	return near, ctx.Err()
}

func (n *fakeNet) serve(s *fakeServer, conn net.Conn) {
	defer conn.Close()
	buf := make([]byte, maxFrame)
	for {
		if _, err := io.ReadFull(conn, buf[:4]); err != nil {
			return
		}
		size, err := frameSize(buf)
		if err != nil {
			return
		}
		if _, err := io.ReadFull(conn, buf[4:size]); err != nil {
			return
		}
		for _, b := range s.receive(buf[:size], "tcp") {
			for len(b)%4 != 0 {
				b = append(b, 0xAA) // padding may be anything
			}
			for len(b) > 0 {
				k := len(b)
				if n.chunk > 0 {
					k = min(k, n.chunk)
				}
				if _, err := conn.Write(b[:k]); err != nil {
					return
				}
				b = b[k:]
			}
		}
	}
}

type fakeDatagram struct {
	from netip.AddrPort
	data []byte
}

type fakeSocket struct {
	net    *fakeNet
	addr   netip.AddrPort
	inbox  chan fakeDatagram
	once   sync.Once
	closed chan struct{}
}

func (s *fakeSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case <-s.closed:
		return 0, nil, net.ErrClosed
	case d := <-s.inbox:
		return copy(b, d.data), net.UDPAddrFromAddrPort(d.from), nil
	}
}

func (s *fakeSocket) WriteTo(b []byte, to net.Addr) (int, error) {
	addr := to.(*net.UDPAddr).AddrPort()
	if err := s.net.broken[addr]; err != nil {
		return 0, err
	}
	if server := s.net.udp[addr]; server != nil {
		for _, reply := range server.receive(b, "udp "+s.addr.String()) {
			s.put(addr, reply)
		}
	}
	return len(b), nil
}

// put delivers a datagram to the socket.
func (s *fakeSocket) put(from netip.AddrPort, b []byte) {
	select {
	case s.inbox <- fakeDatagram{from, append([]byte(nil), b...)}:
	default:
	}
}

func (s *fakeSocket) Close() error {
	err := net.ErrClosed
	s.once.Do(func() { close(s.closed); err = nil })
	return err
}

func (s *fakeSocket) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

func (s *fakeSocket) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(s.addr) }
func (s *fakeSocket) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (s *fakeSocket) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (s *fakeSocket) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

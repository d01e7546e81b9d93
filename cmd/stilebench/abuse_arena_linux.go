package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/stilenet/stile/stun"
)

// arena is a server under attack and the places that attackers have around it.
type arena struct {
	server  netip.AddrPort
	server6 netip.AddrPort // invalid: not attacked over IPv6
	lab     bool
	repo    string // where the corpora are

	inClients, inInternet func(func() error) error // run f where sockets of clients and of peers belong

	source   func(i int) netip.Addr // of client i; outside the laboratory all may be one
	stranger func(i int) netip.Addr // address i of the internet, from which nobody answers
	echo     netip.Addr             // where peers that answer are
	inside   []netip.Prefix         // networks that a client must not reach through the server; laboratory only
	witness  witness
	pids     func() []int // of the server, empty when unknown
	ended    func() error // why the server is no longer there
	restart  func() error // a fresh server; nil: it cannot be had
	payload  string       // {payload} of its command

	// What a test may make smaller; zero is the trial's own.
	drainSources, floodSeconds, scanSeconds int
}

// witness sees datagrams that the server relays, by the mark that their payload begins with.
type witness interface {
	// watch prepares to see datagrams to these addresses. In the laboratory all are seen anyway.
	watch(addrs ...netip.AddrPort) error
	// sightings returns what was seen since the last call.
	sightings() ([]sighting, error)
	close()
}

// sighting is a relayed datagram.
type sighting struct {
	where string // interface or socket
	to    netip.AddrPort
	tag   uint32 // what mark wrote
	size  int    // of the payload
}

var markMagic = [8]byte{'s', 't', 'i', 'l', 'e', 'b', 'n', '!'}

const markSize = len(markMagic) + 4

// mark is a payload that a witness knows again.
func mark(tag uint32, size int) []byte {
	b := make([]byte, max(size, markSize))
	copy(b, markMagic[:])
	binary.BigEndian.PutUint32(b[len(markMagic):], tag)
	return b
}

func readMark(b []byte) (tag uint32, ok bool) {
	if len(b) < markSize || [8]byte(b) != markMagic {
		return 0, false
	}
	return binary.BigEndian.Uint32(b[len(markMagic):]), true
}

// appendSightings notes a datagram whose payload begins with a mark. Several in one packet are datagrams that the server gave to the kernel
// at once (UDP segmentation offload), and that no interface of a laboratory takes apart.
func appendSightings(list []sighting, where string, to netip.AddrPort, payload []byte) []sighting {
	for {
		tag, ok := readMark(payload)
		if !ok {
			return list
		}
		size := len(payload)
		if next := bytes.Index(payload[len(markMagic):], markMagic[:]); next >= 0 {
			size = next + len(markMagic)
		}
		list = append(list, sighting{where, to, tag, size})
		payload = payload[size:]
	}
}

// attacker is one client's 5-tuple. Its methods are for one goroutine.
type attacker struct {
	conn   net.Conn
	stream bool
	buf    []byte
	in     []byte   // stream: what is no whole message yet
	data   [][]byte // what came besides responses, at most maxKept
	relay  netip.AddrPort
}

const maxKept = 1 << 12

// Ours to tune.
const (
	askTimeout = 300 * time.Millisecond // one transmission of a request
	askTries   = 3
)

// errSilent means that the server did not answer.
var errSilent = errors.New("no answer")

// refusal is an error response.
type refusal struct{ code int }

func (r refusal) Error() string { return fmt.Sprintf("error %d", r.code) }

func (a *arena) udp(i int) (*attacker, error) { return a.udpFrom(netip.AddrPortFrom(a.source(i), 0)) }

func (a *arena) udpFrom(local netip.AddrPort) (*attacker, error) {
	return a.dial(func() (net.Conn, error) {
		return net.DialUDP("udp", net.UDPAddrFromAddrPort(local), net.UDPAddrFromAddrPort(a.server))
	})
}

func (a *arena) udp6() (*attacker, error) {
	return a.dial(func() (net.Conn, error) { return net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(a.server6)) })
}

func (a *arena) tcp(i int) (*attacker, error) {
	t, err := a.dial(func() (net.Conn, error) {
		d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.source(i), 0))}
		return d.Dial("tcp", a.server.String())
	})
	if t != nil {
		t.stream = true
	}
	return t, err
}

func (a *arena) dial(f func() (net.Conn, error)) (t *attacker, err error) {
	err = a.inClients(func() error {
		c, err := f()
		if err == nil {
			t = &attacker{conn: c, buf: make([]byte, 1<<16)}
		}
		return err
	})
	return t, err
}

func (t *attacker) close() {
	if t.stream { // no TIME_WAIT after thousands of them
		_ = t.conn.(*net.TCPConn).SetLinger(0)
	}
	_ = t.conn.Close()
}

// send writes one message. That nobody listens any more is not its business.
func (t *attacker) send(b []byte) error {
	_ = t.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	_, err := t.conn.Write(b)
	if errors.Is(err, syscall.ECONNREFUSED) && !t.stream {
		return nil
	}
	return err
}

// read returns the next message, padding included, or an error; a timeout is os.ErrDeadlineExceeded.
func (t *attacker) read(until time.Time) ([]byte, error) {
	_ = t.conn.SetReadDeadline(until)
	for {
		if t.stream {
			if n := frameSize(t.in); n > 0 && n <= len(t.in) {
				msg := append([]byte(nil), t.in[:n]...)
				t.in = append(t.in[:0], t.in[n:]...)
				return msg, nil
			}
		}
		n, err := t.conn.Read(t.buf)
		if err != nil {
			if errors.Is(err, syscall.ECONNREFUSED) && !t.stream {
				continue
			}
			return nil, err
		}
		if !t.stream {
			return append([]byte(nil), t.buf[:n]...), nil
		}
		t.in = append(t.in, t.buf[:n]...)
	}
}

// frameSize is the size of the message that b begins with on a stream, 0 when it cannot be told yet.
func frameSize(b []byte) int {
	if len(b) < 4 {
		return 0
	}
	n := int(b[2])<<8 | int(b[3])
	if b[0]&0xC0 == 0 {
		return stun.HeaderSize + n
	}
	return 4 + (n+3)&^3
}

// ask sends a request and waits for its response; what else comes is kept in data.
func (t *attacker) ask(msg []byte) (stun.Message, error) {
	tries := askTries
	if t.stream {
		tries = 1
	}
	for range tries {
		if err := t.send(msg); err != nil {
			return stun.Message{}, err
		}
		m, err := t.await(stun.TransactionID(msg[8:20]), time.Now().Add(askTimeout*time.Duration(1+askTries-tries)))
		if !errors.Is(err, errSilent) {
			return m, err
		}
	}
	return stun.Message{}, errSilent
}

func (t *attacker) await(id stun.TransactionID, until time.Time) (stun.Message, error) {
	for {
		b, err := t.read(until)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return stun.Message{}, errSilent
		}
		if err != nil {
			return stun.Message{}, err
		}
		m, err := stun.Parse(b)
		if err != nil || m.TransactionID() != id || m.Class() != stun.Success && m.Class() != stun.Error {
			t.keep(b)
			continue
		}
		if m.Class() == stun.Error {
			code, _, _ := m.ErrorCode()
			return m, refusal{code}
		}
		return m, nil
	}
}

func (t *attacker) keep(b []byte) {
	if len(t.data) < maxKept {
		t.data = append(t.data, b)
	}
}

// drain keeps what comes until then.
func (t *attacker) drain(until time.Time) error {
	for {
		b, err := t.read(later(until))
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return err
		}
		t.keep(b)
	}
}

// later is a deadline that is not over yet: a read after its deadline fails although something is there.
func later(until time.Time) time.Time {
	if soon := time.Now().Add(2 * time.Millisecond); soon.After(until) {
		return soon
	}
	return until
}

// heard counts the marks in what was kept, and forgets it.
func (t *attacker) heard() (n int) {
	for _, b := range t.data {
		if payload, _, ok := unwrap(b, len(b)); ok {
			if _, ok := readMark(payload); ok {
				n++
			}
		}
	}
	t.data = nil
	return n
}

// allocate asks for an allocation as draft-08 does, with attributes besides.
func (t *attacker) allocate(attrs ...attr) error {
	m, err := t.ask(request(stun.Allocate, append([]attr{udpTransport}, attrs...)...))
	if err != nil {
		return err
	}
	relay, ok := m.GetXORAddress(stun.AttrXORRelayedAddress)
	if !ok {
		return errors.New("a success without RELAY-ADDRESS")
	}
	t.relay = relay
	return nil
}

func (t *attacker) release() {
	_, _ = t.ask(request(stun.Refresh, lifetimeAttr(0)))
}

// allocated is a client with an allocation.
func (a *arena) allocated(open func() (*attacker, error), attrs ...attr) (*attacker, error) {
	t, err := open()
	if err != nil {
		return nil, err
	}
	if err := t.allocate(attrs...); err != nil {
		t.close()
		return nil, fmt.Errorf("an ordinary Allocate: %w", err)
	}
	return t, nil
}

// alive asks for a Binding from a fresh port, and reports how long the answer took.
func (a *arena) alive(patience time.Duration) (time.Duration, error) {
	t, err := a.udp(0)
	if err != nil {
		return 0, err
	}
	defer t.close()
	start := time.Now()
	for time.Since(start) < patience {
		if _, err = t.ask(request(stun.Binding)); err == nil {
			return time.Since(start), nil
		}
		if a.ended() != nil {
			return 0, a.ended()
		}
	}
	return time.Since(start), fmt.Errorf("no answer to Binding within %v: %w", patience, err)
}

// peer is a socket of a host in the internet.
func (a *arena) peer(at netip.AddrPort) (conn *net.UDPConn, err error) {
	err = a.inInternet(func() error {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	return conn, err
}

// echoPeer is a peer that sends back what it gets, until it is closed.
func (a *arena) echoPeer() (*net.UDPConn, netip.AddrPort, error) {
	conn, err := a.peer(netip.AddrPortFrom(a.echo, 0))
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				if errors.Is(err, net.ErrClosed) {
					return
				}
				continue
			}
			_, _ = conn.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	return conn, conn.LocalAddr().(*net.UDPAddr).AddrPort(), nil
}

// spray sends a few datagrams from each of many sources, whose answers nobody waits for. In the laboratory the addresses are
// those of a network of clients, so that to the server they are forged ones.
func (a *arena) spray(sources []netip.AddrPort, messages func(i int) [][]byte, perSecond float64) error {
	return a.inClients(func() error {
		begin := time.Now()
		for i, src := range sources {
			if wait := time.Duration(float64(i)/perSecond*1e9) - time.Since(begin); wait > time.Millisecond {
				time.Sleep(wait)
			}
			if err := sprayOne(src, a.server, messages(i)); err != nil {
				return err
			}
		}
		return nil
	})
}

func sprayOne(src, server netip.AddrPort, messages [][]byte) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(src.Port()), Addr: src.Addr().As4()}); err != nil {
		return fmt.Errorf("bind to %v: %w", src, err)
	}
	to := &syscall.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}
	for _, m := range messages {
		if err := syscall.Sendto(fd, m, 0, to); err != nil && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOBUFS) {
			return fmt.Errorf("send from %v: %w", src, err)
		}
	}
	return nil
}

// socketWitness watches with sockets, where there is no laboratory: on addresses of this machine.
type socketWitness struct {
	mu    sync.Mutex
	seen  []sighting
	conns map[netip.AddrPort]*net.UDPConn
}

func newSocketWitness() *socketWitness {
	return &socketWitness{conns: make(map[netip.AddrPort]*net.UDPConn)}
}

// watch opens sockets on those addresses that this machine has.
func (w *socketWitness) watch(addrs ...netip.AddrPort) error {
	for _, at := range addrs {
		at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		if w.conns[at] != nil || !at.Addr().IsValid() || at.Addr().IsUnspecified() || at.Addr().IsMulticast() {
			continue
		}
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EACCES) {
			continue
		} else if err != nil {
			return err
		}
		w.conns[at] = c
		go w.listen(c, at)
	}
	return nil
}

func (w *socketWitness) listen(c *net.UDPConn, at netip.AddrPort) {
	b := make([]byte, 1<<16)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		w.mu.Lock()
		w.seen = appendSightings(w.seen, "socket", at, b[:n])
		w.mu.Unlock()
	}
}

func (w *socketWitness) sightings() ([]sighting, error) {
	time.Sleep(50 * time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.seen
	w.seen = nil
	return s, nil
}

func (w *socketWitness) close() {
	for _, c := range w.conns {
		_ = c.Close()
	}
}

// here runs f without a laboratory.
func here(f func() error) error { return f() }

// newRemoteArena is for a server that runs. What needs hosts around it is not there; pid 0 is unknown.
func newRemoteArena(hostPort, repo string, pid int) (*arena, error) {
	t, err := newRemoteTarget(hostPort, pid)
	if err != nil {
		return nil, err
	}
	local, err := sourceFor(t.addr)
	if err != nil {
		return nil, err
	}
	a := &arena{
		server: t.addr, repo: repo, inClients: here, inInternet: here,
		source: func(int) netip.Addr { return local }, stranger: func(int) netip.Addr { return local },
		echo: local, witness: newSocketWitness(), pids: t.pids, ended: func() error { return nil },
	}
	if local.IsLoopback() && local.Is4() { // every address of 127/8 is ours
		a.source = func(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 128, byte(i / 250), byte(1 + i%250)}) }
		a.stranger = func(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 64, byte(i / 250), byte(1 + i%250)}) }
	}
	return a, nil
}

// eof reports whether a stream has ended, however.
func eof(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}

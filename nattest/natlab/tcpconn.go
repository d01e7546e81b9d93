package natlab

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Ours to tune, as Linux has them where it has them.
const (
	firstRTO      = time.Second // RFC 6298 §2.1
	minRTO        = 200 * time.Millisecond
	maxRTO        = 60 * time.Second
	maxTries      = 15 // retransmissions of data before the connection is given up
	maxSYNTries   = 6
	finTimeout    = 60 * time.Second // how long a closed connection waits for the peer's end
	tcpBuffer     = 256 << 10        // bytes, in each direction
	tcpHeaders    = ipv6HeaderBytes + tcpHeaderBytes
	defaultMSS    = defaultMTU - tcpHeaders
	firstWindow   = 10 * defaultMSS // RFC 6928
	duplicateACKs = 3               // RFC 5681 §3.2
)

// segment is the TCP header: offsets instead of sequence numbers, and an identity of both ends, so that a packet of an
// earlier connection is known for what it is.
type segment struct {
	syn, ack, fin, rst bool
	id, to             uint64 // of the sender's and the receiver's end; to is zero in a first SYN
	seq                uint64 // offset of the payload's first byte
	acked              uint64 // offset of the first byte that is missing
	window             int    // bytes that may be sent beyond acked
}

func (s *segment) String() string {
	if s == nil {
		return ""
	}
	switch {
	case s.rst:
		return "RST"
	case s.syn && s.ack:
		return "SYN ACK"
	case s.syn:
		return "SYN"
	case s.fin:
		return fmt.Sprintf("FIN at %d ACK %d", s.seq, s.acked)
	}
	return fmt.Sprintf("at %d ACK %d", s.seq, s.acked)
}

type tcpState uint8

const (
	synSent tcpState = iota + 1
	synReceived
	established
	dead
)

// TCPConn is one end of a TCP connection. Its methods may be called concurrently.
type TCPConn struct {
	host     *Host
	key      connKey
	listener *Listener // of an accepted connection, until it is open
	rank     rank

	opened  chan struct{} // closed when the connection is open
	failed  chan struct{} // closed when it is dead
	readyR  chan struct{}
	readyW  chan struct{}
	read    *deadline
	write   *deadline
	closedc chan struct{} // closed by Close
	once    sync.Once

	// The rest is guarded by Net.mu.
	state      tcpState
	err        error // why it is dead
	id, peerID uint64

	out       []byte // from offset una
	una, next uint64 // offsets: first byte not acknowledged, next byte to send
	finQueued bool
	finSent   bool
	finAcked  bool
	peerWnd   int
	cwnd      int
	threshold int
	mss       int
	dupes     int
	tries     int
	rto       time.Duration
	srtt, dev time.Duration
	timedAt   time.Time // when the byte at timed was sent, for the round trip time
	timed     uint64
	resendAt  time.Time // zero: no timer
	armed     time.Time // when the earliest timer event comes

	in      []byte
	inNext  uint64            // offset of the first byte that is missing
	early   map[uint64][]byte // what came out of order
	finAt   uint64            // offset of the peer's FIN
	finSeen bool
	eof     bool // everything up to the peer's FIN is in in
	hidden  bool // closed by the user
}

func (h *Host) newTCPConn(key connKey, state tcpState) *TCPConn {
	h.tcp.serial++
	c := &TCPConn{host: h, key: key, state: state, id: h.tcp.serial,
		rank:   rank{host: h.node.id + 1, proto: TCP, port: key.local.Port(), conn: h.tcp.serial},
		opened: make(chan struct{}), failed: make(chan struct{}), closedc: make(chan struct{}),
		readyR: make(chan struct{}, 1), readyW: make(chan struct{}, 1), read: newDeadline(), write: newDeadline(),
		peerWnd: tcpBuffer, cwnd: firstWindow, threshold: tcpBuffer, mss: defaultMSS, rto: firstRTO, early: make(map[uint64][]byte)}
	h.tcp.conns[key] = c
	return c
}

// schedule runs f in the loop, after everything of this instant. Called with mu held.
func (c *TCPConn) schedule(f func(now time.Time)) {
	c.host.net.from(c.rank, nil, func(now time.Time, _ *Packet) {
		if c.state != dead {
			f(now)
		}
	})
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (c *TCPConn) transmit(now time.Time, s segment, payload []byte) {
	s.id, s.to = c.id, c.peerID
	s.acked, s.window = c.inNext, max(0, tcpBuffer-len(c.in))
	if c.eof {
		s.acked++ // the FIN has a place in the sequence (§3.4)
	}
	c.host.sendSegment(now, c.key.local, c.key.remote, &s, payload)
}

func (c *TCPConn) sendSYN(now time.Time) {
	c.transmit(now, segment{syn: true, ack: c.state == synReceived}, nil)
	c.arm(now)
}

// arm starts the retransmission timer. One event at a time waits in the heap; it looks at resendAt when it comes.
func (c *TCPConn) arm(now time.Time) {
	c.resendAt = now.Add(c.rto)
	if c.armed.IsZero() || c.armed.After(c.resendAt) {
		c.wait(c.resendAt)
	}
}

func (c *TCPConn) wait(at time.Time) {
	c.armed = at
	c.host.net.at(at, nil, func(now time.Time, _ *Packet) {
		if c.state == dead || !c.armed.Equal(at) {
			return
		}
		c.armed = time.Time{}
		switch {
		case c.resendAt.IsZero():
		case now.Before(c.resendAt):
			c.wait(c.resendAt)
		default:
			c.timeout(now)
		}
	})
}

func (c *TCPConn) timeout(now time.Time) {
	c.tries++
	limit := maxTries
	if c.state != established {
		limit = maxSYNTries
	}
	if c.tries > limit {
		c.fail(syscall.ETIMEDOUT)
		return
	}
	c.rto = min(2*c.rto, maxRTO)
	if c.state != established {
		c.sendSYN(now)
		return
	}
	c.threshold = max(int(c.next-c.una)/2, 2*c.mss)
	c.cwnd = c.mss
	c.goBack(now)
}

// goBack sends again from the first byte that is not acknowledged.
func (c *TCPConn) goBack(now time.Time) {
	c.timedAt = time.Time{} // RFC 6298 §3: no round trip from a retransmission
	c.next = c.una
	c.finSent = false
	c.resendAt = time.Time{}
	c.dupes = 0
	if !c.pump(now) && len(c.out) > 0 { // a closed window: probe it
		c.sendData(now, 1)
	}
}

// pump sends what the windows allow.
func (c *TCPConn) pump(now time.Time) (sent bool) {
	if c.state != established {
		return false
	}
	for {
		offset := int(c.next - c.una)
		size := min(len(c.out)-offset, c.mss, min(c.cwnd, c.peerWnd)-offset)
		if size <= 0 {
			break
		}
		c.sendData(now, size)
		sent = true
	}
	if c.finQueued && !c.finSent && int(c.next-c.una) == len(c.out) {
		c.finSent = true
		c.transmit(now, segment{ack: true, fin: true, seq: c.next}, nil)
		c.arm(now)
		sent = true
	}
	if c.resendAt.IsZero() && len(c.out) > 0 {
		c.arm(now) // the window is closed; the timer probes it
	}
	return sent
}

func (c *TCPConn) sendData(now time.Time, size int) {
	offset := int(c.next - c.una)
	if c.timedAt.IsZero() && c.tries == 0 {
		c.timedAt, c.timed = now, c.next
	}
	c.transmit(now, segment{ack: true, seq: c.next}, slices.Clone(c.out[offset:offset+size]))
	c.next += uint64(size)
	if c.resendAt.IsZero() {
		c.arm(now)
	}
}

// shrink takes a new path MTU.
func (c *TCPConn) shrink(now time.Time, mtu int) {
	if mss := max(mtu-tcpHeaders, 1); mss < c.mss {
		c.mss = mss
		c.goBack(now)
	}
}

// receive takes a segment (§3.10.7, as far as the laboratory needs it).
func (c *TCPConn) receive(now time.Time, p *Packet) {
	s := p.seg
	if s.to != 0 && s.to != c.id {
		if !s.rst { // for an earlier connection
			c.host.sendSegment(now, c.key.local, c.key.remote, &segment{rst: true, id: s.to, to: s.id}, nil)
		}
		return
	}
	if c.peerID != 0 && s.id != c.peerID && !s.rst {
		if s.syn { // the peer has a new connection: it forgot this one
			c.fail(syscall.ECONNRESET)
		}
		return
	}
	if s.rst {
		if s.to == 0 {
			return
		}
		if c.state == synSent {
			c.fail(syscall.ECONNREFUSED)
		} else {
			c.fail(syscall.ECONNRESET)
		}
		return
	}
	switch c.state {
	case synSent:
		if !s.syn {
			return
		}
		c.peerID = s.id
		if s.ack {
			c.open(now)
			c.transmit(now, segment{ack: true, seq: c.next}, nil)
			return
		}
		c.state = synReceived // simultaneous open (§3.5)
		c.sendSYN(now)
		return
	case synReceived:
		if s.syn && !s.ack {
			c.sendSYN(now)
			return
		}
		c.open(now)
		if c.state == dead {
			return
		}
		if s.syn {
			return
		}
	case established:
		if s.syn { // our acknowledgement was lost
			c.transmit(now, segment{ack: true, seq: c.next}, nil)
			return
		}
	}
	c.acknowledge(now, s, len(p.Payload) == 0 && !s.fin)
	if c.state == dead {
		return
	}
	c.take(now, s, p.Payload)
	c.pump(now)
	c.finish()
}

// open makes the connection usable.
func (c *TCPConn) open(now time.Time) {
	c.state = established
	c.tries, c.rto, c.resendAt = 0, firstRTO, time.Time{}
	if l := c.listener; l != nil {
		c.listener = nil
		select {
		case <-l.shutc:
			c.abortNow(now)
			return
		default:
		}
		select {
		case l.ready <- c:
		default:
			c.abortNow(now)
			return
		}
	}
	close(c.opened)
	c.pump(now)
}

// acknowledge takes the acknowledgement of a segment; pure says that it carries nothing else.
func (c *TCPConn) acknowledge(now time.Time, s *segment, pure bool) {
	grown := s.window > c.peerWnd
	c.peerWnd = s.window
	end := c.una + uint64(len(c.out))
	acked, ended := s.acked, false
	if acked > end {
		if acked != end+1 || !c.finQueued {
			return // acknowledges what was never sent
		}
		acked = end
		ended = !c.finAcked
		c.finAcked = true
	}
	switch {
	case acked > c.una || ended:
		fresh := int(acked - c.una)
		c.out = c.out[fresh:]
		c.una = acked
		c.next = max(c.next, acked)
		c.tries, c.dupes = 0, 0
		if !c.timedAt.IsZero() && acked > c.timed {
			c.measure(now.Sub(c.timedAt))
			c.timedAt = time.Time{}
		} else if c.srtt > 0 {
			c.rto = min(max(c.srtt+4*c.dev, minRTO), maxRTO)
		}
		if c.cwnd < c.threshold {
			c.cwnd += fresh
		} else {
			c.cwnd += max(1, c.mss*fresh/c.cwnd)
		}
		c.resendAt = time.Time{}
		if len(c.out) > 0 || (c.finSent && !c.finAcked) {
			c.arm(now)
		}
		signal(c.readyW)
	case pure && !grown && acked == c.una && c.next > c.una:
		if c.dupes++; c.dupes == duplicateACKs {
			c.threshold = max(int(c.next-c.una)/2, 2*c.mss)
			c.cwnd = c.threshold
			c.goBack(now)
		}
	}
}

// measure takes a round trip time (RFC 6298 §2).
func (c *TCPConn) measure(rtt time.Duration) {
	if c.srtt == 0 {
		c.srtt, c.dev = rtt, rtt/2
	} else {
		c.dev = (3*c.dev + (c.srtt - rtt).Abs()) / 4
		c.srtt = (7*c.srtt + rtt) / 8
	}
	c.rto = min(max(c.srtt+4*c.dev, minRTO), maxRTO)
}

// take takes the data of a segment.
func (c *TCPConn) take(now time.Time, s *segment, payload []byte) {
	if len(payload) == 0 && !s.fin {
		return
	}
	if c.hidden && s.seq+uint64(len(payload)) > c.inNext { // new, and nobody will read it (RFC 1122 §4.2.2.13)
		c.abortNow(now)
		return
	}
	if s.fin {
		c.finSeen, c.finAt = true, s.seq+uint64(len(payload))
	}
	if end := s.seq + uint64(len(payload)); end > c.inNext && int(end-c.inNext) <= tcpBuffer-len(c.in) {
		if old, ok := c.early[s.seq]; !ok || len(old) < len(payload) {
			c.early[s.seq] = payload
		}
	}
	for progress := true; progress; {
		progress = false
		for _, seq := range slices.Sorted(maps.Keys(c.early)) {
			data := c.early[seq]
			if seq > c.inNext {
				break
			}
			delete(c.early, seq)
			if end := seq + uint64(len(data)); end > c.inNext {
				c.in = append(c.in, data[c.inNext-seq:]...)
				c.inNext = end
				progress = true
			}
		}
	}
	if c.finSeen && c.inNext == c.finAt {
		c.eof = true
	}
	signal(c.readyR)
	c.transmit(now, segment{ack: true, seq: c.next}, nil)
}

// finish ends a connection that both sides, and the user, have closed.
func (c *TCPConn) finish() {
	if c.state == established && c.finAcked && c.eof && c.hidden {
		c.fail(net.ErrClosed)
	}
}

// fail ends the connection without a word to the peer. Called with mu held.
func (c *TCPConn) fail(err error) {
	if c.state == dead {
		return
	}
	c.state, c.err = dead, err
	delete(c.host.tcp.conns, c.key)
	close(c.failed)
}

func (c *TCPConn) abortNow(now time.Time) {
	if c.state != dead {
		c.transmit(now, segment{rst: true}, nil)
		c.fail(syscall.ECONNRESET)
	}
}

// abort resets the connection from a socket's goroutine. Called with mu held.
func (c *TCPConn) abort() {
	if c.state != dead {
		id, to := c.id, c.peerID
		c.fail(net.ErrClosed)
		c.host.net.from(c.rank, nil, func(now time.Time, _ *Packet) {
			c.host.sendSegment(now, c.key.local, c.key.remote, &segment{rst: true, id: id, to: to}, nil)
		})
	}
}

func (c *TCPConn) failure() error {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	return c.err
}

func (c *TCPConn) isClosed() bool {
	select {
	case <-c.closedc:
		return true
	default:
		return false
	}
}

func (c *TCPConn) opError(op string, err error) error {
	return opError(op, "tcp", c.LocalAddr(), c.RemoteAddr(), err)
}

// Read implements net.Conn.
func (c *TCPConn) Read(b []byte) (int, error) {
	for {
		if c.isClosed() {
			return 0, c.opError("read", net.ErrClosed)
		}
		if c.read.passed() {
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		}
		n, done, err := c.tryRead(b)
		if done {
			if err != nil && !errors.Is(err, io.EOF) {
				err = c.opError("read", err)
			}
			return n, err
		}
		select {
		case <-c.readyR:
		case <-c.failed:
		case <-c.closedc:
		case <-c.read.done():
		}
	}
}

func (c *TCPConn) tryRead(b []byte) (n int, done bool, err error) {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	switch {
	case len(c.in) > 0:
		shut := tcpBuffer-len(c.in) < c.mss
		n = copy(b, c.in)
		c.in = c.in[n:]
		if shut && c.state == established {
			c.schedule(func(now time.Time) { c.transmit(now, segment{ack: true, seq: c.next}, nil) })
		}
		if len(c.in) > 0 || c.eof {
			signal(c.readyR) // for another reader
		}
		return n, true, nil
	case c.eof:
		signal(c.readyR)
		return 0, true, io.EOF
	case c.state == dead:
		return 0, true, c.err
	case len(b) == 0:
		return 0, true, nil
	}
	return 0, false, nil
}

// Write implements net.Conn. It waits while 256 KiB are not acknowledged.
func (c *TCPConn) Write(b []byte) (int, error) {
	total := 0
	for {
		if c.isClosed() {
			return total, c.opError("write", net.ErrClosed)
		}
		if c.write.passed() {
			return total, c.opError("write", os.ErrDeadlineExceeded)
		}
		n, err := c.tryWrite(b[total:])
		total += n
		if err != nil {
			return total, c.opError("write", err)
		}
		if total == len(b) {
			return total, nil
		}
		select {
		case <-c.readyW:
		case <-c.failed:
		case <-c.closedc:
		case <-c.write.done():
		}
	}
}

func (c *TCPConn) tryWrite(b []byte) (int, error) {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	switch {
	case c.state == dead:
		return 0, c.err
	case c.finQueued:
		return 0, syscall.EPIPE
	}
	n := min(len(b), tcpBuffer-len(c.out))
	if n > 0 {
		c.out = append(c.out, b[:n]...)
		c.schedule(func(now time.Time) { c.pump(now) })
	}
	if len(c.out) < tcpBuffer {
		signal(c.readyW) // for another writer
	}
	return n, nil
}

// CloseWrite ends the sending direction: the peer reads io.EOF after what was written.
func (c *TCPConn) CloseWrite() error {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	if c.state == dead {
		return c.opError("close", c.err)
	}
	c.queueFIN()
	return nil
}

func (c *TCPConn) queueFIN() {
	if !c.finQueued {
		c.finQueued = true
		c.schedule(func(now time.Time) { c.pump(now) })
	}
}

// Close implements net.Conn. What was written is still delivered; if there is something that was not read, the
// connection is reset.
func (c *TCPConn) Close() error {
	first := false
	c.once.Do(func() { close(c.closedc); first = true })
	if !first {
		return c.opError("close", net.ErrClosed)
	}
	c.read.set(time.Time{})
	c.write.set(time.Time{})
	n := c.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	c.hidden = true
	switch {
	case c.state == dead:
	case len(c.in) > 0:
		c.abort()
	case c.finAcked && c.eof:
		c.fail(net.ErrClosed)
	default:
		c.queueFIN()
		n.fromAt(time.Now().Add(finTimeout), c.rank, nil, func(time.Time, *Packet) { c.fail(net.ErrClosed) })
	}
	return nil
}

// LocalAddr implements net.Conn; it is a *net.TCPAddr.
func (c *TCPConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.key.local) }

// RemoteAddr implements net.Conn; it is a *net.TCPAddr.
func (c *TCPConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.key.remote) }

// LocalAddrPort is LocalAddr as a value.
func (c *TCPConn) LocalAddrPort() netip.AddrPort { return c.key.local }

// SetDeadline implements net.Conn.
func (c *TCPConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn. It also applies to reads that are waiting.
func (c *TCPConn) SetReadDeadline(t time.Time) error { return c.setDeadline(c.read, t) }

// SetWriteDeadline implements net.Conn. It also applies to writes that are waiting.
func (c *TCPConn) SetWriteDeadline(t time.Time) error { return c.setDeadline(c.write, t) }

func (c *TCPConn) setDeadline(d *deadline, t time.Time) error {
	if c.isClosed() {
		return c.opError("set", net.ErrClosed)
	}
	d.set(t)
	return nil
}

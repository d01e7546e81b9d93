package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Conn is an allocation on a TURN server: a net.PacketConn at a relayed address. All methods may be called by any number of
// goroutines. It has two goroutines of its own, three over TCP, which end before Close returns.
type Conn struct {
	t      transport
	rx     *queue
	server net.Addr
	relay  *net.UDPAddr // set before Dial returns
	strays *sync.WaitGroup

	mu      sync.Mutex // guards what follows; never held while something blocks
	core    *core
	full    uint64 // payloads that rx had no room for
	waiting map[netip.Addr][]chan error
	binding map[netip.AddrPort][]chan error
	lost    error // why the allocation is gone

	settled  chan error    // gets the outcome of the Allocate
	released chan struct{} // closed when nothing is to be released any more
	gone     chan struct{} // closed with lost
	rearm    chan struct{} // holds a token when the core wants to be woken earlier
	closing  chan struct{} // closed by Close, first of all
	done     chan struct{} // closed when the goroutines shall end
	wg       sync.WaitGroup

	releaseOnce, closeOnce sync.Once
	closeErr               error
	readBy, writeBy        deadline
}

var errStopped = errors.New("client: stopped")

// newConn starts the goroutines over a transport, which is the Conn's from then on.
func newConn(t transport, c *core, server net.Addr, strays *sync.WaitGroup) *Conn {
	conn := &Conn{
		t: t, core: c, server: server, rx: newQueue(), strays: strays, waiting: map[netip.Addr][]chan error{}, binding: map[netip.AddrPort][]chan error{},
		settled: make(chan error, 1), released: make(chan struct{}), gone: make(chan struct{}), rearm: make(chan struct{}, 1),
		closing: make(chan struct{}), done: make(chan struct{}),
	}
	conn.wg.Go(conn.receive)
	conn.wg.Go(conn.timers)
	return conn
}

// allocate asks for the allocation and waits for the outcome.
func (c *Conn) allocate(ctx context.Context, began time.Time) error {
	if err := c.do(func(now time.Time) { c.core.start(now, began) }); err != nil {
		return err // no route, or our own firewall: another way may do, and at once
	}
	select {
	case err := <-c.settled:
		if err == nil {
			c.relay = net.UDPAddrFromAddrPort(c.core.relayed) // never changes after this
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// do runs the core and then sends and tells what it left.
func (c *Conn) do(f func(now time.Time)) error {
	c.mu.Lock()
	f(time.Now())
	return c.leave()
}

// leave unlocks the core, sends what it left and wakes whom it must. The error is the socket's; most callers can ignore it,
// because what is lost here is sent again or made up for as if it were lost on the way.
func (c *Conn) leave() (err error) {
	moved := c.core.wakeMoved()
	out, events := c.core.takeOut()
	var calls []func()
	for _, e := range events {
		calls = append(calls, c.handle(e))
	}
	c.mu.Unlock()
	for _, b := range out {
		if e := c.t.control(b); e != nil && err == nil {
			err = e
		}
	}
	for _, call := range calls {
		call()
	}
	if moved {
		c.kick()
	}
	return err
}

// kick has the timer set anew.
func (c *Conn) kick() {
	select {
	case c.rearm <- struct{}{}:
	default:
	}
}

// handle notes an event, under the mutex, and returns what is left to do without it.
func (c *Conn) handle(e event) func() {
	switch e.kind {
	case eventAllocated:
		return func() { c.settled <- nil }
	case eventFailed:
		return func() {
			c.settled <- e.err
			c.endRelease()
		}
	case eventLost:
		c.lose(e.err)
		return c.endRelease
	case eventReleased:
		return c.endRelease
	case eventPermission:
		waiting := c.waiting[e.addr]
		delete(c.waiting, e.addr)
		return func() { tellAll(waiting, e.err) }
	case eventBound:
		waiting := c.binding[e.peer]
		delete(c.binding, e.peer)
		return func() { tellAll(waiting, e.err) }
	}
	panic("BUG: client: an event without a kind")
}

func tellAll(waiting []chan error, err error) {
	for _, w := range waiting {
		w <- err
	}
}

func (c *Conn) endRelease() { c.releaseOnce.Do(func() { close(c.released) }) }

// lose notes, under the mutex, that the allocation is gone.
func (c *Conn) lose(cause error) {
	if c.lost == nil {
		c.lost = fmt.Errorf("client: %w: %w", ErrAllocationLost, cause)
		close(c.gone)
	}
}

// receive is the goroutine that reads from the server.
func (c *Conn) receive() {
	for {
		b, err := c.t.receive()
		if err != nil {
			_ = c.do(func(time.Time) { c.core.lose(fmt.Errorf("the connection to the server: %w", err)) })
			return
		}
		c.mu.Lock()
		from, data, ok := c.core.handle(time.Now(), b)
		if ok && !c.rx.push(from, data) {
			c.full++
		}
		_ = c.leave()
	}
}

// timers is the goroutine that calls the core when it asked for it.
func (c *Conn) timers() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-c.rearm:
		case <-timer.C:
		}
		c.mu.Lock()
		now := time.Now()
		if wake := c.core.wake; !wake.IsZero() && !wake.After(now) {
			c.core.tick(now)
		}
		wake := c.core.wakeTaken()
		_ = c.leave()
		if wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(wake))
		}
	}
}

// ReadFrom waits for a datagram of a peer and copies its payload to b; what does not fit is lost. The address is a
// *net.UDPAddr, the same one for each datagram of a peer: it must not be changed. It returns os.ErrDeadlineExceeded after the
// read deadline, net.ErrClosed after Close and ErrAllocationLost, when everything received before is read, once the
// relayed address is gone.
func (c *Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, c.rx.addr(from), nil
}

// ReadFromUDPAddrPort is ReadFrom with another form of address.
func (c *Conn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	for {
		passed := c.readBy.wait()
		// A passed deadline and a closed Conn win over waiting data, as with sockets.
		select {
		case <-c.closing:
			return 0, netip.AddrPort{}, net.ErrClosed
		case <-passed:
			return 0, netip.AddrPort{}, os.ErrDeadlineExceeded
		default:
		}
		if n, from, ok := c.rx.pop(b); ok {
			return n, from, nil
		}
		select {
		case <-c.rx.ready:
		case <-c.closing:
		case <-passed:
		case <-c.gone:
			// Once more: what came before the end is still to be read.
			if n, from, ok := c.rx.pop(b); ok {
				return n, from, nil
			}
			return 0, netip.AddrPort{}, c.lostErr()
		}
	}
}

func (c *Conn) lostErr() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// WriteTo sends a datagram to a peer by way of the server. addr is a *net.UDPAddr, or has a method AddrPort, of the family
// of the relayed address.
//
// Success means that the datagram is on its way to the server, or in the Modern dialect is held until the server permits the
// peer; see Loss in the package documentation. Errors: ErrPeer, ErrTooLarge and ErrPermissions for what cannot be sent,
// an *Error while the server refuses the peer, os.ErrDeadlineExceeded, net.ErrClosed, ErrAllocationLost, and what the socket
// says. Over TCP it waits when the server does not keep up.
func (c *Conn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addrPort(addr)
	if !ok {
		return 0, fmt.Errorf("client: write to %v: %w", addr, ErrPeer)
	}
	return c.WriteToUDPAddrPort(b, to)
}

// WriteToUDPAddrPort is WriteTo with another form of address.
func (c *Conn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	passed := c.writeBy.wait()
	select {
	case <-c.closing:
		return 0, net.ErrClosed
	case <-passed:
		return 0, os.ErrDeadlineExceeded
	default:
	}
	to = netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	c.mu.Lock()
	if c.lost != nil {
		defer c.mu.Unlock()
		return 0, c.lost
	}
	msg, err := c.core.write(time.Now(), (*buf)[:0], to, b)
	_ = c.leave()
	if err != nil {
		return 0, fmt.Errorf("client: write to %v: %w", to, err)
	}
	*buf = msg
	if len(msg) > 0 {
		err = c.t.data(msg, passed, c.closing)
	}
	switch {
	case err == nil:
		return len(b), nil
	case err != errStopped:
		return 0, err
	}
	select {
	case <-c.closing:
		return 0, net.ErrClosed
	case <-passed:
		return 0, os.ErrDeadlineExceeded
	case <-c.gone: // the transport has failed, and its reader says so next
		return 0, c.lostErr()
	}
}

// Permit lets a peer send to the relayed address although nothing was written to it, and keeps it so until Close. The
// permission is for the peer's address, whatever its port; the port is only what a server may look at. In the Legacy
// dialect there is no answer and Permit returns at once; in the others it waits for the server's.
func (c *Conn) Permit(ctx context.Context, peer netip.AddrPort) error {
	peer = netip.AddrPortFrom(peer.Addr().Unmap().WithZone(""), peer.Port())
	answer := make(chan error, 1)
	var err error
	_ = c.do(func(now time.Time) {
		if err = c.lost; err == nil {
			if err = c.core.permit(now, peer); err == nil {
				c.waiting[peer.Addr()] = append(c.waiting[peer.Addr()], answer)
			}
		}
	})
	if err == nil {
		err = c.await(ctx, answer)
	}
	if err != nil {
		return fmt.Errorf("client: permit %v: %w", peer, err)
	}
	return nil
}

// Bind binds a channel to a peer that nothing need have been written to, and waits for the server's answer: an *Error if it
// refuses the peer, in every dialect. Nothing is sent to the peer. The server permits what it binds, for the peer's address and
// whatever port.
func (c *Conn) Bind(ctx context.Context, peer netip.AddrPort) error {
	peer = netip.AddrPortFrom(peer.Addr().Unmap().WithZone(""), peer.Port())
	answer := make(chan error, 1)
	var err error
	_ = c.do(func(now time.Time) {
		if err = c.lost; err == nil {
			if err = c.core.bindNow(now, peer); err == nil {
				c.binding[peer] = append(c.binding[peer], answer)
			}
		}
	})
	if err == nil {
		err = c.await(ctx, answer)
	}
	if err != nil {
		return fmt.Errorf("client: bind %v: %w", peer, err)
	}
	return nil
}

// await waits for the answer to what the core was asked.
func (c *Conn) await(ctx context.Context, answer <-chan error) error {
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-c.closing:
		return net.ErrClosed
	case <-c.gone:
		return c.lostErr()
	}
}

// LocalAddr is the relayed address: where peers reach us and what they see. It is a *net.UDPAddr that must not be changed.
func (c *Conn) LocalAddr() net.Addr { return c.relay }

// MappedAddr is our own address as the server sees it, the server-reflexive one. It is not valid if the server did not say.
func (c *Conn) MappedAddr() netip.AddrPort { return c.core.mapped }

// ServerAddr is the address of the server, a *net.UDPAddr or *net.TCPAddr by the transport in use.
func (c *Conn) ServerAddr() net.Addr { return c.server }

// BaseAddr is the local address of the socket or connection to the server.
func (c *Conn) BaseAddr() net.Addr { return c.t.local() }

// ReservationToken is the token of the reserved next port, of 8 bytes, or nil.
func (c *Conn) ReservationToken() []byte { return append([]byte(nil), c.core.token...) }

// Dialect is the dialect in use, Auto while the server has not shown which.
func (c *Conn) Dialect() Dialect {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.core.dialect
}

// Stats is a copy of the counters.
func (c *Conn) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.core.stats
	s.Delivered -= c.full
	s.Dropped[DropFull] = c.full
	s.Dropped[DropForeign] = c.t.foreign()
	s.Read += s.Dropped[DropForeign]
	return s
}

// SetDeadline sets the read and the write deadline.
func (c *Conn) SetDeadline(t time.Time) error {
	c.readBy.set(t)
	c.writeBy.set(t)
	return nil
}

// SetReadDeadline sets the time after which ReadFrom returns os.ErrDeadlineExceeded. Zero: never.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.readBy.set(t)
	return nil
}

// SetWriteDeadline sets the time after which WriteTo returns os.ErrDeadlineExceeded. Zero: never.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.writeBy.set(t)
	return nil
}

// Close gives the relayed address back, waits at most a second for the server to confirm, and ends the goroutines. ReadFrom
// and WriteTo return net.ErrClosed from its beginning. Closing again waits as well and returns the same.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		close(c.closing)
		_ = c.do(c.core.release)
		timer := time.NewTimer(closeWait)
		defer timer.Stop()
		select {
		case <-c.released:
		case <-timer.C:
		}
		c.stop()
		c.strays.Wait()
	})
	return c.closeErr
}

// abort ends a Conn that was never handed out, without waiting for the server.
func (c *Conn) abort() {
	c.closeOnce.Do(func() {
		close(c.closing)
		_ = c.do(c.core.release)
		c.stop()
	})
}

func (c *Conn) stop() {
	close(c.done)
	c.closeErr = c.t.close()
	c.wg.Wait()
	c.readBy.stop()
	c.writeBy.stop()
}

// addrPort is the address of a peer in the form that the core uses.
func addrPort(a net.Addr) (netip.AddrPort, bool) {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		if a == nil {
			return ap, false
		}
		ap = a.AddrPort()
	case interface{ AddrPort() netip.AddrPort }:
		ap = a.AddrPort()
	default:
		return ap, false
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), ap.IsValid()
}

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }

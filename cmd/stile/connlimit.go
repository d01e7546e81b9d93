package main

import (
	"io"
	"log"
	"net"
	"net/netip"
	"sync"
)

// silentLog takes what net/http says of single connections: whoever connects decides what it says and how often.
var silentLog = log.New(io.Discard, "", 0)

// addressLimit closes connections of an address that has as many as it may.
type addressLimit struct {
	net.Listener
	most int

	mu   sync.Mutex
	open map[netip.Addr]int
}

func limitAddresses(l net.Listener, most int) net.Listener {
	return &addressLimit{Listener: l, most: most, open: map[netip.Addr]int{}}
}

// Accept implements net.Listener.
func (l *addressLimit) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil {
			_ = c.Close()
			continue
		}
		a := from.Addr().Unmap()
		if !l.take(a) {
			_ = c.Close()
			continue
		}
		return &countedConn{Conn: c, release: sync.OnceFunc(func() { l.give(a) })}, nil
	}
}

func (l *addressLimit) take(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[a] >= l.most {
		return false
	}
	l.open[a]++
	return true
}

func (l *addressLimit) give(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[a]--; l.open[a] <= 0 {
		delete(l.open, a)
	}
}

// countedConn is counted until it closes.
type countedConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

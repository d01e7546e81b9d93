package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/turn/client"
)

// Ours to tune.
const (
	pings        = 100
	pingInterval = 20 * time.Millisecond
	pingWait     = 1 * time.Second // for the last ones
	openTime     = 3 * time.Second // for the first datagram to arrive
	payloadBytes = 1200            // what passes everywhere without fragments
	loadStep     = 300 * time.Millisecond
	loadFirst    = 1.0  // Mbit/s; it doubles with each step
	loadEnough   = 0.95 // share that must arrive for a step to count
)

// linkReport is what passes through a relay.
type linkReport struct {
	Path       string  `json:"path"` // "two-allocations" or "own-socket"
	Sent       int     `json:"sent"`
	Received   int     `json:"received"`
	LeastMS    float64 `json:"least_ms"`
	MedianMS   float64 `json:"median_ms"`
	MostMS     float64 `json:"most_ms"`
	Throughput float64 `json:"throughput_mbit,omitempty"` // one way
	AtLeast    bool    `json:"throughput_at_least,omitempty"`
	Error      string  `json:"error,omitempty"`
}

func (l *linkReport) passes() bool { return l != nil && l.Received > 0 }

func (l *linkReport) path() string {
	if l.Path == "own-socket" {
		return "through the relay to a socket of ours and back"
	}
	return "through the relay twice, to another allocation and back"
}

// link sends datagrams through a relay to ourselves: nobody else gets any.
type link struct {
	dial func(context.Context) (*client.Conn, error) // another allocation
	a    *client.Conn
	rate float64
	load bool
	p    *progress
}

// The kinds of datagram, in the first byte. The second to ninth is a number.
const (
	kindPing byte = 0xf1 + iota // answered
	kindPong
	kindLoad // counted
)

const headBytes = 9

// The numbers of pings start at 0. Those that only open the way count from firstOpening.
const (
	firstOpening = 1 << 32
	onlyOpens    = 1 << 33
)

// end is the other end of a link.
type end struct {
	conn net.PacketConn
	mu   sync.Mutex
	got  int // of load
	last time.Time
}

func (l *link) measure(ctx context.Context) *linkReport {
	r := &linkReport{}
	l.p.show("allocating another address")
	b, err := l.dial(ctx)
	if err == nil {
		r.Path = "two-allocations"
		if l.between(ctx, r, b, b.LocalAddr()); r.Received > 0 || ctx.Err() != nil {
			b.Close()
			return r
		}
		b.Close()
	}
	// A relay may refuse its own addresses as peers: then a socket of ours is the peer, as far as its firewall lets the relay in.
	l.p.show("trying a socket of our own")
	own, err := net.ListenPacket("udp", ":0")
	if err != nil {
		r.Error = err.Error()
		return r
	}
	defer own.Close()
	seen, ok := l.seen(ctx, own)
	if !ok {
		r.Error = "nothing passes between two allocations of this relay, and no other peer is at hand"
		return r
	}
	*r = linkReport{Path: "own-socket"}
	if l.between(ctx, r, own, net.UDPAddrFromAddrPort(seen)); r.Received == 0 {
		r.Error = "nothing passes: neither between two allocations, nor to a socket of this machine"
	}
	return r
}

// seen lets a socket send to the relayed address until it arrives, and returns where it came from.
func (l *link) seen(ctx context.Context, own net.PacketConn) (netip.AddrPort, bool) {
	relayed, err := netip.ParseAddrPort(l.a.LocalAddr().String())
	mapped := l.a.MappedAddr()
	if err != nil || !mapped.IsValid() {
		return mapped, false
	}
	one, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	if err := l.a.Permit(one, netip.AddrPortFrom(mapped.Addr(), 9)); err != nil { // its address only is permitted
		return mapped, false
	}
	defer l.a.SetReadDeadline(time.Time{})
	buf := make([]byte, 1500)
	for one.Err() == nil {
		own.WriteTo(flash.SealHello(datagram(kindLoad, 0, headBytes)), net.UDPAddrFromAddrPort(relayed))
		l.a.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, from, err := l.a.ReadFromUDPAddrPort(buf)
		if err != nil {
			continue
		}
		if b, ok := flash.OpenHello(buf[:n]); ok && len(b) == headBytes && b[0] == kindLoad {
			return from, true
		}
	}
	return mapped, false
}

func datagram(kind byte, number uint64, size int) []byte {
	b := make([]byte, size)
	b[0] = kind
	binary.BigEndian.PutUint64(b[1:], number)
	return b
}

// between measures from the first allocation to an end of ours, which is seen there at to.
func (l *link) between(ctx context.Context, r *linkReport, conn net.PacketConn, to net.Addr) {
	e := &end{conn: conn}
	var wait sync.WaitGroup
	wait.Go(e.answer)
	pongs := make(chan uint64, 4*pings)
	wait.Go(func() { collect(l.a, pongs) })
	defer func() { // both readers end
		conn.SetReadDeadline(time.Unix(1, 0))
		l.a.SetReadDeadline(time.Unix(1, 0))
		wait.Wait()
		l.a.SetReadDeadline(time.Time{})
	}()
	// The other end must have sent to ours before it hears of us, or its permission is missing.
	relayed := l.a.LocalAddr()
	opened := false
	deadline := time.Now().Add(openTime)
	call, answer := startup()
	for n := uint64(firstOpening); !opened && time.Now().Before(deadline) && ctx.Err() == nil; n++ {
		l.a.WriteTo(call, to)
		conn.WriteTo(answer, relayed)
		conn.WriteTo(datagram(kindPong, onlyOpens, headBytes), relayed)
		l.a.WriteTo(datagram(kindPing, n, headBytes), to)
		select {
		case got := <-pongs:
			opened = got >= firstOpening && got < onlyOpens
		case <-time.After(100 * time.Millisecond):
		}
	}
	if !opened {
		return
	}
	l.p.show("measuring round trip and loss")
	sent := make([]time.Time, pings)
	var took []time.Duration
	seen := make(map[uint64]bool)
	take := func(until time.Time, all bool) {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		for !all || len(took) < pings {
			select {
			case n := <-pongs:
				if n < pings && !seen[n] {
					seen[n] = true
					took = append(took, time.Since(sent[n]))
				}
			case <-timer.C:
				return
			case <-ctx.Done():
				return
			}
		}
	}
	next := time.Now()
	for n := range pings {
		if ctx.Err() != nil {
			return
		}
		sent[n] = time.Now()
		l.a.WriteTo(datagram(kindPing, uint64(n), payloadBytes/8), to)
		next = next.Add(pingInterval)
		take(next, false)
	}
	take(time.Now().Add(pingWait), true)
	r.Sent, r.Received = pings, len(took)
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	r.LeastMS, r.MedianMS, r.MostMS = milliseconds(took[0]), milliseconds(took[len(took)/2]), milliseconds(took[len(took)-1])
	if l.load {
		l.p.show("measuring throughput")
		l.throughput(ctx, r, e, to)
	}
}

// startup is the question and the answer that set up a session of RTMFP between the two ends, as far as a relay sees: it may carry nothing before.
// Neither begins as a datagram of ours does.
func startup() (call, answer []byte) {
	for {
		var b [4]byte
		_, _ = rand.Read(b[:])
		id := binary.BigEndian.Uint32(b[:]) | 1
		call = flash.SealStartup(0, rtmfp.AppendIIKeying(nil, rtmfp.IIKeying{SessionID: id, CookieEcho: b[:]}))
		answer = flash.SealStartup(id, rtmfp.AppendRIKeying(nil, rtmfp.RIKeying{SessionID: id}))
		if call[0] < kindPing && answer[0] < kindPing {
			return call, answer
		}
	}
}

// answer reads until the socket's deadline passes or it is closed.
func (e *end) answer() {
	b := make([]byte, 2048)
	for {
		n, from, err := e.conn.ReadFrom(b)
		if err != nil {
			return
		}
		switch {
		case n < headBytes:
		case b[0] == kindPing:
			b[0] = kindPong
			e.conn.WriteTo(b[:n], from)
		case b[0] == kindLoad:
			e.mu.Lock()
			e.got++
			e.last = time.Now()
			e.mu.Unlock()
		}
	}
}

func (e *end) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.got
}

// collect hands on the numbers of pongs.
func collect(conn *client.Conn, pongs chan<- uint64) {
	b := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if n >= headBytes && b[0] == kindPong {
			select {
			case pongs <- binary.BigEndian.Uint64(b[1:]):
			default:
			}
		}
	}
}

// throughput doubles the rate until something is lost, or the highest rate is reached.
func (l *link) throughput(ctx context.Context, r *linkReport, e *end, to net.Addr) {
	payload := datagram(kindLoad, 0, payloadBytes)
	settle := time.Duration(r.MedianMS*float64(time.Millisecond)) + 100*time.Millisecond
	for rate := min(loadFirst, l.rate); ctx.Err() == nil; rate = min(2*rate, l.rate) {
		perSecond := rate * 1e6 / 8 / payloadBytes
		before, sent, start := e.count(), 0, time.Now()
		for elapsed := time.Duration(0); elapsed < loadStep && ctx.Err() == nil; elapsed = time.Since(start) {
			due := int(math.Ceil(elapsed.Seconds() * perSecond))
			for ; sent < due; sent++ {
				if _, err := l.a.WriteTo(payload, to); err != nil {
					if errors.Is(err, client.ErrAllocationLost) {
						r.Error = fmt.Sprintf("the relay ended the allocation at %.1f Mbit/s", rate)
						return
					}
				}
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(settle)
		got := e.count() - before
		if sent == 0 {
			return
		}
		delivered := math.Round(float64(got)*payloadBytes*8/1e3/loadStep.Seconds()) / 1e3
		if float64(got) < loadEnough*float64(sent) {
			r.Throughput, r.AtLeast = max(r.Throughput, delivered), false
			return
		}
		r.Throughput, r.AtLeast = max(r.Throughput, delivered), true
		if rate >= l.rate {
			return
		}
	}
}

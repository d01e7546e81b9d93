//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/internal/netns"
	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/stun"
)

// measured is a LAN with what natprobe found there.
type measured struct {
	name string
	host *netns.Host
	v    nattest.Verdict
	file string
}

const (
	punchFor  = 800 * time.Millisecond // where none is expected to get through: longer than the low-TTL part, the delay, and two exchanges
	punchLong = 5 * time.Second        // where both are, on a machine that is busy
	punchGap  = 40 * time.Millisecond
	lowFor    = 300 * time.Millisecond
	atOnce    = 3 // probes
)

// Every kind with every kind: natprobe measures each site, `natprobe pair` predicts, and then sockets really punch. 17 kinds are 153
// pairs.
func TestPairPredictionIsWhatPunchingDoes(t *testing.T) {
	a := newArena(t)
	var sites [2][]*measured // a kind also meets another box of its own kind
	for i, kind := range netns.Kinds() {
		for side := range sites {
			n := 2*i + side + 1
			sites[side] = append(sites[side], &measured{name: kind.Name, host: a.site(n, netns.SiteConfig{NAT: kind})})
		}
	}
	var wait sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for side, list := range sites {
		for _, m := range list {
			wait.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				r, file := a.probe(m.host, fmt.Sprintf("%s-%d", m.name, side))
				m.v, m.file = r.Verdict, file
				if r.ExitCode == exitUnknown || r.Verdict.Filtering == nattest.FilteringUnknown {
					b, _ := json.Marshal(r.Observations.Probes)
					t.Errorf("%s is not known: %+v\n%s", m.name, r.Findings, b)
				}
			})
		}
	}
	wait.Wait()
	counts := make(map[nattest.Path]*atomic.Int32)
	for p := nattest.PathUnknown; p <= nattest.PathRelay; p++ {
		counts[p] = new(atomic.Int32)
	}
	// In each round every site is in one pair: prediction needs a quiet NAT.
	for round := range sites[0] {
		for i, y := range sites[1][round:] {
			x := sites[0][i]
			wait.Go(func() {
				p, problem := a.tryPair(x, y)
				counts[p.Path].Add(1)
				if problem != "" {
					t.Errorf("%s with %s: predicted %v %v (%v), but %s", x.name, y.name, p.Path, p.Techniques, p.Why, problem)
				}
			})
		}
		wait.Wait()
	}
	t.Logf("%d kinds: %d pairs direct, %d with a technique, %d by relay, %d unknown", len(sites[0]), counts[nattest.PathDirect].Load(),
		counts[nattest.PathTechnique].Load(), counts[nattest.PathRelay].Load(), counts[nattest.PathUnknown].Load())
}

// tryPair predicts with the built program, and punches three times: the second peer later, at once, earlier.
func (a *arena) tryPair(x, y *measured) (p nattest.Prediction, problem string) {
	out, err := exec.Command(natprobeBinary, "pair", "--json", x.file, y.file).Output()
	if json.Unmarshal(out, &p) != nil {
		return p, fmt.Sprintf("natprobe pair says %q: %v", out, err)
	}
	lates := []time.Duration{0, 80 * time.Millisecond, -80 * time.Millisecond}
	if p.Path == nattest.PathRelay {
		lates = lates[:2] // which takes the longest
	}
	met := 0
	for _, late := range lates {
		var ok bool
		for tries := 0; tries < 3 && !ok; tries++ { // a technique needs both sides at one time, which a busy machine may spoil
			var err error
			if ok, err = a.punchOnce(x, y, p, late); err != nil {
				return p, err.Error()
			}
			if p.Path != nattest.PathTechnique {
				break
			}
		}
		if ok {
			met++
		}
	}
	switch p.Path {
	case nattest.PathDirect, nattest.PathTechnique:
		if met < len(lates) {
			return p, fmt.Sprintf("%d of %d connect", met, len(lates))
		}
	case nattest.PathRelay:
		if met > 0 {
			return p, fmt.Sprintf("%d of %d connect directly", met, len(lates))
		}
	default:
		return p, "that is no prediction"
	}
	return p, ""
}

// puncher is a socket and what the other side is told of it.
type puncher struct {
	conn *net.UDPConn
	m    *measured
	told netip.AddrPort
	low  int
}

// punchOnce reports whether two fresh sockets hear each other, with the techniques of the prediction.
func (a *arena) punchOnce(x, y *measured, p nattest.Prediction, late time.Duration) (bool, error) {
	var ends [2]*puncher
	for i, m := range []*measured{x, y} {
		conn, err := m.host.ListenPacket(a.t.Context(), "udp4", ":0")
		if err != nil {
			return false, err
		}
		defer conn.Close()
		e := &puncher{conn: conn.(*net.UDPConn), m: m}
		tries := 10 // the machine may be busy
		if m.v.UDP == nattest.UDPBlocked {
			tries = 1
		}
		if e.told, err = observe(e.conn, tries); err != nil {
			if m.v.UDP == nattest.UDPBlocked {
				return false, nil // nothing to tell
			}
			return false, fmt.Errorf("%s: %w", m.name, err)
		}
		symmetric := m.v.Mapping == nattest.ADM || m.v.Mapping == nattest.APDM
		if slices.Contains(p.Techniques, nattest.PortPrediction) && symmetric && m.v.Ports.Step != 0 {
			e.told = netip.AddrPortFrom(e.told.Addr(), uint16(int(e.told.Port())+m.v.Ports.Step))
		}
		if slices.Contains(p.Techniques, nattest.LowTTL) {
			e.low = m.v.InsideHops + 1 // past our NAT, and not to theirs
		}
		ends[i] = e
	}
	if slices.Contains(p.Techniques, nattest.Birthday) {
		for i, e := range ends {
			if m := e.m.v.Mapping; m == nattest.ADM || m == nattest.APDM {
				return a.birthday(e, ends[1-i])
			}
		}
	}
	first, second := ends[0], ends[1]
	if late < 0 {
		first, second, late = second, first, -late
	}
	window := punchLong
	if p.Path == nattest.PathRelay {
		window = punchFor
	}
	return punch(first, second, late, window), nil
}

// observe asks the server how a socket is seen.
func observe(c *net.UDPConn, tries int) (netip.AddrPort, error) {
	defer c.SetReadDeadline(time.Time{})
	b := stun.Begin(nil, stun.NewType(stun.Binding, stun.Request), stun.TransactionID{9})
	buf := make([]byte, 500)
	for range tries {
		c.WriteToUDPAddrPort(b.Bytes(), netip.MustParseAddrPort(serverAddr+":3478"))
		c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, _, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			continue
		}
		if m, err := stun.Parse(buf[:n]); err == nil {
			if mapped, ok := m.GetXORAddress(stun.AttrXORMappedAddress); ok {
				return mapped, nil
			}
		}
	}
	return netip.AddrPort{}, fmt.Errorf("the server does not answer")
}

// setTTL sets the TTL of what a socket sends; 0 is the system's.
func setTTL(c *net.UDPConn, ttl int) {
	if ttl == 0 {
		ttl = -1
	}
	raw, err := c.SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl) })
	}
}

// punch lets two sockets send to each other, and to where they hear each other, until both do.
func punch(first, second *puncher, late, window time.Duration) bool {
	var heard [2]atomic.Bool
	var wait sync.WaitGroup
	begin := time.Now()
	both := func() bool { return heard[0].Load() && heard[1].Load() }
	for i, e := range []*puncher{first, second} {
		wait.Go(func() {
			other := []*puncher{second, first}[i]
			if i == 1 {
				time.Sleep(late)
			}
			start, to, buf := time.Now(), []netip.AddrPort{other.told}, make([]byte, 100)
			for time.Since(begin) < late+window && !both() {
				ttl := 0
				if time.Since(start) < lowFor {
					ttl = e.low
				}
				setTTL(e.conn, ttl)
				for _, at := range to {
					e.conn.WriteToUDPAddrPort([]byte("punch"), at)
				}
				e.conn.SetReadDeadline(time.Now().Add(punchGap))
				for {
					n, from, err := e.conn.ReadFromUDPAddrPort(buf)
					if err != nil {
						break
					}
					if string(buf[:n]) != "punch" {
						continue
					}
					heard[i].Store(true)
					if !slices.Contains(to, from) && len(to) < 4 {
						to = append(to, from)
					}
				}
			}
		})
	}
	wait.Wait()
	return both()
}

// birthday opens 256 sockets behind the symmetric NAT and sends 2,048 probes from the other side.
func (a *arena) birthday(symmetric, cone *puncher) (bool, error) {
	var readers sync.WaitGroup
	defer readers.Wait()
	for range 256 {
		conn, err := symmetric.m.host.ListenPacket(a.t.Context(), "udp4", ":0")
		if err != nil {
			return false, err
		}
		defer conn.Close()
		c := conn.(*net.UDPConn)
		setTTL(c, symmetric.low)
		c.WriteToUDPAddrPort([]byte("hello"), cone.told)
		setTTL(c, 0)
		readers.Go(func() {
			b := make([]byte, 100)
			for {
				_, from, err := c.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				c.WriteToUDPAddrPort([]byte("answer"), from)
			}
		})
	}
	ctx, cancel := context.WithTimeout(a.t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan bool, 1)
	go func() {
		b := make([]byte, 100)
		for {
			n, _, err := cone.conn.ReadFromUDPAddrPort(b)
			if err != nil {
				done <- false
				return
			}
			if string(b[:n]) == "answer" {
				done <- true
				return
			}
		}
	}()
	ports := rand.Perm(64512)[:2048]
	for i, p := range ports {
		cone.conn.WriteToUDPAddrPort([]byte("probe"), netip.AddrPortFrom(symmetric.told.Addr(), uint16(1024+p)))
		if i%16 == 15 {
			select {
			case ok := <-done:
				return ok, nil
			case <-ctx.Done():
				return false, ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
	}
	cone.conn.SetReadDeadline(time.Now().Add(time.Second))
	return <-done, nil
}

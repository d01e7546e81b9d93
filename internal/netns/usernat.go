//go:build linux

package netns

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// UserNAT is a NAT in this process between two TUN devices.
type UserNAT struct {
	mu     sync.Mutex
	nat    *nat
	counts [natFates]atomic.Uint64
}

// UserNAT joins an inside and an outside end by a userspace NAT with one public address. Both ends need routes: the inside its
// default, the outside one to the public address. A Site with User set does all that.
func (l *Lab) UserNAT(inside, outside End, public netip.Addr, cfg NATConfig) *UserNAT {
	l.tb.Helper()
	l.must(cfg.check(), "userspace NAT of %s", inside.host.name)
	inside.addrs, outside.addrs = append([]string(nil), inside.addrs...), append([]string(nil), outside.addrs...)
	inside.complete()
	outside.complete()
	in, out := l.tun(inside), l.tun(outside)
	u := &UserNAT{nat: newNAT(public, cfg)}
	run := newRunner(in, out)
	mtu := max(inside.mtu, outside.mtu)
	run.wg.Add(2)
	go func() {
		defer run.wg.Done()
		u.carry(in, mtu, (*nat).fromInside, in, out)
	}()
	go func() {
		defer run.wg.Done()
		u.carry(out, mtu, (*nat).fromOutside, in, out)
	}()
	l.keep(run)
	l.note(func() string {
		return fmt.Sprintf("userspace NAT of %s %v, %v/%v: %v", inside.host.name, public, cfg.Mapping, cfg.Filtering, u)
	})
	return u
}

func (u *UserNAT) carry(from *os.File, mtu int, translate func(*nat, time.Time, []byte) NATFate, in, out *os.File) {
	buf := make([]byte, mtu)
	for {
		size, err := from.Read(buf)
		if errors.Is(err, os.ErrClosed) || errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			continue // the interface is down for now
		}
		u.mu.Lock()
		fate := translate(u.nat, time.Now(), buf[:size])
		u.mu.Unlock()
		u.counts[fate].Add(1)
		switch fate { // a failed write is an interface that is down: the packet is lost, as on a wire
		case NATOut:
			out.Write(buf[:size])
		case NATIn, NATHairpinned:
			in.Write(buf[:size])
		}
	}
}

// Count is how many packets met the fate so far. All fates together are all packets, IPv6 noise of the kernel included (as
// NATMalformed).
func (u *UserNAT) Count(f NATFate) uint64 { return u.counts[f].Load() }

// Forget removes every mapping, as a restart of the box does.
func (u *UserNAT) Forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.nat = newNAT(u.nat.public, u.nat.cfg)
}

func (u *UserNAT) String() string {
	var parts []string
	for f := range natFates {
		if c := u.Count(f); c > 0 {
			parts = append(parts, fmt.Sprintf("%v %d", f, c))
		}
	}
	return strings.Join(parts, ", ")
}

package natlab

import (
	"net/netip"
	"slices"
	"time"
)

// Block says what a firewall does with a packet that a rule forbids.
type Block uint8

// The ways to treat forbidden packets.
const (
	Allow  Block = iota // nothing is forbidden
	Drop                // dropped in silence
	Reject              // dropped, and the sender gets an ICMP error
)

// Rule is what a firewall lets out, for one protocol. The zero value lets everything out.
type Rule struct {
	Block Block          // what happens to what the exceptions do not allow
	Ports []uint16       // exceptions: destination ports
	To    []netip.Prefix // exceptions: destinations
}

func (r Rule) forbids(dst netip.AddrPort) bool {
	return r.Block != Allow && !slices.Contains(r.Ports, dst.Port()) &&
		!slices.ContainsFunc(r.To, func(p netip.Prefix) bool { return p.Contains(dst.Addr()) })
}

// FirewallConfig is a firewall's behaviour. The zero value admits everything.
type FirewallConfig struct {
	// Filtering is what is admitted from outside: answers in the sense of EIF, ADF or APDF (the usual stateful
	// firewall), or everything if it is zero.
	Filtering Filtering
	// Admit lists inside endpoints that everybody may send to; port 0 means all ports.
	Admit []netip.AddrPort
	// UDP and TCP are what may leave.
	UDP, TCP Rule
	// Timeout is how long a UDP session outlives its last packet, in either direction; zero means two minutes.
	Timeout time.Duration
	// TCPTimeout is the same for TCP; zero means 2 h 4 min.
	TCPTimeout time.Duration
	// DropFragments drops fragments in both directions.
	DropFragments bool
}

// Firewall decides which packets pass. It performs no I/O, reads no clock and has no goroutine; it is not safe for
// concurrent use. Box puts one into a network.
type Firewall struct {
	cfg      FirewallConfig
	sessions map[extKey]contacts // by inside socket
	check    time.Time           // no session expires before
}

// NewFirewall returns a firewall that knows no session.
func NewFirewall(cfg FirewallConfig) *Firewall {
	setDefault(&cfg.Timeout, defaultUDPTimeout)
	setDefault(&cfg.TCPTimeout, defaultTCPTimeout)
	return &Firewall{cfg: cfg, sessions: make(map[extKey]contacts)}
}

// FromInside judges a packet that wants out. The packet passes if drop is InFlight; reject says that its sender is to
// get an ICMP error.
func (f *Firewall) FromInside(now time.Time, p Packet) (drop Disposition, reject bool) {
	if p.Fragment != nil && f.cfg.DropFragments {
		return FragmentDropped, false
	}
	rule := f.cfg.UDP
	switch p.Proto {
	case ICMP:
		return InFlight, false
	case TCP:
		rule = f.cfg.TCP
	}
	key := extKey{p.Proto, p.Src}
	if rule.forbids(p.Dst) && !f.admits(p.Src) && !f.sessions[key].live(now, p.Dst) {
		return Blocked, rule.Block == Reject
	}
	f.touch(now, key, p.Dst)
	return InFlight, false
}

// FromOutside judges a packet that wants in. The packet passes if drop is InFlight.
func (f *Firewall) FromOutside(now time.Time, p Packet) (drop Disposition) {
	if p.Fragment != nil && f.cfg.DropFragments {
		return FragmentDropped
	}
	if f.cfg.Filtering == FilteringDefault {
		return InFlight
	}
	key, remote := extKey{p.Proto, p.Dst}, p.Src
	if p.Proto == ICMP {
		key, remote = extKey{p.Err.Proto, p.Err.Src}, p.Err.Dst
	}
	c := f.sessions[key]
	live := false
	switch f.cfg.Filtering {
	case EIF:
		for _, until := range c {
			live = live || now.Before(until)
		}
	case ADF:
		live = c.liveAddr(now, remote.Addr())
	default:
		live = c.live(now, remote)
	}
	if !live && !f.admits(p.Dst) {
		return Filtered
	}
	if p.Proto != ICMP {
		f.touch(now, key, remote)
	}
	return InFlight
}

func (f *Firewall) admits(inside netip.AddrPort) bool {
	return slices.ContainsFunc(f.cfg.Admit, func(a netip.AddrPort) bool {
		return a.Addr() == inside.Addr() && (a.Port() == 0 || a.Port() == inside.Port())
	})
}

func (f *Firewall) touch(now time.Time, key extKey, remote netip.AddrPort) {
	f.expire(now)
	timeout := f.cfg.Timeout
	if key.proto == TCP {
		timeout = f.cfg.TCPTimeout
	}
	if f.sessions[key] == nil {
		f.sessions[key] = make(contacts)
	}
	until := now.Add(timeout)
	f.sessions[key].add(now, remote, until)
	if f.check.IsZero() || until.Before(f.check) {
		f.check = until
	}
}

func (f *Firewall) expire(now time.Time) {
	if f.check.IsZero() || now.Before(f.check) {
		return
	}
	f.check = time.Time{}
	for key, c := range f.sessions {
		for peer, until := range c {
			if !now.Before(until) {
				delete(c, peer)
			} else if f.check.IsZero() || until.Before(f.check) {
				f.check = until
			}
		}
		if len(c) == 0 {
			delete(f.sessions, key)
		}
	}
}

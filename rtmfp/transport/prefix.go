package transport

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// Ours to tune.
const (
	prefixBuckets = 1 << 14 // hashed prefixes; a collision makes a budget smaller, never larger
	prefixIPv4    = 24      // bits
	prefixIPv6    = 56      // bits: what one site is given
	// prefixBurst is how much of a second's budget may come at once.
	prefixBurst = time.Second
)

// prefixLimit bounds the startup packets of each source prefix. Its memory is fixed.
type prefixLimit struct {
	seed    maphash.Seed
	cost    time.Duration // of one packet
	buckets []time.Time   // when the budget will be whole again
}

// newPrefixLimit allows so many packets in a second; nil, which allows all, for 0.
func newPrefixLimit(perSecond int) *prefixLimit {
	if perSecond <= 0 {
		return nil
	}
	return &prefixLimit{seed: maphash.MakeSeed(), cost: max(1, time.Second/time.Duration(perSecond)), buckets: make([]time.Time, prefixBuckets)}
}

func (l *prefixLimit) allow(now time.Time, from netip.Addr) bool {
	if l == nil {
		return true
	}
	from = from.Unmap()
	bits := prefixIPv4
	if from.Is6() {
		bits = prefixIPv6
	}
	p, err := from.Prefix(bits)
	if err != nil {
		return false
	}
	key := p.Addr().As16()
	b := &l.buckets[maphash.Bytes(l.seed, key[:])%prefixBuckets]
	whole := *b
	if whole.Before(now) {
		whole = now
	}
	if whole = whole.Add(l.cost); whole.Sub(now) > prefixBurst {
		return false
	}
	*b = whole
	return true
}

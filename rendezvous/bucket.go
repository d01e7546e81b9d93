package rendezvous

import (
	"encoding/binary"
	"io"
	"math/bits"
	"net/netip"
	"sync/atomic"
	"time"
)

// bucket is a budget that refills evenly. It holds one number, the time at which it is full again, in nanoseconds of the
// service's clock; the zero bucket is full. Any number of shards may take from it.
type bucket struct{ full atomic.Int64 }

// rate is what a bucket gives: one unit for each interval, and at most burst units at once. A zero interval is no limit.
type rate struct {
	interval time.Duration
	burst    int64
}

// perSecond makes a rate of n units a second that lets burst seconds of them through at once. 0 is no limit.
func perSecond(n int, burst float64) rate {
	if n <= 0 {
		return rate{}
	}
	return rate{time.Second / time.Duration(n), max(1, int64(float64(n)*burst))}
}

// take takes units and reports whether they were there.
func (b *bucket) take(now int64, units int64, r rate) bool {
	if r.interval <= 0 {
		return true
	}
	for {
		was := b.full.Load()
		full := max(was, now) + units*int64(r.interval)
		if full-now > r.burst*int64(r.interval) {
			return false
		}
		if b.full.CompareAndSwap(was, full) {
			return true
		}
	}
}

// sourceBuckets is how many buckets there are for all prefixes of sources together: 512 KiB. Prefixes that share one are chosen
// by a secret, so that nobody can use up that of a prefix of their choice.
const sourceBuckets = 1 << 16

// sources are the budgets of prefixes of unproven sources: memory that no flood can make grow.
type sources struct {
	key     [2]uint64
	buckets [sourceBuckets]bucket
}

func newSources(random io.Reader) (*sources, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return nil, err
	}
	return &sources{key: [2]uint64{binary.BigEndian.Uint64(b[:]) | 1, binary.BigEndian.Uint64(b[8:]) | 1}}, nil
}

// Prefixes that one holder is given: what is inside shares a budget.
const (
	prefixBits4 = 24
	prefixBits6 = 56
)

// of finds the bucket of an address's prefix.
func (s *sources) of(a netip.Addr) *bucket {
	var high uint64
	if a.Is4() {
		ip := a.As4()
		high = uint64(binary.BigEndian.Uint32(ip[:])>>(32-prefixBits4)) | 1<<63
	} else {
		ip := a.As16()
		high = binary.BigEndian.Uint64(ip[:]) >> (64 - prefixBits6)
	}
	// A product with a secret, both halves: each bit of the prefix reaches the index.
	hi, lo := bits.Mul64(high^s.key[1], s.key[0])
	return &s.buckets[(hi^lo*s.key[1])>>48]
}

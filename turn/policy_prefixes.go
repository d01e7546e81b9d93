package turn

import (
	"net/netip"
	"slices"
)

// prefixTable finds the longest prefix that contains an address. It is filled with insert, then sealed: lookup searches the
// sealed table, one binary search, allocates nothing and is safe for concurrent use.
type prefixTable[V any] struct {
	rows     map[netip.Prefix]V
	segments [2][]segment[V] // of IPv4, of IPv6: ascending, the first at the family's first address
}

// segment is the addresses from start to the next segment's: all have the same longest prefix, or none.
type segment[V any] struct {
	start  netip.Addr
	prefix netip.Prefix // invalid: none
	value  V
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// insert sets the value of p, which is masked and not IPv4-mapped.
func (t *prefixTable[V]) insert(p netip.Prefix, v V) {
	if t.rows == nil {
		t.rows = make(map[netip.Prefix]V)
	}
	t.rows[p] = v
}

// at returns the value of p itself.
func (t *prefixTable[V]) at(p netip.Prefix) (v V, ok bool) {
	v, ok = t.rows[p]
	return v, ok
}

// seal makes lookup know what was inserted. A table may be filled further and sealed again.
func (t *prefixTable[V]) seal() {
	t.segments = [2][]segment[V]{{{start: netip.IPv4Unspecified()}}, {{start: netip.IPv6Unspecified()}}}
	prefixes := make([]netip.Prefix, 0, len(t.rows))
	for p := range t.rows {
		prefixes = append(prefixes, p)
	}
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int { // outer before inner, IPv4 before IPv6
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var open []netip.Prefix // those that contain where we are, outermost first
	leave := func() {
		left := open[len(open)-1]
		open = open[:len(open)-1]
		next := lastAddress(left).Next()
		switch {
		case !next.IsValid(): // the end of the family
		case len(open) > 0:
			t.begin(next, open[len(open)-1])
		default:
			t.begin(next, netip.Prefix{})
		}
	}
	for _, p := range prefixes {
		for len(open) > 0 && !open[len(open)-1].Contains(p.Addr()) {
			leave()
		}
		open = append(open, p)
		t.begin(p.Addr(), p)
	}
	for len(open) > 0 {
		leave()
	}
}

// begin starts a segment at a. Where two start there, the first is empty and lookup passes over it.
func (t *prefixTable[V]) begin(a netip.Addr, p netip.Prefix) {
	f := family(a)
	t.segments[f] = append(t.segments[f], segment[V]{a, p, t.rows[p]})
}

// lookup returns the longest prefix that contains a, which has no zone.
func (t *prefixTable[V]) lookup(a netip.Addr) (p netip.Prefix, v V, ok bool) {
	s := t.segments[family(a)]
	if len(s) == 0 {
		panic("BUG: a prefix table is read before it is sealed")
	}
	low, high := 0, len(s) // s[low].start <= a < s[high].start
	for high-low > 1 {
		if mid := int(uint(low+high) / 2); a.Less(s[mid].start) {
			high = mid
		} else {
			low = mid
		}
	}
	return s[low].prefix, s[low].value, s[low].prefix.IsValid()
}

// lastAddress returns the highest address of p.
func lastAddress(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		panic("BUG: an address of neither 4 nor 16 octets")
	}
	return a
}

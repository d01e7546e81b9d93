package turn

import (
	"net/netip"
	"slices"
)

// prefixTable finds the longest prefix that contains an address. It holds one map of masked prefixes and, for each
// family, the prefix lengths that occur, longest first: a look-up costs one map access for each length.
// It allocates only while it is filled; then it is safe for concurrent use.
type prefixTable[V any] struct {
	rows    map[netip.Prefix]V
	lengths [2][]int // of IPv4, of IPv6
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
	lengths := &t.lengths[family(p.Addr())]
	at, found := slices.BinarySearchFunc(*lengths, p.Bits(), func(have, want int) int { return want - have })
	if !found {
		*lengths = slices.Insert(*lengths, at, p.Bits())
	}
}

// at returns the value of p itself.
func (t *prefixTable[V]) at(p netip.Prefix) (v V, ok bool) {
	v, ok = t.rows[p]
	return v, ok
}

// lookup returns the longest prefix that contains a, which has no zone.
func (t *prefixTable[V]) lookup(a netip.Addr) (p netip.Prefix, v V, ok bool) {
	for _, bits := range t.lengths[family(a)] {
		p, err := a.Prefix(bits)
		if err != nil {
			panic("BUG: a prefix length that its family does not have")
		}
		if v, ok := t.rows[p]; ok {
			return p, v, true
		}
	}
	return netip.Prefix{}, v, false
}

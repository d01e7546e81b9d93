package turn

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestPrefixTableFindsTheLongestPrefix(t *testing.T) {
	drawAddr := rapid.Custom(func(t *rapid.T) netip.Addr {
		// Few values, so that prefixes overlap.
		octet := rapid.SampledFrom([]byte{0, 1, 0x7f, 0x80, 0xff})
		if rapid.Bool().Draw(t, "IPv4") {
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(octet, 4, 4).Draw(t, "octets")))
		}
		return netip.AddrFrom16([16]byte(rapid.SliceOfN(octet, 16, 16).Draw(t, "octets")))
	})
	rapid.Check(t, func(t *rapid.T) {
		var table prefixTable[int]
		model := make(map[netip.Prefix]int)
		for i, a := range rapid.SliceOfN(drawAddr, 0, 12).Draw(t, "prefixes") {
			p := netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits")).Masked()
			table.insert(p, i)
			model[p] = i
			if rapid.Bool().Draw(t, "sealed between") {
				table.seal()
			}
		}
		table.seal()
		a := drawAddr.Draw(t, "address")
		var want netip.Prefix
		for p := range model {
			if p.Contains(a) && (!want.IsValid() || p.Bits() > want.Bits()) {
				want = p
			}
		}
		got, v, ok := table.lookup(a)
		if ok != want.IsValid() || got != want || ok && v != model[want] {
			t.Fatalf("%v: got %v (%d, %t), want %v (%d)", a, got, v, ok, want, model[want])
		}
	})
}

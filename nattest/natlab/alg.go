package natlab

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
)

// rewrite returns the payload with every copy of one IPv4 endpoint replaced by another: the port and address in the
// order of STUN's MAPPED-ADDRESS, and the address alone. The payload itself is not changed.
func rewrite(payload []byte, from, to netip.AddrPort) []byte {
	a, b := from.Addr().As4(), to.Addr().As4()
	if !bytes.Contains(payload, a[:]) {
		return payload
	}
	out := slices.Clone(payload)
	for i := 0; i+4 <= len(out); i++ {
		if [4]byte(out[i:i+4]) != a {
			continue
		}
		copy(out[i:], b[:])
		if i >= 2 && binary.BigEndian.Uint16(out[i-2:]) == from.Port() {
			binary.BigEndian.PutUint16(out[i-2:], to.Port())
		}
		i += 3
	}
	return out
}

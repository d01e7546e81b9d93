package rtmfp

import "math/bits"

// MaxVLUSize is the longest encoding of a 64-bit number (§2.1.2).
const MaxVLUSize = 10

// AppendVLU appends the shortest encoding of v (§2.1.2).
//
//	zero or more {1:1 digit:7} then {0:1 digit:7}, most significant digit first
func AppendVLU(b []byte, v uint64) []byte {
	for shift := 7 * (SizeVLU(v) - 1); shift > 0; shift -= 7 {
		b = append(b, byte(v>>shift)|0x80)
	}
	return append(b, byte(v)&0x7f)
}

// SizeVLU reports how many bytes AppendVLU appends: 1 to MaxVLUSize.
func SizeVLU(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// ParseVLU parses the VLU that b begins with. rest aliases b. Leading zero digits are accepted as long as the whole is
// not longer than MaxVLUSize. Errors: ErrTruncated, ErrRange.
func ParseVLU(b []byte) (v uint64, rest []byte, err error) {
	for i, c := range b {
		if i == MaxVLUSize || v > 1<<57-1 {
			return 0, nil, ErrRange
		}
		v = v<<7 | uint64(c&0x7f)
		if c < 0x80 {
			return v, b[i+1:], nil
		}
	}
	return 0, nil, ErrTruncated
}

// appendBytesVLU appends the length of p as a VLU, then p.
func appendBytesVLU(b, p []byte) []byte {
	return append(AppendVLU(b, uint64(len(p))), p...)
}

// parseBytesVLU parses what appendBytesVLU appends. Both results alias b.
func parseBytesVLU(b []byte) (p, rest []byte, err error) {
	n, b, err := ParseVLU(b)
	if err != nil {
		return nil, nil, err
	}
	if n > uint64(len(b)) {
		return nil, nil, ErrTruncated
	}
	return b[:n:n], b[n:], nil
}

package turn

import (
	"fmt"
	"strings"
)

// PortRange is the ports from First to Last, both included. First 0 or First above Last is the empty range.
type PortRange struct{ First, Last uint16 }

// Contains reports whether port lies in r. Port 0 never does.
func (r PortRange) Contains(port uint16) bool {
	return r.First != 0 && r.First <= port && port <= r.Last
}

// Size returns the number of ports in r.
func (r PortRange) Size() int {
	if r.First == 0 || r.First > r.Last {
		return 0
	}
	return int(r.Last) - int(r.First) + 1
}

// String writes r as 1024-65535, or as one number.
func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// PortSet is a set of ports, a bit for each. It is 8 KiB, immutable, and safe for concurrent use.
type PortSet struct{ bits [65536 / 64]uint64 }

// NewPortSet returns the ports of include without those of exclude. Empty ranges and port 0 add nothing.
func NewPortSet(include []PortRange, exclude ...PortRange) *PortSet {
	s := new(PortSet)
	for _, r := range include {
		for p := int(r.First); r.Size() > 0 && p <= int(r.Last); p++ {
			s.bits[p/64] |= 1 << (p % 64)
		}
	}
	for _, r := range exclude {
		for p := int(r.First); r.Size() > 0 && p <= int(r.Last); p++ {
			s.bits[p/64] &^= 1 << (p % 64)
		}
	}
	return s
}

// Contains reports whether port is in the set. It never allocates.
func (s *PortSet) Contains(port uint16) bool { return s.bits[port/64]&(1<<(port%64)) != 0 }

// Ranges returns the set as its shortest list of ascending ranges.
func (s *PortSet) Ranges() []PortRange {
	var ranges []PortRange
	for p := 1; p < 65536; p++ {
		if !s.Contains(uint16(p)) {
			continue
		}
		first := p
		for p < 65535 && s.Contains(uint16(p+1)) {
			p++
		}
		ranges = append(ranges, PortRange{uint16(first), uint16(p)})
	}
	return ranges
}

// String writes the set as "1024-1899,1901-65535", or "none".
func (s *PortSet) String() string {
	var b strings.Builder
	for i, r := range s.Ranges() {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(r.String())
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()
}

// unprivilegedPorts are the ports of peers if nobody says otherwise. Which of them belong to well-known reflectors is
// the configuration's to say; it excludes them by default.
var unprivilegedPorts = NewPortSet([]PortRange{{1024, 65535}})

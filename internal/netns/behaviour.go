package netns

import "strconv"

// Mapping is how a NAT chooses the public port of a flow (RFC 4787 §4.1).
type Mapping int

const (
	MappingUnknown Mapping = iota
	EIM                    // endpoint-independent: one port for each inside socket
	ADM                    // address-dependent: one for each remote address
	APDM                   // address-and-port-dependent: one for each remote socket
	NoMapping              // addresses pass unchanged
	MappingBlocked         // UDP does not pass
)

func (m Mapping) String() string {
	return name(int(m), "unknown", "EIM", "ADM", "APDM", "none", "blocked")
}

// Filtering is whom a NAT or firewall lets answer (RFC 4787 §5).
type Filtering int

const (
	FilteringUnknown Filtering = iota
	EIF                        // endpoint-independent: everybody
	ADF                        // address-dependent: addresses that the inside socket has sent to
	APDF                       // address-and-port-dependent: remote sockets that it has sent to
	NoFiltering                // nothing is filtered and nothing needs a mapping
	FilteringBlocked           // UDP does not pass
)

func (f Filtering) String() string {
	return name(int(f), "unknown", "EIF", "ADF", "APDF", "open", "blocked")
}

func name(i int, names ...string) string {
	if i < 0 || i >= len(names) {
		return strconv.Itoa(i)
	}
	return names[i]
}

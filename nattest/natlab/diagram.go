package natlab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Ours to tune: as many packets as a reader follows on a few screens.
const defaultRingPackets = 100

// trace is the life of a packet for the diagram.
type trace struct {
	at    time.Time
	proto Proto
	bytes int
	ttl   int
	icmp  *ICMPError
	frag  *Fragment
	tcp   string
	note  string
	stops []stop
	end   Disposition
	src   netip.AddrPort // at the end
	dst   netip.AddrPort
}

// stop is a node that a packet came to, with the addresses it had there.
type stop struct {
	node     *node
	src, dst netip.AddrPort
}

func (t *trace) visit(at *node, p *Packet) {
	if at != nil {
		t.stops = append(t.stops, stop{at, p.Src, p.Dst})
	}
}

// ring holds the last packets.
type ring struct {
	size  int
	next  int
	items []*trace
}

func (r *ring) add(t *trace) {
	if len(r.items) < r.size {
		r.items = append(r.items, t)
		return
	}
	r.items[r.next] = t
	r.next = (r.next + 1) % r.size
}

func (r *ring) list() []*trace {
	return append(slices.Clone(r.items[r.next:]), r.items[:r.next]...)
}

// KeepPackets sets how many packets Diagram shows (100 unless set) and forgets those so far.
func (n *Net) KeepPackets(count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ring = ring{size: max(count, 1)}
}

// Diagram returns the last packets as a sequence chart: one column for each host and box, one line for each packet in
// the order of sending: the time in seconds since New, an arrow from where the packet started to where it ended (x if
// it was not delivered), its addresses with each translation, and its disposition.
func (n *Net) Diagram() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	traces := n.ring.list()

	used := make(map[int]int) // node id to column
	var names []string
	for _, nd := range n.columns() {
		if slices.ContainsFunc(traces, func(t *trace) bool {
			return slices.ContainsFunc(t.stops, func(s stop) bool { return s.node == nd })
		}) {
			used[nd.id] = len(names)
			names = append(names, nd.name)
		}
	}
	width := 9
	for _, name := range names {
		width = max(width, len(name)+2)
	}

	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, the last %d of %d packets\n", n.seed, len(traces), n.sent)
	heading := strings.Repeat(" ", 12)
	for _, name := range names {
		heading += center(name, width)
	}
	b.WriteString(strings.TrimRight(heading, " ") + "\n")
	for _, t := range traces {
		fmt.Fprintf(&b, "%11.6f ", t.at.Sub(n.start).Seconds())
		b.WriteString(t.arrow(used, len(names), width))
		b.WriteString("  ")
		b.WriteString(t.describe())
		b.WriteByte('\n')
	}
	return b.String()
}

// columns puts the nodes into the order of the diagram: on the left what is inside the first box, which stands to the right
// of it; then public hosts; then the other boxes, each to the left of its inside.
func (n *Net) columns() []*node {
	var left, middle, right []*node
	inside := func(box *node) (list []*node) {
		for _, nd := range n.nodes {
			if nd.inside == box {
				list = append(list, nd)
			}
		}
		return list
	}
	var tree func(nd *node) []*node
	tree = func(nd *node) []*node {
		list := []*node{nd}
		for _, child := range inside(nd) {
			list = append(list, tree(child)...)
		}
		return list
	}
	for _, nd := range inside(nil) {
		switch t := tree(nd); {
		case len(t) == 1:
			middle = append(middle, nd)
		case left == nil:
			left = t
			slices.Reverse(left)
		default:
			right = append(right, t...)
		}
	}
	return slices.Concat(left, middle, right)
}

func center(s string, width int) string {
	left := (width - len(s)) / 2
	return strings.Repeat(" ", left) + s + strings.Repeat(" ", width-len(s)-left)
}

// arrow draws the packet's way through the columns.
func (t *trace) arrow(column map[int]int, columns, width int) string {
	line := []byte(strings.Repeat(center("|", width), columns))
	pos := func(s stop) int { return column[s.node.id]*width + (width-1)/2 }
	if len(t.stops) == 0 {
		return string(line)
	}
	for i := 1; i < len(t.stops); i++ {
		a, b := pos(t.stops[i-1]), pos(t.stops[i])
		for x := min(a, b); x <= max(a, b); x++ {
			if line[x] == ' ' {
				line[x] = '-'
			}
		}
	}
	for _, s := range t.stops {
		line[pos(s)] = '+'
	}
	last := t.stops[len(t.stops)-1]
	at := pos(last)
	back := len(t.stops) > 1 && pos(t.stops[len(t.stops)-2]) > at
	switch {
	case t.end == Delivered || t.end == Reported || t.end == Reassembled || t.end == Fragmented:
		if len(t.stops) == 1 {
			line[at] = 'o' // stayed on its host
		} else if back {
			line[at] = '<'
		} else {
			line[at] = '>'
		}
	case t.end == InFlight:
		line[at] = '~'
	default:
		line[at] = 'x'
	}
	return string(line)
}

func (t *trace) describe() string {
	var b strings.Builder
	src, dst := t.begin()
	fmt.Fprint(&b, endpointString(src))
	ends := append(slices.Clone(t.stops), stop{nil, t.src, t.dst})
	for _, s := range ends {
		if s.src.IsValid() && s.src != src {
			src = s.src
			fmt.Fprintf(&b, "=%s", endpointString(src))
		}
	}
	fmt.Fprintf(&b, " > %s", endpointString(dst))
	for _, s := range ends {
		if s.dst.IsValid() && s.dst != dst {
			dst = s.dst
			fmt.Fprintf(&b, "=%s", endpointString(dst))
		}
	}
	switch {
	case t.icmp != nil:
		fmt.Fprintf(&b, " icmp %v for %v", t.icmp.Type, t.icmp.Dst)
	case t.proto == TCP:
		fmt.Fprintf(&b, " tcp %s", t.tcp)
	default:
		fmt.Fprintf(&b, " %v %d bytes", t.proto, t.bytes)
	}
	if t.frag != nil {
		fmt.Fprintf(&b, " at %d of #%d", t.frag.Offset, t.frag.ID)
	}
	if t.ttl != defaultTTL {
		fmt.Fprintf(&b, " TTL %d", t.ttl)
	}
	if t.note != "" {
		fmt.Fprintf(&b, " (%s)", t.note)
	}
	fmt.Fprintf(&b, ": %v", t.end)
	return b.String()
}

// begin returns the addresses that the packet was sent with.
func (t *trace) begin() (src, dst netip.AddrPort) {
	if len(t.stops) > 0 {
		return t.stops[0].src, t.stops[0].dst
	}
	return t.src, t.dst
}

func endpointString(a netip.AddrPort) string {
	switch {
	case !a.IsValid():
		return "?"
	case a.Port() == 0:
		return a.Addr().String()
	}
	return a.String()
}

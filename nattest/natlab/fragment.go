package natlab

import (
	"slices"
	"time"

	"net/netip"
)

// fragment replaces a UDP datagram by parts that fit into mtu bytes.
func (n *Net) fragment(now time.Time, p *Packet, mtu int, at *node) []*Packet {
	header := ipv4HeaderBytes
	if p.is6() {
		header = ipv6HeaderBytes + ipv6FragmentBytes
	}
	// A part of a part keeps the identity of the datagram; offsets count the UDP header, as on the wire.
	id, base, more := uint32(0), 0, false
	if p.Fragment != nil {
		id, base, more = p.Fragment.ID, p.Fragment.Offset, p.Fragment.More
	} else {
		n.fragID++
		id = n.fragID
	}
	step := (mtu - header) &^ 7 // offsets are multiples of 8 (RFC 791 §3.1)
	total := len(p.Payload)
	if base == 0 {
		total += udpHeaderBytes
	}
	var parts []*Packet
	for off := 0; off < total; off += step {
		end := min(off+step, total)
		q := *p
		q.Fragment = &Fragment{ID: id, Offset: base + off, More: more || end < total}
		from, to := off, end
		if base == 0 { // the first part has the UDP header
			from, to = max(0, off-udpHeaderBytes), end-udpHeaderBytes
		}
		q.Payload = p.Payload[from:to]
		n.begin(now, &q, at)
		parts = append(parts, &q)
	}
	n.end(p, Fragmented)
	return parts
}

type partKey struct {
	src, dst netip.AddrPort
	id       uint32
}

type reassembly struct {
	parts   []*Packet
	expires time.Time
}

// reassemble takes a fragment and returns the datagram when it is complete.
func (h *Host) reassemble(now time.Time, p *Packet) *Packet {
	h.expireParts(now)
	key := partKey{p.Src, p.Dst, p.Fragment.ID}
	r := h.parts[key]
	if r == nil {
		if len(h.order) >= maxReassemblies {
			h.giveUp(h.order[0])
		}
		r = &reassembly{expires: now.Add(reassemblyTimeout)}
		h.parts[key] = r
		h.order = append(h.order, key)
	}
	if slices.ContainsFunc(r.parts, func(o *Packet) bool { return o.Fragment.Offset == p.Fragment.Offset }) {
		h.net.end(p, FragmentDropped) // a duplicate
		return nil
	}
	r.parts = append(r.parts, p)
	slices.SortFunc(r.parts, func(a, b *Packet) int { return a.Fragment.Offset - b.Fragment.Offset })

	next := 0
	for _, q := range r.parts {
		if q.Fragment.Offset != next {
			return nil
		}
		next += len(q.Payload)
		if q.Fragment.Offset == 0 {
			next += udpHeaderBytes
		}
	}
	if r.parts[len(r.parts)-1].Fragment.More {
		return nil
	}
	whole := *r.parts[0]
	whole.Fragment, whole.Payload = nil, nil
	for _, q := range r.parts {
		whole.Payload = append(whole.Payload, q.Payload...)
		h.net.end(q, Reassembled)
	}
	h.forget(key)
	h.net.begin(now, &whole, h.node)
	whole.trace.note = "reassembled"
	return &whole
}

func (h *Host) expireParts(now time.Time) {
	for len(h.order) > 0 && !now.Before(h.parts[h.order[0]].expires) {
		h.giveUp(h.order[0])
	}
}

func (h *Host) giveUp(key partKey) {
	for _, q := range h.parts[key].parts {
		h.net.end(q, FragmentDropped)
	}
	h.forget(key)
}

func (h *Host) forget(key partKey) {
	delete(h.parts, key)
	h.order = slices.DeleteFunc(h.order, func(k partKey) bool { return k == key })
}

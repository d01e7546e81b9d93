package main

import "encoding/binary"

// A probe stands at the start of every payload, 24 bytes:
//
//	tag(32) allocation(32) sent(64, ns since 1970) sequence(32) zero(32)
//
// The tag is one trial's, so that a packet which arrives late is not counted in the next.
const probeSize = 24

type probe struct {
	tag, alloc uint32
	sent       int64
	seq        uint32
}

func putProbe(b []byte, p probe) {
	_ = b[probeSize-1]
	binary.BigEndian.PutUint32(b, p.tag)
	binary.BigEndian.PutUint32(b[4:], p.alloc)
	binary.BigEndian.PutUint64(b[8:], uint64(p.sent))
	binary.BigEndian.PutUint32(b[16:], p.seq)
}

func parseProbe(b []byte) (probe, bool) {
	if len(b) < probeSize {
		return probe{}, false
	}
	return probe{
		tag:   binary.BigEndian.Uint32(b),
		alloc: binary.BigEndian.Uint32(b[4:]),
		sent:  int64(binary.BigEndian.Uint64(b[8:])),
		seq:   binary.BigEndian.Uint32(b[16:]),
	}, true
}

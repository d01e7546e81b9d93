package rtmfp

import (
	"net/netip"
)

// reassemblyKey names a fragmented packet (§3.4).
type reassemblyKey struct {
	from     netip.AddrPort
	session  uint32 // 0, or that of an opening session
	packetID uint64
}

// reassembly collects the fragments of one startup packet.
type reassembly struct {
	parts    map[uint64][]byte
	final    uint64 // number of the final fragment
	complete bool   // final is known
	size     int    // bytes of parts
	wire     int    // bytes that they took on the wire
	begun    instant
	progress instant
}

// reassemble adds a fragment and returns the packet when it is whole, with the bytes on the wire of all its fragments.
func (e *Endpoint) reassemble(key reassemblyKey, f Fragment, wire int) (plain []byte, total int) {
	r := e.reassemblies[key]
	if r != nil && (e.now.sub(r.begun) > fragmentLifetime || e.now.sub(r.progress) > fragmentProgress && len(e.reassemblies) >= e.cfg.Limits.Reassemblies) {
		delete(e.reassemblies, key)
		r = nil
	}
	if r == nil {
		if len(e.reassemblies) >= e.cfg.Limits.Reassemblies {
			e.evictReassembly()
		}
		r = &reassembly{parts: make(map[uint64][]byte), begun: e.now}
		e.reassemblies[key] = r
	}
	if _, seen := r.parts[f.Number]; seen || r.complete && f.Number > r.final {
		e.drop(ChunkReassembly)
		return nil, 0
	}
	if r.size+len(f.Data)+entryOverhead*(len(r.parts)+1) > e.cfg.Limits.Reassembly {
		delete(e.reassemblies, key)
		e.drop(ChunkLimit)
		return nil, 0
	}
	r.parts[f.Number] = append([]byte(nil), f.Data...)
	r.size += len(f.Data)
	r.wire += wire
	r.progress = e.now
	if !f.More {
		r.final, r.complete = f.Number, true
	}
	// Fragment numbers are consecutive from 0, so the count tells.
	if !r.complete || uint64(len(r.parts)) != r.final+1 {
		return nil, 0
	}
	plain = make([]byte, 0, r.size)
	for n := range r.final + 1 {
		part, ok := r.parts[n]
		if !ok { // a number above final came first
			delete(e.reassemblies, key)
			e.drop(ChunkReassembly)
			return nil, 0
		}
		plain = append(plain, part...)
	}
	delete(e.reassemblies, key)
	e.counters.Reassembled++
	return plain, r.wire
}

// evictReassembly forgets what has been longest without progress.
func (e *Endpoint) evictReassembly() {
	var oldest reassemblyKey
	at := never
	for key, r := range e.reassemblies {
		// Equal times are told apart by the key, because the order of a map is random and a run must repeat.
		if r.progress < at || r.progress == at && key.less(oldest) {
			oldest, at = key, r.progress
		}
	}
	delete(e.reassemblies, oldest)
	e.drop(ChunkLimit)
}

func (k reassemblyKey) less(o reassemblyKey) bool {
	if c := k.from.Compare(o.from); c != 0 {
		return c < 0
	}
	if k.session != o.session {
		return k.session < o.session
	}
	return k.packetID < o.packetID
}

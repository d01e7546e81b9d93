package transport

import "sync/atomic"

// Stats counts since New. Every datagram that was read is in one of Limited, Long, HandedOver, Dropped and
// rtmfp.Counters.Received; those that were handed over are in another shard's.
type Stats struct {
	Read       uint64 // datagrams
	Limited    uint64 // startup packets above Config.StartupPerPrefix
	Long       uint64 // datagrams above 4096 bytes
	HandedOver uint64 // datagrams of other shards' sessions
	TakenOver  uint64 // datagrams that other shards have read
	Dropped    uint64 // of TakenOver: the endpoint was busy
	ReadErrors uint64
	Unsent     uint64 // datagrams that the system did not take
	Busy       uint64 // functions that were refused with ErrBusy
}

type counters struct {
	read, limited, long, handed, taken, dropped, readErrors, unsent, busy atomic.Uint64
}

// Stats returns the counters.
func (t *Transport) Stats() Stats {
	c := &t.stats
	return Stats{
		Read: c.read.Load(), Limited: c.limited.Load(), Long: c.long.Load(), HandedOver: c.handed.Load(), TakenOver: c.taken.Load(),
		Dropped: c.dropped.Load(), ReadErrors: c.readErrors.Load(), Unsent: c.unsent.Load(), Busy: c.busy.Load(),
	}
}

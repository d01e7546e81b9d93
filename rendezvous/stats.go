package rendezvous

import "github.com/stilenet/stile/rtmfp"

// Stats count what a shard has done, since its start.
type Stats struct {
	// Each datagram that was read is in one of Limited, Long, Busy and Endpoint.Packets.
	Read     uint64 // datagrams
	Limited  uint64 // startup packets over the budget of their source's prefix
	Long     uint64 // longer than any of RTMFP
	Busy     uint64 // another shard's, which was too busy to take it
	Unsent   uint64 // datagrams that the system did not take
	Endpoint rtmfp.Counters

	Sessions         int // now
	Connected        uint64
	Opened           uint64
	Moved            uint64
	Replaced         uint64 // sessions that lost their peer ID to a new one, because they did not answer
	Mixed            uint64 // times that private and public clients were seen together
	Ended            [reasonCount]uint64
	Refused          [refusalCount]uint64
	Keys             [keyRefusalCount]uint64
	Introductions    [introductionCount]uint64
	FlowsRejected    uint64
	Malformed        uint64 // messages
	Ignored          uint64 // messages
	CommandRate      uint64 // messages over the rate of their client
	Dropped          uint64 // messages to clients that do not take them
	AddressesSkipped uint64 // of setPeerInfo
	Checks           uint64 // connectivity checks
	Probes           uint64 // their packets
}

// reasonCount is above every rtmfp.Reason.
const reasonCount = int(rtmfp.ReasonGlare) + 1

// Stats returns a copy.
func (c *Core) Stats() Stats {
	s := c.stats
	if c.e != nil {
		s.Endpoint = c.e.Counters()
	}
	s.Sessions = len(c.clients)
	return s
}

// Add adds the counts of another shard.
func (s *Stats) Add(o *Stats) {
	s.Read += o.Read
	s.Limited += o.Limited
	s.Long += o.Long
	s.Busy += o.Busy
	s.Unsent += o.Unsent
	addCounters(&s.Endpoint, &o.Endpoint)
	s.Sessions += o.Sessions
	s.Connected += o.Connected
	s.Opened += o.Opened
	s.Moved += o.Moved
	s.Replaced += o.Replaced
	s.Mixed += o.Mixed
	add(s.Ended[:], o.Ended[:])
	add(s.Refused[:], o.Refused[:])
	add(s.Keys[:], o.Keys[:])
	add(s.Introductions[:], o.Introductions[:])
	s.FlowsRejected += o.FlowsRejected
	s.Malformed += o.Malformed
	s.Ignored += o.Ignored
	s.CommandRate += o.CommandRate
	s.Dropped += o.Dropped
	s.AddressesSkipped += o.AddressesSkipped
	s.Checks += o.Checks
	s.Probes += o.Probes
}

func add(to, from []uint64) {
	for i, n := range from {
		to[i] += n
	}
}

func addCounters(s, o *rtmfp.Counters) {
	s.Received += o.Received
	s.Sent += o.Sent
	add(s.Packets[:], o.Packets[:])
	add(s.Chunks[:], o.Chunks[:])
	s.Opened += o.Opened
	s.Failed += o.Failed
	s.Closed += o.Closed
	s.Rejected += o.Rejected
	s.Lost += o.Lost
	s.TimedOut += o.TimedOut
	s.Overrides += o.Overrides
	s.Reassembled += o.Reassembled
	s.Moved += o.Moved
	s.MovedEmpty += o.MovedEmpty
}

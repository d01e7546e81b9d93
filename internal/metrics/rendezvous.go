package metrics

import (
	"context"

	"github.com/stilenet/stile/rendezvous"
	"github.com/stilenet/stile/rtmfp"
)

// Rendezvous is a rendezvous to read. *rendezvous.Server is one, with its registry.
type Rendezvous struct {
	Stats     func(context.Context) (rendezvous.Stats, error)
	Registry  *rendezvous.Registry
	Directory *rendezvous.Directory // nil: there is none
}

var (
	rtmfpUp            = desc("rtmfp_up", "1 when every shard of the rendezvous answered the scrape; its other metrics are absent when not.")
	rtmfpRead          = desc("rtmfp_packets_read_total", "Datagrams read.")
	rtmfpPackets       = desc("rtmfp_packets_total", "What became of the datagrams read. The sum is stile_rtmfp_packets_read_total.", "disposition")
	rtmfpChunks        = desc("rtmfp_chunks_dropped_total", "Chunks of processed packets that had no effect.", "reason")
	rtmfpSent          = desc("rtmfp_packets_sent_total", "Datagrams sent.")
	rtmfpUnsent        = desc("rtmfp_packets_unsent_total", "Datagrams that the system did not take.")
	rtmfpSessions      = desc("rtmfp_sessions", "Sessions now.")
	rtmfpOpened        = desc("rtmfp_sessions_opened_total", "Sessions that were keyed and admitted.")
	rtmfpEnded         = desc("rtmfp_sessions_ended_total", "Sessions that ended.", "reason")
	rendezvousPeers    = desc("rendezvous_peers", "Peers now that can be introduced.")
	rendezvousOK       = desc("rendezvous_connects_total", "Connect commands that succeeded.")
	rendezvousRefused  = desc("rendezvous_refused_total", "Clients that were refused.", "reason")
	rendezvousIntro    = desc("rendezvous_introductions_total", "What became of the IHellos that asked for a peer.", "outcome")
	rendezvousMessages = desc("rendezvous_messages_dropped_total", "Messages of clients without effect, and to clients that did not take them.", "cause")
	rendezvousSkipped  = desc("rendezvous_addresses_skipped_total", "Addresses of setPeerInfo that make no sense.")
	rendezvousReplaced = desc("rendezvous_peers_replaced_total", "Silent sessions that lost their peer ID to a new one.")
	rendezvousMixed    = desc("rendezvous_mixed_addresses_total", "Times that some clients were seen by private and others by public addresses.")
	rendezvousChecks   = desc("rendezvous_connectivity_checks_total", "Connectivity checks.")
	rendezvousKeys     = desc("rendezvous_keys", "Developer keys now.")
	rendezvousNames    = desc("rendezvous_names", "Names in the ID exchange now.")
	directoryRequests  = desc("rendezvous_directory_requests_total", "Requests to the ID exchange.", "outcome")
)

// rendezvous shows what the cores count. Labels are words of this program.
func (c *collector) rendezvous(ctx context.Context, e emitter) {
	r := c.cfg.Rendezvous
	if r == nil {
		return
	}
	if r.Directory != nil {
		for o, n := range r.Directory.Counts() {
			if o > 0 {
				e.counter(directoryRequests, n, rendezvous.DirectoryOutcome(o).String())
			}
		}
	}
	e.gauge(rendezvousPeers, r.Registry.Peers())
	e.gauge(rendezvousKeys, r.Registry.Keys.Len())
	e.gauge(rendezvousNames, r.Registry.Names.Len())
	s, err := r.Stats(ctx)
	e.gauge(rtmfpUp, one(err == nil))
	if err != nil {
		return
	}
	e.counter(rtmfpRead, s.Read)
	e.counter(rtmfpPackets, s.Limited, "source_rate")
	e.counter(rtmfpPackets, s.Long, "long")
	e.counter(rtmfpPackets, s.Busy, "busy")
	for d, n := range s.Endpoint.Packets {
		if d > 0 {
			e.counter(rtmfpPackets, n, label(rtmfp.Disposition(d).String()))
		}
	}
	for d, n := range s.Endpoint.Chunks {
		if d > 0 {
			e.counter(rtmfpChunks, n, label(rtmfp.ChunkDrop(d).String()))
		}
	}
	e.counter(rtmfpSent, s.Endpoint.Sent)
	e.counter(rtmfpUnsent, s.Unsent)
	e.gauge(rtmfpSessions, s.Sessions)
	e.counter(rtmfpOpened, s.Opened)
	for reason, n := range s.Ended {
		if reason > 0 {
			e.counter(rtmfpEnded, n, label(rtmfp.Reason(reason).String()))
		}
	}
	e.counter(rendezvousOK, s.Connected)
	for reason, n := range s.Refused {
		if reason > 0 {
			e.counter(rendezvousRefused, n, rendezvous.Refusal(reason).String())
		}
	}
	for o, n := range s.Introductions {
		if o > 0 {
			e.counter(rendezvousIntro, n, rendezvous.Introduction(o).String())
		}
	}
	e.counter(rendezvousMessages, s.Malformed, "malformed")
	e.counter(rendezvousMessages, s.Ignored, "ignored")
	e.counter(rendezvousMessages, s.CommandRate, "rate")
	e.counter(rendezvousMessages, s.Dropped, "slow_client")
	e.counter(rendezvousSkipped, s.AddressesSkipped)
	e.counter(rendezvousReplaced, s.Replaced)
	e.counter(rendezvousMixed, s.Mixed)
	e.counter(rendezvousChecks, s.Checks)
}

// label writes a word of package rtmfp as labels are written here.
func label(word string) string {
	b := []byte(word)
	for i := range b {
		if b[i] == '-' {
			b[i] = '_'
		}
	}
	return string(b)
}

package metrics

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stilenet/stile/turn"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("stile_"+name, help, labels, nil)
}

var (
	up       = desc("turn_up", "1 when every shard answered the scrape; the other TURN metrics are absent when not.")
	read     = desc("turn_packets_read_total", "Packets read from clients and peers, hairpin deliveries included.")
	packets  = desc("turn_packets_total", "What became of the packets read. The sum is stile_turn_packets_read_total.", "disposition")
	refusals = desc("turn_refusals_total", "Refusals by the policy.", "rule")
	failures = desc("turn_error_responses_total", "Error responses.", "code")
	payload  = desc("turn_payload_bytes_total", "Payload relayed: up is from clients to peers.", "direction")

	allocations = desc("turn_allocations", "Allocations now. An unconfirmed one has sent no valid Send, Refresh or ChannelBind yet.", "state")
	permissions = desc("turn_permissions", "Permissions now.")
	channels    = desc("turn_channels", "Channels now.")
	allocated   = desc("turn_allocations_opened_total", "Allocations ever made, unconfirmed ones included.")
	ended       = desc("turn_allocations_ended_total", "Allocations that ended.", "reason")
	evicted     = desc("turn_allocations_evicted_total", "Unconfirmed allocations evicted for newer ones.")
	recycled    = desc("turn_allocations_recycled_total", "Evicted allocations whose port went to the newcomer at once.")
	modern      = desc("turn_modern_refused_total", "Allocations refused or ended for speaking the modern dialect without credentials.")
	openFailed  = desc("turn_relay_open_failures_total", "Relayed ports that the system would not open.")

	streams        = desc("turn_streams", "TCP connections of clients now.")
	streamsRefused = desc("turn_streams_refused_total", "TCP connections refused for a limit.")
	streamsBroken  = desc("turn_streams_broken_total", "TCP connections closed because nothing could be made of what they sent.")
	drops          = desc("turn_dataplane_drops_total", "Datagrams that the data plane lost before or after the relay's decision.", "cause")
	panics         = desc("turn_panics_total", "Bugs, each of which ended the allocations of one shard.")

	ports       = desc("turn_relay_ports", "Relayed ports by state. The sum is how many the server has.", "state")
	portsReused = desc("turn_relay_ports_reused_total", "Relayed ports taken out of quarantine early.")
	silent      = desc("turn_silent_peers", "Peer addresses with an unanswered-peer budget.")
	engine      = desc("turn_engine_info", "The engine that moves the packets; always 1.", "engine")
	fallback    = desc("turn_engine_fallback", "1 while a better engine was tried and does not work here; the log and `stile status` say why.")
	offloadRuns = desc("turn_offload_interface", "1 for each interface on which the kernel relays established flows, 0 where it was to and does not.", "interface", "mode")
	flows       = desc("turn_offload_flows", "Flows that the kernel relays now.")
	flowsMost   = desc("turn_offload_flows_max", "Flows that it has room for; 0: the offload does not run.")
	flowsFull   = desc("turn_offload_refused_total", "Flows that it had no room for.")
	offloaded   = desc("turn_offload_packets_total", "Packets that it relayed. The other metrics have them as well.")
	passed      = desc("turn_offload_passed_total", "Packets of its flows that it left to the engine.", "reason")
	shards      = desc("turn_shards", "Threads that move packets.")

	logDropped = desc("log_events_dropped_total", "Events that the log dropped because its writer was slow.")
	draining   = desc("turn_draining", "1 while the server takes no new allocations because it is about to end.")
)

// collector reads the server when it is scraped.
type collector struct{ cfg Config }

// Describe implements prometheus.Collector. It is unchecked on purpose: what is absent while a shard does not answer is described nowhere.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	e := emitter{ch}
	if c.cfg.LogDropped != nil {
		e.counter(logDropped, c.cfg.LogDropped())
	}
	if c.cfg.Draining != nil {
		e.gauge(draining, one(c.cfg.Draining()))
	}
	ctx, cancel := context.WithTimeout(context.Background(), statsTimeout)
	defer cancel()
	c.rendezvous(ctx, e)
	s, err := c.cfg.Server.Stats(ctx)
	e.gauge(up, one(err == nil))
	if err != nil {
		return
	}
	e.core(&s.Stats)

	e.gauge(streams, s.Streams)
	e.counter(streamsRefused, s.StreamsRefused)
	e.counter(streamsBroken, s.StreamsBroken)
	e.counter(drops, s.SendErrors, "send_error")
	e.counter(drops, s.StreamDrops, "slow_stream")
	e.counter(drops, s.HairpinDrops, "hairpin_mailbox")
	e.counter(drops, s.ReceiveDrops, "receive_queue")
	e.counter(panics, s.Panics)

	p := c.cfg.Server.Ledger().Ports()
	e.gauge(ports, p.Free, "free")
	e.gauge(ports, p.Quarantined, "quarantined")
	e.gauge(ports, p.Reserved, "reserved")
	e.gauge(ports, p.Total-p.Free-p.Quarantined-p.Reserved, "in_use")
	e.counter(portsReused, p.Reused)
	e.gauge(silent, p.SilentPeers)

	kind, n, why := c.cfg.Server.Engine()
	e.gauge(engine, 1, kind.String())
	e.gauge(fallback, one(why != ""))
	e.gauge(shards, n)

	o := c.cfg.Server.Offload()
	for _, i := range o.Interfaces {
		e.gauge(offloadRuns, one(i.Why == ""), i.Name, i.Mode())
	}
	e.gauge(flows, s.Flows)
	e.gauge(flowsMost, o.MaxFlows)
	e.counter(flowsFull, o.Refused)
	e.counter(offloaded, s.Offloaded)
	for _, reason := range slices.Sorted(maps.Keys(o.Passed)) {
		e.counter(passed, o.Passed[reason], reason)
	}
}

type emitter struct{ ch chan<- prometheus.Metric }

func (e emitter) counter(d *prometheus.Desc, n uint64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func (e emitter) gauge(d *prometheus.Desc, n int, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// core shows what the cores count. Zeros are shown, so that a first occurrence is an increase that an alert sees.
func (e emitter) core(s *turn.Stats) {
	e.counter(read, s.Read)
	for d, n := range s.Packets {
		e.counter(packets, n, turn.Disposition(d).String())
	}
	for r, n := range s.Refused {
		// The rules that allow refuse nobody, and most disguises are never seen.
		if rule := turn.Rule(r); n > 0 || !rule.Embedded() && rule > turn.RuleOwnService {
			e.counter(refusals, n, rule.String())
		}
	}
	for _, code := range slices.Sorted(maps.Keys(s.Errors)) {
		e.counter(failures, s.Errors[code], strconv.Itoa(code))
	}
	e.counter(payload, s.BytesToPeers, "up")
	e.counter(payload, s.BytesToClients, "down")

	e.gauge(allocations, s.Allocations-s.Unconfirmed, "confirmed")
	e.gauge(allocations, s.Unconfirmed, "unconfirmed")
	e.gauge(permissions, s.Permissions)
	e.gauge(channels, s.Channels)
	e.counter(allocated, s.Allocated)
	for r, n := range s.Ended {
		e.counter(ended, n, turn.EndReason(r).String())
	}
	e.counter(evicted, s.Evicted)
	e.counter(recycled, s.Recycled)
	e.counter(modern, s.ModernRefused)
	e.counter(openFailed, s.OpenFailed)
}

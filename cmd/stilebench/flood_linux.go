package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/stilenet/stile/stun"
)

// Sequence is what each spoofed source sends.
type Sequence string

// Sequences. The two-packet ones are what a server may take for a confirmation, sent without seeing an answer.
const (
	FloodAllocate Sequence = "allocate"
	FloodBind     Sequence = "two-packet" // Allocate, ChannelBind
	FloodSend     Sequence = "two-packet-send"
)

// maxSources is the /16 that they come from.
const maxSources = 1 << 16

// flood sends from made-up addresses at a rate of its own, beside a trial.
type flood struct {
	link       *packetLink
	frames     []*frame // in the order of sending
	rate       float64
	pacer      pacer
	next       int
	sources    int
	sent       uint64
	sentBytes  uint64
	replies    uint64
	replyBytes uint64
}

type floodConfig struct {
	sources  int
	sequence Sequence
	rate     float64
}

// newFlood prepares the packets. The link is the clients' of an open session.
func newFlood(link *packetLink, server, peer netip.AddrPort, cfg floodConfig) (*flood, error) {
	if cfg.sources < 1 || cfg.sources > maxSources {
		return nil, fmt.Errorf("--sources %d: must be 1 to %d", cfg.sources, maxSources)
	}
	f := &flood{link: link, rate: cfg.rate, sources: cfg.sources}
	base := labFlood.As4()
	add := func(i int, msg []byte) {
		a := base
		binary.BigEndian.PutUint16(a[2:], uint16(i))
		src := netip.AddrPortFrom(netip.AddrFrom4(a), uint16(1024+i%60000))
		fr := link.frameFrom(-1, src, server, msg, -1)
		// The transaction ID is what changes; it was zero when the sum was made.
		fr.probe = fr.payload[8:stun.HeaderSize]
		f.frames = append(f.frames, fr)
	}
	var zero stun.TransactionID
	for i := range cfg.sources {
		b := stun.Begin(nil, stun.NewType(stun.Allocate, stun.Request), zero)
		b.Attr(stun.AttrRequestedTransport, []byte{17, 0, 0, 0})
		add(i, b.Bytes())
		switch cfg.sequence {
		case FloodAllocate:
		case FloodBind:
			b := stun.Begin(nil, stun.NewType(stun.ChannelBind, stun.Request), zero)
			b.Uint32(stun.AttrChannelNumber, 0x4000<<16)
			b.XORAddress(stun.AttrXORPeerAddress, peer)
			add(i, b.Bytes())
		case FloodSend:
			b := stun.Begin(nil, stun.NewType(stun.Send, stun.Indication), zero)
			b.XORAddress(stun.AttrXORPeerAddress, peer)
			b.Attr(stun.AttrData, []byte("a word to a peer that never asked"))
			add(i, b.Bytes())
		default:
			return nil, fmt.Errorf("--sequence %s: must be %s, %s or %s", cfg.sequence, FloodAllocate, FloodBind, FloodSend)
		}
	}
	return f, nil
}

func (f *flood) begin(now int64) {
	f.pacer = newPacer(now, f.rate)
	f.next, f.sent, f.sentBytes, f.replies, f.replyBytes = 0, 0, 0, 0, 0
}

func (f *flood) send(now int64) (int, error) {
	n := min(f.pacer.due(now), batchSize, len(f.frames)-f.next)
	if n == 0 {
		return 0, nil
	}
	batch := f.frames[f.next : f.next+n]
	for _, fr := range batch {
		binary.NativeEndian.PutUint64(fr.probe, rand.Uint64())
		binary.NativeEndian.PutUint32(fr.probe[8:], rand.Uint32())
	}
	sent, err := f.link.send(batch)
	for _, fr := range batch[:sent] {
		f.sentBytes += uint64(len(fr.wire) - etherSize)
	}
	f.sent += uint64(sent)
	f.pacer.done += float64(sent)
	if f.next += sent; f.next == len(f.frames) {
		f.next = 0
	}
	return sent, err
}

func (f *flood) reply(a *arrival) {
	f.replies++
	f.replyBytes += uint64(ipv4Size + udpSize + a.size)
}

func (f *flood) result() *FloodResult {
	r := &FloodResult{Sources: f.sources, Sent: f.sent, SentBytes: f.sentBytes, Skipped: f.pacer.skipped, Replies: f.replies, ReplyBytes: f.replyBytes}
	if f.sentBytes > 0 {
		r.Amplified = float64(f.replyBytes) / float64(f.sentBytes)
	}
	return r
}

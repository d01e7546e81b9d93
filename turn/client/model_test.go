package client

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
	"pgregory.net/rapid"
)

// model is a strict server for one client: draft-08, or RFC 8656 with its guard on channels. It knows no retransmissions: each
// request is idempotent anyway, except that nothing here is ever refused twice.
type model struct {
	legacy   bool
	expires  time.Time
	perms    map[netip.Addr]time.Time  // until when
	number   map[uint16]netip.AddrPort // bound or guarded
	owner    map[netip.AddrPort]uint16 // the same the other way
	until    map[uint16]time.Time      // until when bound
	mistakes []string                  // what no client may do
	relayed  map[netip.AddrPort]int    // datagrams that reached a peer
	dropped  map[netip.AddrPort]int    // datagrams for want of a permission
}

func (m *model) receive(now time.Time, raw []byte) (replies [][]byte) {
	for n, until := range m.until {
		if guard := map[bool]time.Duration{true: 0, false: channelGuard}[m.legacy]; !now.Before(until.Add(guard)) {
			delete(m.owner, m.number[n])
			delete(m.number, n)
			delete(m.until, n)
		}
	}
	if isChannelData(raw) {
		n, _, _ := parseChannelData(raw)
		peer, ok := m.number[n]
		if !ok || !now.Before(m.until[n]) {
			m.mistakes = append(m.mistakes, "ChannelData on a channel that is not bound")
			return nil
		}
		if m.legacy {
			m.until[n], m.perms[peer.Addr()] = now.Add(channelLife), now.Add(permissionLife)
		}
		m.relay(now, peer)
		return nil
	}
	req, err := stun.Parse(raw)
	if err != nil {
		m.mistakes = append(m.mistakes, err.Error())
		return nil
	}
	peer, _ := req.GetXORAddress(stun.AttrXORPeerAddress)
	switch req.Method() {
	case stun.Allocate:
		m.expires = now.Add(defaultLifetime)
		return [][]byte{answer(req, stun.Success, allocation(600))}
	case stun.Refresh:
		if !now.Before(m.expires) {
			return [][]byte{answer(req, stun.Error, code(437))}
		}
		m.expires = now.Add(defaultLifetime)
		return [][]byte{answer(req, stun.Success, func(b *stun.Builder) { b.Uint32(stun.AttrLifetime, 600) })}
	case stun.CreatePermission:
		if m.legacy {
			return nil // an unknown method is silently discarded
		}
		m.perms[peer.Addr()] = now.Add(permissionLife)
		return [][]byte{answer(req, stun.Success, nothing)}
	case stun.ChannelBind:
		v, _ := req.Uint32(stun.AttrChannelNumber)
		n := uint16(v >> 16)
		if p, ok := m.number[n]; ok && p != peer {
			m.mistakes = append(m.mistakes, "a number is bound to another peer")
			return [][]byte{answer(req, stun.Error, code(400))}
		}
		if o, ok := m.owner[peer]; ok && o != n {
			m.mistakes = append(m.mistakes, "a peer has another number")
			return [][]byte{answer(req, stun.Error, code(400))}
		}
		m.number[n], m.owner[peer], m.until[n] = peer, n, now.Add(channelLife)
		m.perms[peer.Addr()] = now.Add(permissionLife)
		return [][]byte{answer(req, stun.Success, nothing)}
	case stun.Send:
		if m.legacy {
			m.perms[peer.Addr()] = now.Add(permissionLife)
		}
		if req.Has(stun.AttrData) {
			m.relay(now, peer)
		}
	}
	return nil
}

func (m *model) relay(now time.Time, peer netip.AddrPort) {
	if now.Before(m.perms[peer.Addr()]) {
		m.relayed[peer]++
	} else {
		m.dropped[peer]++
	}
}

// fromPeer is what a peer's datagram becomes, nil if it may not pass.
func (m *model) fromPeer(now time.Time, peer netip.AddrPort) []byte {
	if !now.Before(m.perms[peer.Addr()]) {
		return nil
	}
	if n, ok := m.owner[peer]; ok && now.Before(m.until[n]) {
		return appendChannelData(nil, n, []byte("x"), false)
	}
	return dataFrom(peer, []byte("x"))
}

// TestNoTrafficPatternBreaksAStrictServersRules drives the core against the model for hours of virtual time: whatever the
// caller does and the network loses, no channel rule is broken and the allocation lives; without loss, every datagram of the
// caller and of a peer that was written to passes.
func TestNoTrafficPatternBreaksAStrictServersRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dialect := rapid.SampledFrom([]Dialect{Legacy, Modern, Auto}).Draw(t, "dialect")
		m := &model{perms: map[netip.Addr]time.Time{}, number: map[uint16]netip.AddrPort{}, owner: map[netip.AddrPort]uint16{},
			until: map[uint16]time.Time{}, relayed: map[netip.AddrPort]int{}, dropped: map[netip.AddrPort]int{}}
		m.legacy = dialect == Legacy || dialect == Auto && rapid.Bool().Draw(t, "legacy server")
		loss := rapid.SampledFrom([]int{0, 0, 10, 30}).Draw(t, "loss percent")
		chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		c, err := newCore(params{dialect: dialect, channelAfter: rapid.IntRange(-1, 3).Draw(t, "channelAfter"), keepalive: 25 * time.Second},
			rand.NewChaCha8([32]byte{}))
		if err != nil {
			t.Fatal(err)
		}
		now, lost := epoch, func() bool { return chance.IntN(100) < loss }
		exchange := func() {
			for len(c.out) > 0 {
				out, _ := c.takeOut()
				for _, raw := range out {
					if lost() {
						continue
					}
					for _, reply := range m.receive(now, raw) {
						if !lost() {
							c.handle(now, reply)
						}
					}
				}
			}
		}
		sleep := func(d time.Duration) {
			end := now.Add(d)
			for !c.wake.IsZero() && !c.wake.After(end) {
				now = c.wake
				c.tick(now)
				exchange()
			}
			now = end
		}
		c.start(now, now)
		exchange()
		for c.phase == allocating {
			sleep(time.Second)
		}
		if c.phase != allocated {
			return // every Allocate was lost
		}
		var peers []netip.AddrPort
		for i := range byte(4) {
			peers = append(peers, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, i / 2}), 5000+uint16(i)))
		}
		known, wrote := map[netip.Addr]bool{}, map[netip.AddrPort]int{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			peer := rapid.SampledFrom(peers).Draw(t, "peer")
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				for range rapid.IntRange(1, 5).Draw(t, "datagrams") {
					if c.phase != allocated {
						break
					}
					msg, err := c.write(now, nil, peer, []byte("x"))
					exchange()
					if err != nil {
						continue
					}
					wrote[peer]++
					known[peer.Addr()] = true
					if len(msg) > 0 && !lost() {
						m.receive(now, msg)
					}
				}
			case 1:
				if msg := m.fromPeer(now, peer); msg != nil && !lost() {
					if from, _, ok := c.handle(now, msg); !ok || from != peer {
						t.Fatalf("a datagram of %v arrives as from %v, %v", peer, from, ok)
					}
				} else if loss == 0 && known[peer.Addr()] && c.dialect != Auto {
					t.Fatalf("the permission of %v has lapsed at %v", peer, now.Sub(epoch))
				}
			case 2:
				sleep(time.Duration(rapid.IntRange(1, 1200).Draw(t, "seconds")) * time.Second)
			}
			checkCore(t, c)
			if len(m.mistakes) > 0 {
				t.Fatalf("at %v: %v", now.Sub(epoch), m.mistakes)
			}
			if loss == 0 && c.phase != allocated {
				t.Fatalf("the allocation is lost at %v", now.Sub(epoch))
			}
		}
		for peer, n := range wrote {
			if loss == 0 && m.relayed[peer] != n {
				t.Fatalf("%d datagrams reach %v, want %d; %d found no permission", m.relayed[peer], peer, n, m.dropped[peer])
			}
		}
	})
}

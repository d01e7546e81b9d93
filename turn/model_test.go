package turn

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stilenet/stile/stun"
)

// model is what a server should do, in lists and without a thought for speed. It knows no bytes: its answers are the words that
// world.say makes of the core's outputs.
type model struct {
	now     time.Time
	limits  Limits
	allocs  []*modelAlloc // in the order of their making
	resting []modelRest
	tombs   map[netip.AddrPort]modelTomb
	silent  map[netip.Addr]*modelSilent
}

type modelAlloc struct {
	client, relayed netip.AddrPort
	tx              stun.TransactionID
	expires         time.Time
	confirmed       bool
	dialect         Dialect
	perms           []*modelPerm
	chans           []*modelChan
}

type modelPerm struct {
	peer     netip.Addr
	expires  time.Time
	answered bool
	since    time.Time
	sent     int
}

type modelChan struct {
	number  uint16
	peer    netip.AddrPort
	expires time.Time
}

type modelRest struct {
	client, relayed netip.AddrPort
	until           time.Time
}

type modelTomb struct {
	allocate, release stun.TransactionID
	relayed           netip.AddrPort
	until             time.Time
}

type modelSilent struct {
	until time.Time
	sent  int
}

func (m *model) before(t time.Time) bool { return m.now.Before(t) }

func (m *model) end(a *modelAlloc) {
	m.allocs = slices.DeleteFunc(m.allocs, func(b *modelAlloc) bool { return a == b })
	if a.confirmed {
		m.resting = append(m.resting, modelRest{a.client, a.relayed, m.now.Add(portQuarantine)})
	}
}

// at finds the client's allocation, and ends it if its time is over.
func (m *model) at(client netip.AddrPort) *modelAlloc {
	for _, a := range m.allocs {
		if a.client == client {
			if !m.before(a.expires) {
				m.end(a)
				return nil
			}
			return a
		}
	}
	return nil
}

func (m *model) mayHaveMore(client netip.Addr) bool {
	m.resting = slices.DeleteFunc(m.resting, func(r modelRest) bool { return !m.before(r.until) })
	n := 0
	for _, a := range m.allocs {
		if a.confirmed && a.client.Addr() == client {
			n++
		}
	}
	for _, r := range m.resting {
		if r.client.Addr() == client {
			n++
		}
	}
	return n < m.limits.PerClient
}

func (m *model) confirm(a *modelAlloc) bool {
	if a.confirmed {
		return true
	}
	if !m.mayHaveMore(a.client.Addr()) {
		m.end(a)
		return false
	}
	a.confirmed = true
	return true
}

func (a *modelAlloc) perm(peer netip.Addr) *modelPerm {
	for _, p := range a.perms {
		if p.peer == peer {
			return p
		}
	}
	return nil
}

func (a *modelAlloc) channel(number uint16, peer netip.AddrPort) (byNumber, byPeer *modelChan) {
	for _, c := range a.chans {
		if c.number == number {
			byNumber = c
		}
		if c.peer == peer {
			byPeer = c
		}
	}
	return byNumber, byPeer
}

func (m *model) over(a *modelAlloc, c *modelChan) bool {
	guard := time.Duration(0)
	if a.dialect == DialectModern {
		guard = 5 * time.Minute
	}
	return !m.before(c.expires.Add(guard))
}

func (m *model) reap(a *modelAlloc) {
	a.chans = slices.DeleteFunc(a.chans, func(c *modelChan) bool { return m.over(a, c) })
	a.perms = slices.DeleteFunc(a.perms, func(p *modelPerm) bool {
		return !m.before(p.expires) && !slices.ContainsFunc(a.chans, func(c *modelChan) bool { return c.peer.Addr() == p.peer })
	})
}

// permit opens or refreshes permissions, all or none.
func (m *model) permit(a *modelAlloc, peers ...netip.Addr) bool {
	fresh := func() (n int) {
		for i, p := range peers {
			if a.perm(p) == nil && !slices.Contains(peers[:i], p) {
				n++
			}
		}
		return n
	}
	if len(a.perms)+fresh() > m.limits.Permissions {
		if fresh() > 0 {
			m.reap(a)
		}
		if fresh() > 0 && len(a.perms)+fresh() > m.limits.Permissions {
			return false
		}
	}
	for _, peer := range peers {
		p := a.perm(peer)
		if p == nil {
			p = &modelPerm{peer: peer, since: m.now}
			a.perms = append(a.perms, p)
		} else if !m.before(p.expires) {
			p.answered = false
		}
		p.expires = m.now.Add(5 * time.Minute)
	}
	return true
}

// relay says where a client's payload goes.
func (m *model) relay(a *modelAlloc, peer netip.AddrPort) string {
	p := a.perm(peer.Addr())
	if peer.Addr() == a.relayed.Addr() {
		for _, b := range m.allocs {
			if b.relayed == peer {
				return m.hear(b, a.relayed)
			}
		}
		return "to " + peer.String() // another program of this host, in a laboratory
	}
	if !p.answered {
		if !m.before(p.since.Add(10 * time.Minute)) {
			p.since, p.sent = m.now, 0
		}
		if p.sent >= m.limits.UnansweredPackets {
			return ""
		}
		s := m.silent[peer.Addr()]
		if s == nil || !m.before(s.until) {
			s = &modelSilent{until: m.now.Add(10 * time.Minute)}
			m.silent[peer.Addr()] = s
		}
		if s.sent >= m.limits.UnansweredPackets*m.limits.UnansweredAllClients {
			return ""
		}
		s.sent++
		p.sent++
	}
	return "to " + peer.String()
}

// hear says how a datagram from the peer reaches the allocation's client.
func (m *model) hear(a *modelAlloc, from netip.AddrPort) string {
	p := a.perm(from.Addr())
	if !m.before(a.expires) || p == nil || !m.before(p.expires) {
		return ""
	}
	if !p.answered {
		p.answered = true
		if s := m.silent[from.Addr()]; s != nil {
			s.sent = 0
		}
	}
	if _, c := a.channel(0, from); c != nil && m.before(c.expires) {
		return fmt.Sprintf("%v hears channel %#x", a.client, c.number)
	}
	return fmt.Sprintf("%v hears %v", a.client, from)
}

func (m *model) allocate(client netip.AddrPort, tx stun.TransactionID, d Dialect, asked uint32, got netip.AddrPort) string {
	success := func(a *modelAlloc) string {
		return fmt.Sprintf("success %v %d", a.relayed, (a.expires.Sub(m.now)+time.Second-1)/time.Second)
	}
	a := m.at(client)
	if t, ok := m.tombs[client]; ok && m.before(t.until) && t.allocate == tx {
		return fmt.Sprintf("success %v", t.relayed)
	}
	switch {
	case a != nil && a.tx == tx:
		return success(a)
	case a != nil:
		return "error 437"
	case !m.mayHaveMore(client.Addr()):
		return "error 486"
	}
	var pool []*modelAlloc
	for _, b := range m.allocs {
		if !b.confirmed {
			pool = append(pool, b)
		}
	}
	relayed := got
	if len(pool) >= m.limits.Unconfirmed {
		relayed = pool[0].relayed
		m.end(pool[0])
	}
	for _, b := range m.allocs {
		if b.relayed == relayed {
			return "a port of its own"
		}
	}
	for _, r := range m.resting {
		if r.relayed == relayed && m.before(r.until) {
			return "a port that does not rest"
		}
	}
	life := min(max(time.Duration(asked)*time.Second, 10*time.Minute), time.Hour)
	a = &modelAlloc{client: client, relayed: relayed, tx: tx, dialect: d, expires: m.now.Add(life)}
	m.allocs = append(m.allocs, a)
	return success(a)
}

func (m *model) refresh(client netip.AddrPort, tx stun.TransactionID, asked uint32) string {
	a := m.at(client)
	if t, ok := m.tombs[client]; ok && m.before(t.until) && t.release == tx {
		return "success 0"
	}
	switch {
	case a == nil:
		return "error 437"
	case asked == 0:
		if a.confirmed {
			m.tombs[client] = modelTomb{a.tx, tx, a.relayed, m.now.Add(40 * time.Second)}
		}
		m.end(a)
		return "success 0"
	case !m.confirm(a):
		return "error 486"
	}
	life := min(max(time.Duration(asked)*time.Second, 10*time.Minute), time.Hour)
	a.expires = m.now.Add(life)
	return fmt.Sprintf("success %d", life/time.Second)
}

func (m *model) send(client, peer netip.AddrPort, data bool) string {
	a := m.at(client)
	if a == nil || a.dialect == DialectModern && !data {
		return ""
	}
	p := a.perm(peer.Addr())
	live := p != nil && m.before(p.expires)
	if a.dialect == DialectModern {
		if !live {
			return ""
		}
		return m.relay(a, peer)
	}
	if !live || !data {
		a.dialect = DialectLegacy
	}
	if !m.confirm(a) || !m.permit(a, peer.Addr()) || !data {
		return ""
	}
	return m.relay(a, peer)
}

func (m *model) createPermission(client netip.AddrPort, peers []netip.AddrPort) string {
	a := m.at(client)
	if a == nil {
		return "error 437"
	}
	if a.dialect == DialectUnknown {
		a.dialect = DialectModern
	}
	var list []netip.Addr
	for _, p := range peers {
		list = append(list, p.Addr())
	}
	switch {
	case !m.confirm(a):
		return "error 486"
	case !m.permit(a, list...):
		return "error 508"
	}
	return "success"
}

func (m *model) bind(client netip.AddrPort, number uint16, peer netip.AddrPort) string {
	a := m.at(client)
	if a == nil {
		return "error 437"
	}
	if number > 0x7FFF {
		if a.dialect == DialectModern {
			return "error 400"
		}
		a.dialect = DialectLegacy
	}
	n, p := a.channel(number, peer)
	a.chans = slices.DeleteFunc(a.chans, func(c *modelChan) bool { return (c == n || c == p) && m.over(a, c) })
	if n, p = a.channel(number, peer); n != p {
		return "error 400"
	}
	if !m.confirm(a) {
		return "error 486"
	}
	if n == nil && len(a.chans) >= m.limits.Channels {
		if m.reap(a); len(a.chans) >= m.limits.Channels {
			return "error 508"
		}
	}
	if !m.permit(a, peer.Addr()) {
		return "error 508"
	}
	if n == nil {
		n = &modelChan{number: number, peer: peer}
		a.chans = append(a.chans, n)
	}
	n.expires = m.now.Add(10 * time.Minute)
	return "success"
}

func (m *model) channelData(client netip.AddrPort, number uint16) string {
	a := m.at(client)
	if a == nil {
		return ""
	}
	c, _ := a.channel(number, netip.AddrPort{})
	if c == nil || !m.before(c.expires) {
		return ""
	}
	if a.dialect != DialectModern {
		c.expires = m.now.Add(10 * time.Minute)
		m.permit(a, c.peer.Addr())
	}
	return m.relay(a, c.peer)
}

func (m *model) tick() {
	for _, a := range slices.Clone(m.allocs) {
		if !m.before(a.expires) {
			m.end(a)
			continue
		}
		m.reap(a)
	}
}

// deadlines are the times at which something changes.
func (m *model) deadlines() (all []time.Time) {
	for _, a := range m.allocs {
		all = append(all, a.expires)
		for _, p := range a.perms {
			all = append(all, p.expires, p.since.Add(10*time.Minute))
		}
		for _, c := range a.chans {
			all = append(all, c.expires, c.expires.Add(5*time.Minute))
		}
	}
	for _, r := range m.resting {
		all = append(all, r.until)
	}
	for _, t := range m.tombs {
		all = append(all, t.until)
	}
	for _, s := range m.silent {
		all = append(all, s.until)
	}
	slices.SortFunc(all, time.Time.Compare)
	return slices.DeleteFunc(all, func(t time.Time) bool { return t.Before(m.now) })
}

// world is a server beside its model.
type world struct {
	*server
	model   *model
	clients []*client
	last    map[*client]map[stun.Method][]byte // for retransmissions
}

// say puts outputs into the model's words.
func say(out []Output) string {
	if len(out) != 1 {
		return map[bool]string{true: "", false: "several"}[len(out) == 0]
	}
	o := out[0]
	if o.Kind == ToPeer {
		return "to " + o.Peer.String()
	}
	if n, _, ok := ChannelData(o.Data); ok {
		return fmt.Sprintf("%v hears channel %#x", o.Source.Client, n)
	}
	m, err := stun.Parse(o.Data)
	if err != nil {
		return err.Error()
	}
	if m.Method() == stun.Data {
		from, _ := m.GetXORAddress(stun.AttrXORPeerAddress)
		return fmt.Sprintf("%v hears %v", o.Source.Client, from)
	}
	if code, _, ok := m.ErrorCode(); ok {
		return fmt.Sprintf("error %d", code)
	}
	s := "success"
	if a, ok := m.GetXORAddress(stun.AttrXORRelayedAddress); ok {
		s += " " + a.String()
	}
	if v, ok := m.Uint32(stun.AttrLifetime); ok {
		s += fmt.Sprintf(" %d", v)
	}
	return s
}

func (w *world) step(t *rapid.T, d time.Duration) {
	w.after(d)
	w.model.now = w.now
	if rapid.Bool().Draw(t, "tick") {
		w.tick()
		w.model.tick()
	}
}

// pick draws an element by its index, which reads better in a failure than the element.
func pick[T any](t *rapid.T, what string, list []T) T {
	return list[rapid.IntRange(0, len(list)-1).Draw(t, what)]
}

func newWorld(t testing.TB) *world {
	limits := Limits{PerClient: 2, Unconfirmed: 2, Permissions: 3, Channels: 2, UnansweredPackets: 3, UnansweredAllClients: 2}
	s := newServer(t, setup{ports: PortRange{50000, 50399}, limits: func(l *Limits) { *l = limits }})
	w := &world{
		server: s, last: make(map[*client]map[stun.Method][]byte),
		model: &model{now: s.now, limits: limits, tombs: make(map[netip.AddrPort]modelTomb), silent: make(map[netip.Addr]*modelSilent)},
	}
	for _, a := range []string{"198.51.100.1:7000", "198.51.100.1:7001", "198.51.100.1:7002", "198.51.100.2:7000", "198.51.100.2:7001"} {
		c := s.client(a)
		w.clients, w.last[c] = append(w.clients, c), make(map[stun.Method][]byte)
	}
	return w
}

func TestTheCoreDoesWhatTheModelDoes(t *testing.T) {
	counts := make(map[string]int)
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		m := w.model
		who := func() *client { // mostly one that has an allocation
			if len(m.allocs) > 0 && rapid.IntRange(0, 5).Draw(rt, "any") > 0 {
				a := pick(rt, "whose", m.allocs).client
				return w.clients[slices.IndexFunc(w.clients, func(c *client) bool { return c.src.Client == a })]
			}
			return pick(rt, "client", w.clients)
		}
		peer := func() netip.AddrPort {
			list := []netip.AddrPort{endpointOf("203.0.113.1:5000"), endpointOf("203.0.113.1:5001"), endpointOf("203.0.113.2:5000"),
				endpointOf("203.0.113.3:5000"), endpointOf("203.0.113.4:5000")}
			for _, a := range m.allocs {
				list = append(list, a.relayed)
			}
			return pick(rt, "peer", list)
		}
		number := func() uint16 { return rapid.SampledFrom([]uint16{0x4000, 0x4001, 0x4002, 0x9000}).Draw(rt, "number") }
		life := func(list ...uint32) uint32 { return rapid.SampledFrom(list).Draw(rt, "lifetime") }
		compare := func(what, got, want string) {
			counts[what+": "+kind(want)]++
			if got != want {
				rt.Fatalf("%s at %v:\n got %q\nwant %q", what, w.now.Sub(testEpoch), got, want)
			}
		}
		again := func(c *client, method stun.Method, fresh []byte) []byte {
			if old := w.last[c][method]; old != nil && rapid.IntRange(0, 3).Draw(rt, "again") == 0 {
				return old
			}
			w.last[c][method] = fresh
			return fresh
		}
		commands := map[string]func(*rapid.T){
			"Allocate": func(rt *rapid.T) {
				c, d := pick(rt, "client", w.clients), rapid.SampledFrom([]Dialect{DialectUnknown, DialectUnknown, DialectLegacy, DialectModern}).Draw(rt, "dialect")
				asked := life(600, 1000)
				attrs := []attr{udp, lifetimeOf(asked)}
				switch d {
				case DialectLegacy:
					attrs = append(attrs, props(0))
				case DialectModern:
					attrs = append(attrs, familyOf(1))
				}
				b := again(c, stun.Allocate, c.message(stun.Allocate, stun.Request, attrs...))
				v, _ := stun.Parse(b)
				asked, _ = v.Uint32(stun.AttrLifetime)
				switch { // of the message that is sent, if it is an old one
				case v.Has(stun.AttrEvenPort):
					d = DialectLegacy
				case v.Has(stun.AttrRequestedFamily):
					d = DialectModern
				default:
					d = DialectUnknown
				}
				got := say(c.give(b))
				var relayed netip.AddrPort
				var given string
				if n, _ := fmt.Sscanf(got, "success %s", &given); n == 1 {
					relayed = endpointOf(given)
				}
				want := m.allocate(c.src.Client, v.TransactionID(), d, asked, relayed)
				if tomb := fmt.Sprintf("success %v", m.tombs[c.src.Client].relayed); want == tomb {
					got = got[:len(want)] // the lifetime of a dead allocation is what it was
				}
				compare("Allocate", got, want)
			},
			"Refresh": func(rt *rapid.T) {
				c := who()
				b := again(c, stun.Refresh, c.message(stun.Refresh, stun.Request, lifetimeOf(life(0, 600, 900))))
				v, _ := stun.Parse(b)
				asked, _ := v.Uint32(stun.AttrLifetime)
				compare("Refresh", say(c.give(b)), m.refresh(c.src.Client, v.TransactionID(), asked))
			},
			"Send": func(rt *rapid.T) {
				c, p := who(), peer()
				compare("Send", say(c.sendTo(p.String(), "x")), m.send(c.src.Client, p, true))
			},
			"Send without data": func(rt *rapid.T) {
				c, p := who(), peer()
				compare("Send without data", say(c.give(c.message(stun.Send, stun.Indication, peerOf(p.String())))), m.send(c.src.Client, p, false))
			},
			"CreatePermission": func(rt *rapid.T) {
				c, attrs, peers := who(), []attr(nil), []netip.AddrPort(nil)
				for range rapid.IntRange(1, 3).Draw(rt, "peers") {
					p := peer()
					attrs, peers = append(attrs, peerOf(p.String())), append(peers, p)
				}
				got := say(c.give(c.message(stun.CreatePermission, stun.Request, attrs...)))
				compare("CreatePermission", got, m.createPermission(c.src.Client, peers))
			},
			"ChannelBind": func(rt *rapid.T) {
				c, n, p := who(), number(), peer()
				got := say(c.give(c.message(stun.ChannelBind, stun.Request, channelOf(n), peerOf(p.String()))))
				compare("ChannelBind", got, m.bind(c.src.Client, n, p))
			},
			"ChannelData": func(rt *rapid.T) {
				c, n := who(), number()
				compare("ChannelData", say(c.channel(n, "x")), m.channelData(c.src.Client, n))
			},
			"a peer": func(rt *rapid.T) {
				p := peer()
				if len(m.allocs) == 0 || p.Addr() == ipOf("192.0.2.15") {
					return
				}
				a := pick(rt, "allocation", m.allocs)
				if len(a.chans) > 0 && rapid.Bool().Draw(rt, "bound") {
					p = a.chans[0].peer
				}
				if p.Addr() == a.relayed.Addr() {
					return
				}
				compare("peer", say(w.peer(a.relayed, p.String(), []byte("x"))), m.hear(a, p))
			},
			"time": func(rt *rapid.T) {
				if all := m.deadlines(); len(all) > 0 && rapid.IntRange(0, 1).Draw(rt, "deadline") > 0 {
					d := pick(rt, "which", all[:min(3, len(all))]).Sub(m.now)
					if rapid.Bool().Draw(rt, "before") && d > 0 {
						d--
					}
					w.step(rt, d)
					return
				}
				w.step(rt, rapid.SampledFrom([]time.Duration{1, time.Second, 20 * time.Second, time.Minute}).Draw(rt, "step"))
			},
		}
		names := []string{"Allocate", "Allocate", "Refresh", "Send", "Send", "Send without data", "CreatePermission", "ChannelBind", "ChannelBind",
			"ChannelData", "ChannelData", "a peer", "a peer", "time"}
		for range rapid.IntRange(1, 80).Draw(rt, "commands") {
			commands[rapid.SampledFrom(names).Draw(rt, "command")](rt)
		}
	})
	t.Logf("%v", counts)
	for _, word := range []string{"hears data", "hears a channel", "to", "error 486", "error 508", "error 400", "error 437"} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(counts)), func(k string) bool { return strings.HasSuffix(k, ": "+word) }) {
			t.Errorf("no run came to %q: the commands are too tame", word)
		}
	}
}

// kind is what the counts of the answers are kept under.
func kind(s string) string {
	words := strings.Fields(s)
	switch {
	case len(words) > 2 && words[1] == "hears" && words[2] == "channel":
		return "hears a channel"
	case len(words) > 2 && words[1] == "hears":
		return "hears data"
	case len(words) > 1 && words[0] == "error":
		return s
	case len(words) > 0:
		return words[0]
	}
	return "nothing"
}

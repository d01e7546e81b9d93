package rendezvous

import (
	"net/netip"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

// Introduction says what became of an IHello for somebody else. Each is counted once.
type Introduction uint8

// The outcomes.
const (
	IntroductionUnknown      Introduction = iota
	IntroductionMade                      // a Redirect to the initiator and an FIHello to the peer
	IntroductionRedirectOnly              // a Redirect alone: the peer has had as many FIHellos as it may
	IntroductionForwardOnly               // an FIHello alone: no address fits into three times the IHello
	IntroductionNoPeer                    // nobody with this ID is connected
	IntroductionNoID                      // the IHello asks for something else than a peer ID
	IntroductionRepeated                  // a copy of an IHello that was just answered
	IntroductionSourceRate                // over the budget of the source's prefix
	IntroductionKeyRate                   // over the quota of the peer's key
	IntroductionSilent                    // the peer has not answered for some seconds
	IntroductionOverflow                  // too many messages to other shards
	introductionCount

	introductionPosted = introductionCount // given to the shard of the peer, which counts the outcome
)

func (i Introduction) String() string {
	return [...]string{"unknown", "made", "redirect_only", "forward_only", "no_peer", "no_id", "repeated", "source_rate", "key_rate", "silent",
		"overflow"}[i]
}

// Post is a message from one shard to another, for Core.Deliver.
type Post struct {
	Shard int // whom it is for

	kind  postKind
	from  int // the shard that sent it
	id    PeerID
	at    place // of the session that it is about, at the shard that it is for
	claim place // of the session that claims the ID
	hello *rtmfp.Hello
	more  []netip.AddrPort // addresses that the initiator has reported
	probe probeReply
}

type postKind uint8

const (
	postIntroduce postKind = iota + 1 // hello is for the peer
	postClaim                         // another session claims the peer's ID
	postKept                          // the holder of the ID lives
	postVacated                       // the holder of the ID has gone
	postProbe                         // a probe was answered
)

// post gives a message to another shard, or to this one.
func (c *Core) post(p Post) bool {
	p.from = c.cfg.Shard
	if p.Shard == c.cfg.Shard {
		c.deliver(p)
		return true
	}
	if len(c.posts) >= maxPosts {
		return false
	}
	c.posts = append(c.posts, p)
	return true
}

// Deliver takes a message of another shard.
func (c *Core) Deliver(now time.Time, p Post) {
	c.clock(now)
	c.deliver(p)
}

func (c *Core) deliver(p Post) {
	switch p.kind {
	case postIntroduce:
		c.stats.Introductions[c.introduce(&p)]++
	case postClaim:
		c.challenged(&p)
	case postKept, postVacated:
		c.claimed(&p)
	case postProbe:
		c.probeAnswered(p.probe)
	}
}

// hello decides about an IHello that asks for somebody else (RFC 7016 §3.5.1.4, §3.5.1.5). The shard that has the peer answers:
// every shard sends from the same addresses.
func (c *Core) hello(h *rtmfp.Hello) Introduction {
	epd, err := flash.ParseEPD(h.EPD)
	if err != nil || epd.Fingerprint == nil {
		return IntroductionNoID
	}
	id := *epd.Fingerprint
	at, ok := c.reg.find(id)
	if !ok {
		return IntroductionNoPeer
	}
	if c.repeated(h) {
		return IntroductionRepeated
	}
	if !c.reg.intros.of(h.From.Addr()).take(c.t, 1, c.reg.Rules().rates.introductions) {
		return IntroductionSourceRate
	}
	p := Post{Shard: int(at.shard), kind: postIntroduce, id: id, at: at, hello: h}
	if s := c.e.SessionByAddress(h.From); s != nil {
		if cl := c.client(s); cl != nil {
			cl.asked++
			p.more = cl.reportedAddresses()
		}
	}
	if p.Shard == c.cfg.Shard {
		return c.introduce(&p)
	}
	if !c.post(p) {
		return IntroductionOverflow
	}
	return introductionPosted
}

// introduce answers an IHello for a peer of this shard: a Redirect to the initiator, then an FIHello over the peer's live session.
func (c *Core) introduce(p *Post) Introduction {
	cl := c.clients[p.at.token]
	if cl == nil || cl.state != stateConnected {
		return IntroductionNoPeer // it has gone since it was looked up
	}
	if since, owes := cl.session.Unanswered(); owes && c.now.Sub(since) >= silenceLimit {
		return IntroductionSilent
	}
	if k := cl.key; k != nil && c.reg.Keys.Required() && !k.introductions.take(c.t, 1, k.introductionRate) {
		return IntroductionKeyRate
	}
	rules := c.reg.Rules()
	// The Redirect goes where the IHello came from; the peer is told the address that others know.
	redirected := c.redirect(cl, p.hello)
	h := *p.hello
	h.From = rules.publicForm(h.From)
	if !cl.forwards.take(c.t, 1, rules.rates.perPeer) {
		if redirected == 0 {
			return IntroductionSourceRate
		}
		return IntroductionRedirectOnly
	}
	// An error means that too much waits for this peer already: its next packet takes what there is.
	_ = cl.session.Forward(c.now, &h)
	if c.now.Sub(cl.session.LastReceived()) > freshness {
		cl.session.Ping(c.now) // who has died is known after the first introduction
	}
	cl.introduced++
	// Behind one NAT, which need not hairpin, they meet by their own addresses. The Redirect has the peer's; these open the
	// peer's firewall to the initiator.
	if observed := c.observed(cl); observed.Addr() == h.From.Addr() {
		for _, a := range p.more[:min(len(p.more), maxAlternatives)] {
			other := h
			other.From = a
			_ = cl.session.Forward(c.now, &other)
		}
	}
	if redirected == 0 {
		return IntroductionForwardOnly
	}
	return IntroductionMade
}

// redirect tells the initiator the peer's addresses: the observed one, then what it has reported, as many as fit.
func (c *Core) redirect(cl *client, h *rtmfp.Hello) int {
	observed := c.observed(cl)
	list := append(c.scratch[:0], rtmfp.Address{Origin: rtmfp.OriginObserved, AddrPort: observed})
	for _, a := range cl.reportedAddresses() {
		if a != observed {
			list = append(list, rtmfp.Address{Origin: rtmfp.OriginReported, AddrPort: a})
		}
	}
	c.scratch = list
	return c.e.Redirect(c.now, h, list)
}

// observed is the address of a client as others know it.
func (c *Core) observed(cl *client) netip.AddrPort {
	_, a := cl.session.FarAddress()
	return c.reg.Rules().publicForm(a)
}

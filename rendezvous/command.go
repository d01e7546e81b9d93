package rendezvous

import (
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

// message takes a message of a client's flow (RFC 7425 §5.1, §5.3).
func (c *Core) message(cl *client, f *rtmfp.ReceiveFlow, data []byte) {
	m, err := flash.ParseMessage(data)
	switch {
	case cl.state >= stateGoodbye:
		return
	case err != nil, len(data) > maxMessage:
		c.stats.Malformed++
		return
	case m.Type != flash.MessageCommandAMF0 && m.Type != flash.MessageCommandAMF3:
		c.stats.Ignored++
		return
	}
	if !cl.commands.take(c.t, 1, perSecond(maxCommands, 2)) {
		c.stats.CommandRate++
		return
	}
	cmd, err := flash.ParseCommand(m)
	if err != nil {
		c.stats.Malformed++
		return
	}
	switch cmd.Name {
	case flash.CommandConnect:
		c.connect(cl, cmd)
	case flash.CommandSetPeerInfo:
		c.setPeerInfo(cl, cmd)
	case flash.CommandClose:
		c.goodbye(cl)
	case flash.CommandCreateStream:
		c.createStream(cl, cmd)
	default:
		c.stats.Ignored++
		if cmd.Transaction != 0 && cl.state == stateConnected {
			c.command(cl, cl.encoding, flash.CommandFailed(cmd.Transaction, flash.Status{
				Code: flash.NetConnectionCallFailed, Level: "error", Description: "This service introduces peers; it has no methods and no streams.",
			}))
		}
	}
}

// createStream gives a stream an ID. Nothing can be played or published here: the stream's flows are rejected, which closes the
// stream alone. A refusal here would have some clients close the whole connection.
func (c *Core) createStream(cl *client, cmd flash.Command) {
	if cl.state != stateConnected {
		c.stats.Malformed++
		return
	}
	cl.streams++
	if cmd.Transaction != 0 {
		c.command(cl, cl.encoding, flash.Command{Name: flash.CommandResult, Transaction: cmd.Transaction, Arguments: []any{float64(cl.streams)}})
	}
}

// checkPath is the reserved path of the connectivity check.
const checkPath = "cc"

// connect is the connect command (RFC 7425 §5.3.1, §5.3.2).
func (c *Core) connect(cl *client, cmd flash.Command) {
	info, ok := flash.ParseConnect(cmd)
	if !ok || cl.state != stateOpened {
		c.stats.Malformed++ // a second one, or one without its object
		return
	}
	cl.encoding = info.ObjectEncoding
	path := keyOf(info.App)
	switch {
	case c.draining:
		c.refuse(RefusedDraining, c.observed(cl), cl)
		c.failed(cl, cmd.Transaction, flash.NetConnectionConnectRejected, "The service is about to end.")
		return
	case path == checkPath:
		cl.check = new(check)
		c.connected(cl, cmd.Transaction)
		return
	}
	key, refusal := c.reg.Keys.enter(c.now, path)
	if refusal != KeyWelcome {
		c.stats.Keys[refusal]++
		c.refuse(refusalOf(refusal), c.observed(cl), cl)
		c.failed(cl, cmd.Transaction, flash.NetConnectionConnectFailed, refusal.description())
		return
	}
	cl.key = key
	c.claim(cl, cmd.Transaction)
}

// claim registers a client under its peer ID. If another session has it, that one is asked whether it lives: its client may
// have restarted, or somebody else may have copied its certificate, which proves nothing if its keys are ephemeral.
func (c *Core) claim(cl *client, transaction float64) {
	id, at := cl.id(), c.place(cl)
	holder, ok := c.reg.claim(id, at)
	if ok {
		cl.registered = true
		c.connected(cl, transaction)
		return
	}
	if cl.state == stateOpened {
		cl.state, cl.pending = stateClaiming, transaction
		c.due.add(deadline{at: c.t + 2*int64(claimWait), client: cl, state: stateClaiming})
	}
	if !c.post(Post{Shard: int(holder.shard), kind: postClaim, id: id, at: holder, claim: at}) {
		c.claimTimeout(cl)
	}
}

// challenged asks the holder of a peer ID whether it lives, because another session claims it.
func (c *Core) challenged(p *Post) {
	cl := c.clients[p.at.token]
	if cl == nil || !cl.registered {
		c.reg.vacate(p.id, p.at) // the place is stale
		c.post(Post{Shard: p.from, kind: postVacated, id: p.id, at: p.claim})
		return
	}
	cl.session.Ping(c.now)
	c.challenges = append(c.challenges, challenge{at: c.t + int64(claimWait), since: c.now, post: *p})
}

// challenge is a claim that waits for the holder's answer. All wait equally long, so they are in order.
type challenge struct {
	at    int64
	since time.Time
	post  Post
}

// settle decides the claims whose holders have had their time.
func (c *Core) settle() {
	for len(c.challenges) > 0 && c.challenges[0].at <= c.t {
		x := c.challenges[0]
		c.challenges = c.challenges[1:]
		verdict := Post{Shard: x.post.from, kind: postKept, id: x.post.id, at: x.post.claim}
		cl := c.clients[x.post.at.token]
		if cl == nil || !cl.registered || !cl.session.LastReceived().After(x.since) {
			verdict.kind = postVacated
			if cl != nil && cl.registered {
				c.stats.Replaced++
				c.unregister(cl)
				cl.session.Abort(c.now)
			}
		}
		c.post(verdict)
	}
	if len(c.challenges) == 0 {
		c.challenges = nil
	}
}

// claimed takes the verdict on a claim of a client of this shard.
func (c *Core) claimed(p *Post) {
	cl := c.clients[p.at.token]
	if cl == nil || cl.state != stateClaiming {
		return
	}
	if p.kind == postVacated {
		c.claim(cl, cl.pending)
		return
	}
	c.claimTimeout(cl)
}

// claimTimeout refuses a client whose peer ID stays another's.
func (c *Core) claimTimeout(cl *client) {
	c.refuse(RefusedDuplicate, c.observed(cl), cl)
	c.failed(cl, cl.pending, flash.NetConnectionConnectRejected, "The peer ID is in use by another connection.")
}

// connected welcomes a client.
func (c *Core) connected(cl *client, transaction float64) {
	cl.state = stateConnected
	c.stats.Connected++
	var more []flash.Property
	if cl.check != nil {
		more = append(more, flash.Property{Name: "publicAddress", Value: c.observed(cl).String()})
	}
	c.command(cl, flash.AMF0, flash.ConnectResult(transaction, cl.encoding, more...))
	rules := c.reg.Rules()
	cl.session.SetKeepalive(c.now, rules.sessionKeepalive())
	if cl.check != nil {
		return
	}
	c.emit(Event{Kind: EventConnected, Session: c.describe(cl)})
	_, a := cl.session.FarAddress()
	if c.reg.seen(c.now, a.Addr(), 1) {
		c.stats.Mixed++
		c.emit(Event{Kind: EventMixed, Session: c.describe(cl)})
	}
}

// setPeerInfo takes the addresses that a client reports (RFC 7425 §5.3.3) and answers with the keepalive periods (§5.3.4).
func (c *Core) setPeerInfo(cl *client, cmd flash.Command) {
	if cl.state != stateConnected {
		c.stats.Malformed++
		return
	}
	addrs, skipped := flash.ParsePeerInfo(cmd)
	c.stats.AddressesSkipped += uint64(skipped)
	var reported []byte
	count := 0
	for _, a := range addrs {
		// "The list SHOULD NOT include link-local or loopback addresses": who is told of one would try its own host.
		if ip := a.Addr(); ip.IsLoopback() || ip.IsLinkLocalUnicast() || count == maxReported {
			c.stats.AddressesSkipped++
			continue
		}
		reported = rtmfp.AppendAddress(reported, rtmfp.Address{Origin: rtmfp.OriginReported, AddrPort: a})
		count++
	}
	first := cl.reported == nil && !cl.told
	cl.reported, cl.told = append([]byte(nil), reported...), true
	if cmd.Transaction != 0 {
		c.command(cl, cl.encoding, flash.Command{Name: flash.CommandResult, Transaction: cmd.Transaction, Arguments: []any{flash.Undefined{}}})
	}
	if !first {
		return
	}
	rules := c.reg.Rules()
	c.send(cl, flash.AppendUserControl(nil, flash.UserControl{
		Event: flash.SetKeepalive, First: uint32(rules.Keepalive.Milliseconds()), Second: uint32(rules.PeerKeepalive.Milliseconds()),
	}))
	if cl.check != nil {
		c.checkStart(cl, addrs)
	}
}

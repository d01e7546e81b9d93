package rendezvous

import (
	"net/netip"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

// clientState is where a client is.
//
//	opened --connect--> claiming --ID is free, or its holder dead--> connected --close, kill--> goodbye --> (session closed)
//	  |                    |                                                                     ^
//	  +--refused, 30 s-----+--the holder lives---------------------------------------------------+
//
// Between goodbye and the end, stateParted lets the client close the session itself.
type clientState uint8

const (
	stateOpened    clientState = iota + 1 // has a session
	stateClaiming                         // its peer ID is another session's, which is asked whether it lives
	stateConnected                        // can be introduced, unless it is of the connectivity check
	stateGoodbye                          // has been told why, and is to acknowledge that
	stateParted                           // has, and may close the session itself
)

// client is the far end of a session. There may be a million, so it has no field that most do not need.
type client struct {
	session    *rtmfp.Session
	control    *rtmfp.ReceiveFlow // its NetConnection's main control flow
	reply      *rtmfp.SendFlow    // the return flow
	key        *heldKey           // nil without
	check      *check             // nil but in the connectivity check
	reported   []byte             // addresses of setPeerInfo, one after the other as in a Redirect
	counted    netip.Addr         // the address that Registry.admit has counted
	forwards   bucket             // FIHellos
	commands   bucket
	serial     uint64 // names the session in the log
	opened     int64
	pending    float64 // the transaction of a connect command that waits
	introduced uint32  // how often to others
	asked      uint32  // for how many introductions
	streams    uint16  // IDs given to streams
	state      clientState
	encoding   flash.ObjectEncoding
	registered bool // has its peer ID
	told       bool // has sent setPeerInfo
}

// SessionID names a session in the log and the administration.
type SessionID uint64

// id is the client's peer ID.
func (cl *client) id() PeerID {
	id, ok := flash.PeerIDOf(cl.session.FarIdentity())
	if !ok {
		panic("BUG: rendezvous: a certificate without a fingerprint")
	}
	return id
}

// reportedAddresses are those of setPeerInfo.
func (cl *client) reportedAddresses() (list []netip.AddrPort) {
	for b := cl.reported; len(b) > 0; {
		a, rest, err := rtmfp.ParseAddress(b)
		if err != nil {
			panic("BUG: rendezvous: a reported address does not parse")
		}
		list, b = append(list, a.AddrPort), rest
	}
	return list
}

func (c *Core) place(cl *client) place {
	return place{shard: uint16(c.cfg.Shard), token: cl.session.ID()}
}

// open is a session that has just been keyed.
func (c *Core) open(s *rtmfp.Session) {
	_, from := s.FarAddress()
	rules := c.reg.Rules()
	addr := from.Addr()
	switch {
	case !c.reg.opens.of(addr).take(c.t, 1, rules.rates.handshakes):
		c.refuse(RefusedHandshakeRate, from, nil)
	case !c.reg.admit(addr, rules.PerAddress):
		c.refuse(RefusedPerAddress, from, nil)
	default:
		c.serial++
		cl := &client{
			session: s, counted: addr, opened: c.t, state: stateOpened,
			serial: c.serial*uint64(max(1, c.cfg.Shards)) + uint64(c.cfg.Shard),
		}
		s.User = cl
		c.clients[s.ID()] = cl
		c.stats.Opened++
		c.due.add(deadline{at: c.t + int64(connectWait), client: cl, state: stateOpened})
		return
	}
	s.Abort(c.now)
}

// closed forgets a client.
func (c *Core) closed(cl *client, why rtmfp.Reason) {
	s := cl.session
	delete(c.clients, s.ID())
	s.User = nil
	c.reg.dismiss(cl.counted)
	if cl.registered {
		c.unregister(cl)
	}
	if cl.key != nil {
		cl.key.leave()
		cl.key = nil
	}
	c.stats.Ended[why]++
	if cl.control != nil {
		c.emit(Event{Kind: EventEnded, Session: c.describe(cl), Reason: why})
	}
	cl.state, cl.check = 0, nil
}

func (c *Core) unregister(cl *client) {
	cl.registered = false
	id := cl.id()
	if c.reg.vacate(id, c.place(cl)) {
		c.reg.Names.leave(id)
	}
	_, a := cl.session.FarAddress()
	_ = c.reg.seen(c.now, a.Addr(), -1)
}

// moved notes that a client has another address.
func (c *Core) moved(cl *client) {
	c.stats.Moved++
	_, a := cl.session.FarAddress()
	if a.Addr() == cl.counted {
		return
	}
	if cl.registered {
		_ = c.reg.seen(c.now, cl.counted, -1)
		_ = c.reg.seen(c.now, a.Addr(), 1)
	}
	c.reg.dismiss(cl.counted)
	cl.counted = a.Addr()
	_ = c.reg.admit(cl.counted, 0) // it is here already
}

// deadline does what time brings to a client.
func (c *Core) deadline(d deadline) {
	cl := d.client
	if cl.state != d.state {
		return
	}
	switch d.state {
	case stateOpened:
		c.refuse(RefusedNoConnect, c.observed(cl), nil)
		cl.session.Close(c.now)
	case stateGoodbye, stateParted:
		cl.session.Close(c.now)
	case stateClaiming:
		c.claimTimeout(cl)
	case stateConnected:
		if cl.check != nil && d.round == cl.check.round {
			c.checkRound(cl)
		}
	}
}

// flowOpen takes or rejects a flow of a client (RFC 7425 §5.3.1).
func (c *Core) flowOpen(f *rtmfp.ReceiveFlow) {
	cl := c.client(f.Session())
	if cl == nil {
		return // its session is ending
	}
	m, err := flash.ParseFlowMetadata(f.Metadata())
	switch {
	// There are no streams here, and so nothing to send to them (RFC 7425 §5.3.5.3 for the code).
	case err != nil, m.StreamID != 0, cl.state >= stateGoodbye:
		c.stats.FlowsRejected++
		f.Reject(c.now, 0)
		return
	case cl.control == nil:
		cl.control = f
	// "The client MAY open additional return control flows to the server on Stream ID 0" (RFC 7425 §5.3.2), in return to ours.
	case f.Association() == nil || f.Association() != cl.reply:
		c.stats.FlowsRejected++
		f.Reject(c.now, 0)
		return
	}
	f.SetCapacity(c.now, flowCapacity)
}

// send writes a message to a client, on its return flow.
func (c *Core) send(cl *client, message []byte) {
	if cl.reply == nil {
		reply, err := cl.session.OpenFlow(c.now, rtmfp.FlowConfig{
			Metadata: flash.AppendFlowMetadata(nil, flash.FlowMetadata{}), Association: cl.control, Priority: rtmfp.PriorityImmediate,
		})
		if err != nil {
			return // the client has closed its flow or the session meanwhile
		}
		cl.reply = reply
	}
	// A client that acknowledges nothing is not sent more than this.
	if cl.reply.Queued() > maxQueued {
		c.stats.Dropped++
		return
	}
	_, _ = cl.reply.Write(c.now, message, rtmfp.WriteOptions{}) // the flow may be closing
}

// maxQueued bounds what waits for a client.
const maxQueued = 64 << 10

// command sends a command, in the encoding that the client has asked for.
func (c *Core) command(cl *client, encoding flash.ObjectEncoding, cmd flash.Command) {
	b, err := flash.AppendCommand(nil, encoding, cmd)
	if err != nil {
		panic("BUG: rendezvous: " + cmd.Name + " has a value without a counterpart: " + err.Error())
	}
	c.send(cl, b)
}

// goodbye closes a connection in order: what was written is delivered, then the session closes.
func (c *Core) goodbye(cl *client) {
	if cl.state >= stateGoodbye {
		return
	}
	cl.state = stateGoodbye
	if cl.registered {
		c.unregister(cl) // nobody is introduced to who is leaving
	}
	c.due.add(deadline{at: c.t + int64(goodbyeWait), client: cl, state: stateGoodbye})
	if cl.reply == nil {
		cl.session.Close(c.now)
		return
	}
	cl.reply.Close(c.now)
}

// parted is a client that has acknowledged everything. AIR takes a connection for closed only when its own control flow has been
// rejected. That comes last: a return flow in answer to a flow that is rejected is refused with all that is in it.
func (c *Core) parted(cl *client) {
	cl.control.Reject(c.now, 0)
	cl.state = stateParted
	c.due.add(deadline{at: c.t + int64(partedWait), client: cl, state: stateParted})
}

// failed tells a client why its connect command failed, and ends its connection.
func (c *Core) failed(cl *client, transaction float64, code, description string) {
	c.command(cl, flash.AMF0, flash.CommandFailed(transaction, flash.Status{Code: code, Description: description}))
	c.goodbye(cl)
}

// ended tells a connected client that its connection ends.
func (c *Core) end(cl *client, code, description string) {
	if cl.state == stateConnected {
		c.command(cl, cl.encoding, flash.OnStatus(flash.Status{Code: code, Description: description}))
	}
	c.goodbye(cl)
}

// KeysChanged ends the sessions whose key has been revoked.
func (c *Core) KeysChanged(now time.Time) {
	c.clock(now)
	for _, cl := range c.clients {
		if cl.key != nil && cl.key.revoked.Load() && c.reg.Keys.Required() {
			c.refuse(RefusedRevoked, c.observed(cl), cl)
			c.end(cl, flash.NetConnectionConnectClosed, "The developer key has been revoked.")
		}
	}
}

// SetDraining says whether new clients are refused because the service is about to end.
func (c *Core) SetDraining(on bool) { c.draining = on }

// Kill ends a session, and reports whether there was one.
func (c *Core) Kill(now time.Time, id SessionID) bool {
	c.clock(now)
	for _, cl := range c.clients {
		if SessionID(cl.serial) == id {
			c.end(cl, flash.NetConnectionConnectClosed, "The connection was closed by the administrator.")
			return true
		}
	}
	return false
}

// Shutdown ends all sessions at once. Their clients are told by one packet each, with the next Flush.
func (c *Core) Shutdown(now time.Time) {
	c.clock(now)
	for _, cl := range c.clients {
		cl.session.Abort(now)
	}
}

package rendezvous

import (
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

// CheckSocket is one of the sockets beside the listener that the connectivity check sends from.
type CheckSocket uint8

// The sockets.
const (
	CheckDifferentPort    CheckSocket = iota // the listener's address, another port
	CheckDifferentAddress                    // another address and port
	CheckIntroduction                        // a third address: it sends nothing and gets the answers to FIHellos
	CheckSockets
)

// CheckConfig says which of the sockets there are.
type CheckConfig struct {
	Sockets [CheckSockets]bool
	// Introduction is how others see the address of CheckIntroduction.
	Introduction netip.AddrPort
}

// Probe is a packet of a connectivity check, to be sent from one of its sockets.
type Probe struct {
	Socket CheckSocket
	To     netip.AddrPort
	Data   []byte
}

// Ours to tune.
const (
	checkRounds   = 5                      // transmissions of a probe
	checkInterval = 300 * time.Millisecond // between them, at least
)

// checkTag names a check in probes and their answers.
//
//	shard:16 serial:64 random[6]
type checkTag [16]byte

// check is a connectivity check of a client: what it could receive, and what it sends after an introduction.
type check struct {
	tag      checkTag
	round    uint32
	local    []netip.AddrPort // what the client has reported
	answered [CheckSockets]bool
	intro    netip.AddrPort // where the answer to the FIHello came from
}

// probeReply is an answer to a probe or to an FIHello.
type probeReply struct {
	tag    checkTag
	socket CheckSocket
	from   netip.AddrPort
}

// ParseProbeReply reads what came to a socket of the connectivity check. ok is false if it answers no probe; else the Post is
// to be delivered to its shard. It decrypts in place.
func ParseProbeReply(cipher rtmfp.Cipher, shards int, socket CheckSocket, from netip.AddrPort, datagram []byte) (p Post, ok bool) {
	if id, ok := rtmfp.SessionID(datagram); !ok || id != 0 {
		return Post{}, false
	}
	plain, err := cipher.Open(datagram[4:])
	if err != nil {
		return Post{}, false
	}
	h, chunks, err := rtmfp.ParseHeader(plain)
	if err != nil || h.Mode != rtmfp.ModeStartup {
		return Post{}, false
	}
	for kind, payload := range rtmfp.Chunks(chunks) {
		if kind != rtmfp.ChunkRHello {
			continue
		}
		r, err := rtmfp.ParseRHello(payload)
		if err != nil || len(r.TagEcho) != len(checkTag{}) {
			continue
		}
		tag := checkTag(r.TagEcho)
		shard := int(binary.BigEndian.Uint16(tag[:]))
		if shard >= shards {
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		return Post{Shard: shard, kind: postProbe, probe: probeReply{tag, socket, from}}, true
	}
	return Post{}, false
}

// checkStart begins the check of a client that has said where it is.
func (c *Core) checkStart(cl *client, local []netip.AddrPort) {
	k := cl.check
	k.local = local
	binary.BigEndian.PutUint16(k.tag[:], uint16(c.cfg.Shard))
	binary.BigEndian.PutUint64(k.tag[2:], cl.serial)
	if _, err := io.ReadFull(c.cfg.Random, k.tag[10:]); err != nil {
		panic("BUG: rendezvous: Config.Random: " + err.Error())
	}
	c.stats.Checks++
	c.checkRound(cl)
}

// checkRound sends what is unanswered once more, or reports after the last.
func (c *Core) checkRound(cl *client) {
	k := cl.check
	k.round++
	if k.round > checkRounds {
		c.checkReport(cl)
		return
	}
	_, to := cl.session.FarAddress()
	hello := rtmfp.IHello{EPD: []byte(cl.session.FarIdentity()), Tag: k.tag[:]}
	for _, socket := range []CheckSocket{CheckDifferentPort, CheckDifferentAddress} {
		if !c.cfg.Check.Sockets[socket] || k.answered[socket] {
			continue
		}
		plain := rtmfp.AppendHeader(nil, rtmfp.Header{Mode: rtmfp.ModeStartup, TimestampPresent: true, Timestamp: uint16(c.t / int64(rtmfp.Tick))})
		data := c.cipher.Seal(make([]byte, 4), rtmfp.AppendIHello(plain, hello))
		rtmfp.PutSessionID(data, 0)
		c.probes = append(c.probes, Probe{Socket: socket, To: to, Data: data})
		c.stats.Probes++
	}
	if c.cfg.Check.Sockets[CheckIntroduction] && !k.answered[CheckIntroduction] {
		_ = cl.session.Forward(c.now, &rtmfp.Hello{EPD: hello.EPD, Tag: hello.Tag, From: c.cfg.Check.Introduction}) // another round may follow
	}
	srtt, variance := cl.session.RTT()
	c.due.add(deadline{at: c.t + int64(max(checkInterval, srtt+4*variance+checkInterval/3)), client: cl, state: stateConnected, round: k.round})
}

// probeAnswered notes an answer. The tag has 48 bits that nobody else knows.
func (c *Core) probeAnswered(r probeReply) {
	serial := binary.BigEndian.Uint64(r.tag[2:])
	for _, cl := range c.clients {
		if cl.check == nil || cl.serial != serial || cl.check.tag != r.tag || cl.state != stateConnected {
			continue
		}
		cl.check.answered[r.socket] = true
		if r.socket == CheckIntroduction {
			cl.check.intro = r.from
		}
		for s := range CheckSockets {
			if c.cfg.Check.Sockets[s] && !cl.check.answered[s] {
				return
			}
		}
		c.checkReport(cl)
		return
	}
}

// checkReport tells the client the results, with the properties that zenomt's conncheck documents, and closes the connection.
func (c *Core) checkReport(cl *client) {
	k, has := cl.check, &c.cfg.Check.Sockets
	known := func(socket CheckSocket, v bool) any {
		if !has[socket] {
			return flash.Undefined{}
		}
		return v
	}
	observed := c.observed(cl)
	isLocal, samePort := any(flash.Undefined{}), any(flash.Undefined{})
	if len(k.local) > 0 {
		isLocal = slices.Contains(k.local, observed)
		samePort = slices.ContainsFunc(k.local, func(a netip.AddrPort) bool { return a.Port() == observed.Port() })
	}
	status := flash.Status{Code: flash.NetConnectionConnectivityCheck, Description: "Connectivity check results."}
	c.command(cl, cl.encoding, flash.Command{Name: flash.CommandOnStatus, Arguments: []any{status.Object(
		flash.Property{Name: "publicAddress", Value: observed.String()},
		flash.Property{Name: "publicAddressIsLocal", Value: isLocal},
		flash.Property{Name: "publicPortMatchesLocalPort", Value: samePort},
		flash.Property{Name: "receiveSameAddressDifferentPortAllowed", Value: known(CheckDifferentPort, k.answered[CheckDifferentPort])},
		flash.Property{Name: "receiveDifferentAddressDifferentPortAllowed", Value: known(CheckDifferentAddress, k.answered[CheckDifferentAddress])},
		flash.Property{Name: "sendAfterIntroductionAllowed", Value: known(CheckIntroduction, k.answered[CheckIntroduction])},
		flash.Property{Name: "sendAfterIntroductionPreservesSourceAddress", Value: known(CheckIntroduction, k.intro.Addr() == observed.Addr())},
		flash.Property{Name: "sendAfterIntroductionPreservesSourcePort", Value: known(CheckIntroduction, k.intro.Port() == observed.Port())},
	)}})
	c.goodbye(cl)
}

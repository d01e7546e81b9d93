package main

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/stilenet/stile/stun"
)

// Bounds of what a forger of addresses can have sent to somebody.
const (
	reflectionFactor = 2.0       // bytes on the wire that come back for each that was sent
	reflectionRate   = 512 << 10 // bytes/s to one /24, after the first second of a flood
	reflectionFlood  = 20_000    // requests/s of the flood
)

// reflectors are the requests whose answers are weighed, by name.
func reflectors() map[string][]byte {
	unknown := func(n int) (list []attr) {
		for i := range n {
			list = append(list, attr{stun.AttrType(0x7F00 + i), nil})
		}
		return list
	}
	good := request(stun.Allocate, udpTransport)
	withPrint := func(m stun.Method, attrs ...attr) []byte {
		b := stun.Begin(nil, stun.NewType(m, stun.Request), newID())
		for _, a := range attrs {
			b.Attr(a.typ, a.value)
		}
		b.Fingerprint()
		return b.Bytes()
	}
	old := request(stun.Binding)
	copy(old[4:8], "old!") // RFC 3489 has a transaction ID there
	peer := peerAttr(netip.MustParseAddrPort("203.0.113.7:40000"))
	return map[string][]byte{
		"Binding":                        request(stun.Binding),
		"Binding with FINGERPRINT":       withPrint(stun.Binding),
		"Binding with 8 unknown":         request(stun.Binding, unknown(8)...),
		"Binding with 100 unknown":       request(stun.Binding, unknown(100)...),
		"Binding with CHANGE-REQUEST":    request(stun.Binding, attr{stun.AttrChangeRequest, []byte{0, 0, 0, 6}}),
		"Binding of RFC 3489":            old,
		"Allocate":                       good,
		"Allocate with FINGERPRINT":      withPrint(stun.Allocate, udpTransport),
		"Allocate without attributes":    request(stun.Allocate),
		"Allocate for TCP":               request(stun.Allocate, attr{stun.AttrRequestedTransport, []byte{6, 0, 0, 0}}),
		"Allocate with 8 unknown":        request(stun.Allocate, append(unknown(8), udpTransport)...),
		"Allocate with a port pair":      request(stun.Allocate, udpTransport, attr{stun.AttrEvenPort, []byte{0xC0, 0, 0, 0}}),
		"Allocate with EVEN-PORT":        request(stun.Allocate, udpTransport, attr{stun.AttrEvenPort, []byte{0x80}}),
		"Allocate with a bad token":      request(stun.Allocate, udpTransport, attr{stun.AttrReservationToken, make([]byte, 8)}),
		"Allocate for two families":      request(stun.Allocate, udpTransport, attr{stun.AttrAdditionalFamily, []byte{2, 0, 0, 0}}),
		"Refresh":                        request(stun.Refresh),
		"Refresh with LIFETIME 0":        request(stun.Refresh, lifetimeAttr(0)),
		"ChannelBind":                    request(stun.ChannelBind, channelAttr(0x4000), peer),
		"ChannelBind without attributes": request(stun.ChannelBind),
		"CreatePermission":               request(stun.CreatePermission, peer),
		"CreatePermission, no attribute": request(stun.CreatePermission),
		"Send":                           message(stun.NewType(stun.Send, stun.Indication), newID(), peer, dataAttr([]byte("x"))),
		"ChannelData":                    channelData(0x4000, []byte("x")),
		"Connect of RFC 6062":            request(stun.Method(0x00A), peer),
		"a success response":             message(stun.NewType(stun.Binding, stun.Success), newID()),
		"one byte":                       {0},
		"nothing":                        {},
		"garbage":                        []byte("GET / HTTP/1.1\r\n\r\n"),
		"a TLS ClientHello's beginning":  {0x16, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0},
	}
}

// abuseReflection weighs what comes back for each kind of request, IP and UDP headers included, and what a flood from one
// prefix brings to it. Every request comes from a port of its own that never says anything else, as a forged one would.
func abuseReflection(ctx context.Context, a *arena, t *AbuseTrial) error {
	worst, worstName := 0.0, ""
	for _, family := range []struct {
		open    func() (*attacker, error)
		headers int
		suffix  string
	}{{func() (*attacker, error) { return a.udp(2) }, 28, ""}, {a.udp6, 48, ", IPv6"}} {
		if family.headers == 48 && !a.server6.IsValid() {
			continue
		}
		var waiting []*attacker
		var names []string
		var sizes []int
		all := reflectors()
		for _, name := range slices.Sorted(maps.Keys(all)) {
			msg := all[name]
			c, err := family.open()
			if err != nil {
				return err
			}
			defer c.close()
			if err := c.send(msg); err != nil {
				return err
			}
			waiting, names, sizes = append(waiting, c), append(names, name), append(sizes, len(msg))
		}
		until := time.Now().Add(500 * time.Millisecond)
		for i, c := range waiting {
			if err := c.drain(until); err != nil {
				return err
			}
			back := 0
			for _, b := range c.data {
				back += len(b) + family.headers
			}
			if f := float64(back) / float64(sizes[i]+family.headers); f > worst {
				worst, worstName = f, names[i]+family.suffix
			}
		}
	}
	t.bounded("largest factor, on the wire", worst, "", reflectionFactor)
	if worstName != "" {
		t.Figures[len(t.Figures)-1].Name += " (" + worstName + ")"
	}
	return a.reflectFlood(ctx, t)
}

// reflectFlood asks for as much as it can from one /24, and counts what comes back to it after the first second.
func (a *arena) reflectFlood(ctx context.Context, t *AbuseTrial) error {
	const sockets = 64
	var all []*attacker
	for range sockets {
		c, err := a.udpFrom(netip.AddrPortFrom(a.source(3), 0))
		if err != nil {
			return err
		}
		defer c.close()
		all = append(all, c)
	}
	seconds := 3.0
	if a.floodSeconds > 0 {
		seconds = float64(a.floodSeconds)
	}
	length := time.Duration(seconds * float64(time.Second))
	begin := time.Now()
	counted := make(chan int, sockets)
	for _, c := range all {
		go func() {
			total := 0
			for {
				_ = c.conn.SetReadDeadline(begin.Add(length + 500*time.Millisecond))
				n, err := c.conn.Read(c.buf)
				if err != nil {
					if time.Since(begin) > length {
						break
					}
					continue
				}
				if since := time.Since(begin); since > time.Second && since < length {
					total += n + 28
				}
			}
			counted <- total
		}()
	}
	sent := 0
	for time.Since(begin) < length && ctx.Err() == nil {
		due := int(time.Since(begin).Seconds() * reflectionFlood)
		for ; sent < due; sent++ {
			if err := all[sent%sockets].send(request(stun.Binding)); err != nil {
				return err
			}
		}
		time.Sleep(time.Millisecond)
	}
	total := 0
	for range sockets {
		total += <-counted
	}
	t.figure("requests of a flood from one /24", float64(sent)/seconds, "/s")
	t.bounded("bytes that come back to it, after the first second", float64(total)/(seconds-1), "bytes/s", reflectionRate)
	return ctx.Err()
}

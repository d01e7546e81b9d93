package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/stilenet/stile/stun"
)

// abuseDeputy does what a web page can have the browser of somebody inside do: speak the modern dialect as WebRTC does, over UDP and TCP, and
// send an HTTP request with a body of the page's choice to the TCP port.
func abuseDeputy(ctx context.Context, a *arena, t *AbuseTrial) error {
	echo, peer, err := a.echoPeer()
	if err != nil {
		return err
	}
	defer echo.Close()
	relayed := 0
	tried := 0
	for _, transport := range []struct {
		name string
		open func() (*attacker, error)
	}{{"UDP", func() (*attacker, error) { return a.udp(40) }}, {"TCP", func() (*attacker, error) { return a.tcp(40) }}} {
		for _, s := range deputyScripts(peer) {
			if err := ctx.Err(); err != nil {
				return err
			}
			c, err := transport.open()
			if err != nil {
				return fmt.Errorf("%s: %w", transport.name, err)
			}
			err = playDeputy(c, s)
			n := c.heard()
			c.close()
			if err != nil {
				return fmt.Errorf("%s, %s: %w", transport.name, s.name, err)
			}
			tried++
			if n > 0 {
				relayed++
				t.success("%s: %s: a peer's answer came back", transport.name, s.name)
			}
		}
	}
	t.figure("WebRTC sequences tried", float64(tried), "")
	t.figure("of them, data relayed", float64(relayed), "")
	return a.smuggle(ctx, t, peer)
}

// deputyScript is what one page's connection sends. A request is waited for, unless all goes out at once.
type deputyScript struct {
	name   string
	steps  [][]byte
	atOnce bool
	legacy int // steps at the beginning that are no modern words; what they bring does not count
}

func deputyScripts(peer netip.AddrPort) (list []deputyScript) {
	data := mark(1, 20)
	permit := func() []byte { return request(stun.CreatePermission, peerAttr(peer)) }
	send := func() []byte { return sendTo(peer, data) }
	bind := func() []byte { return request(stun.ChannelBind, channelAttr(0x4000), peerAttr(peer)) }
	plain := func() []byte { return request(stun.Allocate, udpTransport) }
	after := func() [][]byte { return [][]byte{permit(), send(), bind(), channelData(0x4000, data), send()} }
	for _, m := range []struct {
		name string
		a    attr
	}{
		{"Allocate with REQUESTED-ADDRESS-FAMILY", attr{stun.AttrRequestedFamily, []byte{1, 0, 0, 0}}},
		{"Allocate with DONT-FRAGMENT", attr{stun.AttrDontFragment, nil}},
		{"Allocate with ADDITIONAL-ADDRESS-FAMILY", attr{stun.AttrAdditionalFamily, []byte{2, 0, 0, 0}}},
	} {
		first := request(stun.Allocate, udpTransport, m.a)
		list = append(list, deputyScript{name: m.name + ", CreatePermission, data", steps: append([][]byte{first}, after()...)},
			deputyScript{name: m.name + ", data at once", steps: [][]byte{first, send(), bind(), channelData(0x4000, data)}})
	}
	bogus := []attr{udpTransport, {stun.AttrUsername, []byte("u")}, {stun.AttrRealm, []byte("r")}, {stun.AttrNonce, []byte("n")}, {stun.AttrMessageIntegrity, make([]byte, 20)}}
	return append(list,
		deputyScript{name: "Allocate, CreatePermission, data", steps: append([][]byte{plain()}, after()...)},
		deputyScript{name: "Allocate, CreatePermission and data at once", steps: append([][]byte{plain()}, after()...), atOnce: true},
		deputyScript{name: "Allocate, Send, CreatePermission, data", steps: append([][]byte{plain(), send()}, after()...), legacy: 2},
		deputyScript{name: "Allocate, ChannelBind, CreatePermission, ChannelData", steps: [][]byte{plain(), bind(), permit(), channelData(0x4000, data)}},
		deputyScript{name: "Allocate with made-up credentials, CreatePermission, data", steps: append([][]byte{request(stun.Allocate, bogus...)}, after()...)},
		deputyScript{name: "Allocate with made-up credentials and DONT-FRAGMENT, data",
			steps: append([][]byte{request(stun.Allocate, append(bogus[:4:4], attr{stun.AttrDontFragment, nil}, bogus[4])...)}, after()...)},
		deputyScript{name: "Allocate, Refresh with REQUESTED-ADDRESS-FAMILY, data",
			steps: append([][]byte{plain(), request(stun.Refresh, attr{stun.AttrRequestedFamily, []byte{1, 0, 0, 0}})}, send(), bind(), channelData(0x4000, data))},
		deputyScript{name: "Allocate, Send with DONT-FRAGMENT, data",
			steps: [][]byte{plain(), message(stun.NewType(stun.Send, stun.Indication), newID(), peerAttr(peer), attr{stun.AttrDontFragment, nil}, dataAttr(data)), send(), send()}},
	)
}

// playDeputy sends a script and keeps what comes after its legacy steps. A connection that the server ends is an answer.
func playDeputy(c *attacker, s deputyScript) error {
	for i, step := range s.steps {
		isRequest := step[0]&0xC0 == 0 && stun.Type(uint16(step[0])<<8|uint16(step[1])).Class() == stun.Request
		var err error
		if isRequest && !s.atOnce {
			_, err = c.ask(step)
		} else {
			err = c.send(step)
		}
		var r refusal
		if eof(err) {
			return nil
		} else if err != nil && !errors.As(err, &r) && !errors.Is(err, errSilent) {
			return err
		}
		if i+1 == s.legacy {
			if err := c.drain(time.Now().Add(100 * time.Millisecond)); err != nil && !eof(err) {
				return err
			}
			c.data = nil
		}
	}
	if err := c.drain(time.Now().Add(150 * time.Millisecond)); err != nil && !eof(err) {
		return err
	}
	return nil
}

// smuggle sends HTTP requests whose bodies are TURN messages.
func (a *arena) smuggle(ctx context.Context, t *AbuseTrial, peer netip.AddrPort) error {
	turn := bytes.Join([][]byte{request(stun.Allocate, udpTransport), request(stun.ChannelBind, channelAttr(0x4000), peerAttr(peer)), channelData(0x4000, mark(2, 20))}, nil)
	aligned := smuggled(a.server.String(), turn)
	plain := []byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n")
	for _, s := range []struct {
		name string
		body []byte
	}{
		{"an HTTP POST", append(plain, turn...)},
		{"an HTTP POST aligned to the ChannelData that its first four bytes are", aligned},
		{"an HTTP GET and a body", append([]byte("GET / HTTP/1.1\r\n\r\n"), turn...)},
		{"a TLS ClientHello and a body", append([]byte{0x16, 3, 1, 0, 0xF8, 1, 0, 0, 0xF4, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0}, turn...)},
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := a.tcp(41)
		if err != nil {
			return err
		}
		err = c.send(s.body)
		answers := 0
		until := time.Now().Add(500 * time.Millisecond)
		for err == nil {
			var b []byte
			if b, err = c.read(until); err == nil {
				answers++
				if m, e := stun.Parse(b); e == nil && m.Class() == stun.Success {
					t.success("%s: %d bytes of success came back: something is allocated", s.name, len(b))
				}
			}
		}
		c.close()
		if !eof(err) && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		t.figure("answers to "+s.name, float64(answers), "")
	}
	return nil
}

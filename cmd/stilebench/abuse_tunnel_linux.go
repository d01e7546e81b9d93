package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/stun"
)

// tunnelDatagrams are sent each way that data can go.
const tunnelDatagrams = 100

// abuseTunnel has a client and a service that answers everything exchange what is not RTMFP: plainly, and after a made-up startup whose
// pieces the service gives back.
func abuseTunnel(ctx context.Context, a *arena, t *AbuseTrial) error {
	echo, peer, err := a.echoPeer()
	if err != nil {
		return err
	}
	defer echo.Close()
	id, err := flash.NewIdentity(flash.IdentityConfig{Random: rand.Reader})
	if err != nil {
		return err
	}
	// startup seals a chunk as the published key says.
	startup := func(session uint32, chunk []byte) []byte {
		plain := append(rtmfp.AppendHeader(nil, rtmfp.Header{Mode: rtmfp.ModeStartup}), chunk...)
		b := id.DefaultCipher().Seal(make([]byte, 4), plain)
		rtmfp.PutSessionID(b, session)
		return b
	}
	madeUp := [][]byte{
		startup(0, rtmfp.AppendIHello(nil, rtmfp.IHello{EPD: id.PeerID().EPD(), Tag: make([]byte, 16)})),
		startup(0, rtmfp.AppendRHello(nil, rtmfp.RHello{TagEcho: make([]byte, 16), Cookie: make([]byte, 64), Certificate: id.Certificate()})),
		startup(0, rtmfp.AppendIIKeying(nil, rtmfp.IIKeying{SessionID: 7, CookieEcho: make([]byte, 64), Certificate: id.Certificate(), Component: make([]byte, 64)})),
		startup(0, rtmfp.AppendIIKeying(nil, rtmfp.IIKeying{SessionID: 8, CookieEcho: make([]byte, 64), Certificate: id.Certificate(), Component: make([]byte, 64)})),
		startup(7, rtmfp.AppendRIKeying(nil, rtmfp.RIKeying{SessionID: 9, Component: make([]byte, 64)})),
		startup(8, rtmfp.AppendRIKeying(nil, rtmfp.RIKeying{SessionID: 9, Component: make([]byte, 64)})),
	}
	for i, way := range []struct {
		name   string
		open   func() (*attacker, error)
		wrap   func(b []byte) []byte
		before [][]byte
	}{
		{"indications", func() (*attacker, error) { return a.udp(90) }, func(b []byte) []byte { return sendTo(peer, b) }, nil},
		{"ChannelData", func() (*attacker, error) { return a.udp(91) }, func(b []byte) []byte { return channelData(0x4000, b) }, nil},
		{"ChannelData over TCP", func() (*attacker, error) { return a.tcp(92) }, func(b []byte) []byte { return channelData(0x4000, b) }, nil},
		{"indications after a made-up startup", func() (*attacker, error) { return a.udp(93) }, func(b []byte) []byte { return sendTo(peer, b) }, madeUp},
	} {
		c, err := a.allocated(way.open)
		if err != nil {
			return err
		}
		defer c.close()
		if _, err := c.ask(request(stun.ChannelBind, channelAttr(0x4000), peerAttr(peer))); err != nil {
			return fmt.Errorf("%s: ChannelBind: %w", way.name, err)
		}
		for _, b := range way.before {
			if err := c.send(way.wrap(b)); err != nil {
				return err
			}
			if err := c.drain(time.Now().Add(50 * time.Millisecond)); err != nil {
				return err
			}
		}
		for n := range tunnelDatagrams {
			if err := c.send(way.wrap(mark(uint32(1000*i+n), 200))); err != nil {
				return err
			}
			if n%20 == 19 {
				if err := c.drain(time.Now().Add(5 * time.Millisecond)); err != nil {
					return err
				}
			}
		}
		if err := c.drain(time.Now().Add(300 * time.Millisecond)); err != nil {
			return err
		}
		t.none(fmt.Sprintf("%s: datagrams that came back, of %d", way.name, tunnelDatagrams), float64(c.heard()), "")
	}
	t.limit("two ends that both want to can begin with a made-up startup of RTMFP, whose key is published, and then say anything; the log names the peer")
	return ctx.Err()
}

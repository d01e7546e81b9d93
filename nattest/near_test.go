package nattest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/stun"
)

// beyond is everything that a host of the laboratory offers beyond sockets.
func beyond(h *natlab.Host, gateway string) func(*nattest.Config) {
	return func(c *nattest.Config) {
		c.DialContext = h.DialContext
		c.Gateway = func() netip.Addr { a, _ := netip.ParseAddr(gateway); return a }
		c.DialFrom = func(ctx context.Context, network, local, address string) (net.Conn, error) {
			conn, err := h.DialTCP(ctx, network, local, address)
			if err != nil {
				return nil, err
			}
			return conn, nil
		}
		c.DontFragment = func(c net.PacketConn) error { c.(*natlab.UDPConn).SetDF(true); return nil }
		c.Hop = func(ctx context.Context, to netip.AddrPort, payload []byte, hops int) (netip.Addr, error) {
			conn, err := h.ListenUDP(ctx, "udp", ":0")
			if err != nil {
				return netip.Addr{}, err
			}
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
			conn.SetTTL(hops)
			conn.ReportErrors(true)
			conn.WriteToUDPAddrPort(payload, to)
			_, _, err = conn.ReadFromUDPAddrPort(make([]byte, 1500))
			var e *natlab.ICMPError
			switch {
			case err == nil:
				return to.Addr(), nil
			case errors.As(err, &e) && e.Type == natlab.TimeExceeded:
				return e.From, nil
			}
			return netip.Addr{}, err
		}
	}
}

// gateway serves what maps ports: NAT-PMP, PCP, UPnP, each with the external address if it is not empty.
func gateway(t *testing.T, b *natlab.Box, addr, external string, protocols ...string) (mapped *atomic.Int32) {
	t.Helper()
	h := b.Inside().Host("gateway", addr)
	mapped = new(atomic.Int32)
	pmp, err := h.ListenUDP(context.Background(), "udp4", ":5351")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 1100)
		for {
			n, from, err := pmp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			switch {
			case n == 2 && buf[0] == 0 && buf[1] == 0 && slices.Contains(protocols, "nat-pmp"):
				a := netip.MustParseAddr(external).As4()
				pmp.WriteToUDPAddrPort(append([]byte{0, 128, 0, 0, 0, 0, 0, 9}, a[:]...), from)
			case n >= 24 && buf[0] == 2 && buf[1] == 0 && slices.Contains(protocols, "pcp"):
				out := make([]byte, 24)
				out[0], out[1] = 2, 0x80
				pmp.WriteToUDPAddrPort(out, from)
			case n >= 24 && buf[0] == 2 && slices.Contains(protocols, "nat-pmp"): // RFC 6886 §9: an unknown version
				pmp.WriteToUDPAddrPort([]byte{0, 128, 0, 1, 0, 0, 0, 9}, from)
			}
			if n > 1 && buf[1]&0x7f != 0 { // MAP or PEER in either protocol
				mapped.Add(1)
			}
		}
	}()
	if !slices.Contains(protocols, "upnp") {
		return mapped
	}
	ssdp, err := h.ListenUDP(context.Background(), "udp4", ":1900")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 1100)
		for {
			n, from, err := ssdp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if strings.Contains(string(buf[:n]), "ssdp:discover") {
				ssdp.WriteToUDPAddrPort([]byte("HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nLocation: http://"+addr+":5000/desc.xml\r\n\r\n"), from)
			}
		}
	}()
	l, err := h.Listen(context.Background(), "tcp4", ":5000")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 4096))
		switch {
		case r.URL.Path == "/desc.xml":
			fmt.Fprint(w, `<?xml version="1.0"?><root><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/l3</controlURL></service></serviceList>`+
				`<deviceList><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ctl</controlURL></service></serviceList></device></deviceList></device></root>`)
		case r.URL.Path == "/ctl" && strings.Contains(string(body), "GetExternalIPAddress"):
			fmt.Fprintf(w, `<s:Envelope xmlns:s="x"><s:Body><u:GetExternalIPAddressResponse><NewExternalIPAddress>%s</NewExternalIPAddress></u:GetExternalIPAddressResponse></s:Body></s:Envelope>`, external)
		default:
			mapped.Add(1)
			http.Error(w, "no", http.StatusInternalServerError)
		}
	})}
	server.SetKeepAlivesEnabled(false)
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return mapped
}

func TestGatewayThatMapsPortsIsRecognised(t *testing.T) {
	for _, protocol := range []string{"nat-pmp", "pcp", "upnp", ""} {
		for _, behind := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s_behind_%v", protocol, behind), func(t *testing.T) {
				natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
					l := newLab(t, n, nat(natlab.NATConfig{}), near, &discovery, nil)
					external := "203.0.113.1"
					box, h := l.box, l.client
					if behind {
						external = "100.64.0.2"
						box = l.box.Inside().Box("home", natlab.BoxConfig{Outside: []string{external}, NAT: &natlab.NATConfig{}})
						h = box.Inside().Host("desk", "10.0.0.2")
					}
					mapped := gateway(t, box, "10.0.0.1", external, protocol)
					r := probe(t, h, beyond(h, "10.0.0.1"))
					v := r.Verdict
					want, maps, cgn := nattest.No, false, nattest.AnswerUnknown
					if protocol != "" {
						want, maps = nattest.Yes, true
						if protocol != "pcp" { // which does not tell the address
							cgn = map[bool]nattest.Answer{false: nattest.No, true: nattest.Yes}[behind]
						}
					}
					if v.PortMapping != want || v.CGN != cgn || (has(r, nattest.MapsPorts) || has(r, nattest.CarrierNAT)) != maps {
						t.Errorf("port mapping %v, carrier %v: %v%+v", v.PortMapping, v.CGN, explain(r), r.Observations.Near)
					}
					if n := mapped.Load(); n != 0 {
						t.Errorf("%d requests other than questions", n)
					}
					if v.Mapping != nattest.EIM || v.Filtering != nattest.APDF {
						t.Error(explain(r))
					}
				})
			})
		}
	}
}

func TestCarriersNATIsSeenByItsHop(t *testing.T) {
	for _, tc := range []struct {
		carrier, home string
		cgn           nattest.Answer
		hops          int
	}{
		{"100.64.0.1", "192.168.1.1", nattest.Yes, 2},
		{"10.99.0.1", "192.168.1.1", nattest.AnswerUnknown, 2}, // could be a routed network
		{"", "192.168.1.1", nattest.AnswerUnknown, 1},
	} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			l := newLab(t, n, natlab.BoxConfig{Inside: tc.carrier, NAT: &natlab.NATConfig{}}, near, &discovery, nil)
			n.Internet().SetHops(3)
			home := l.box.Inside().Box("home", natlab.BoxConfig{Outside: []string{"172.16.0.2"}, Inside: tc.home, NAT: &natlab.NATConfig{}})
			h := home.Inside().Host("desk", "192.168.1.2")
			r := probe(t, h, beyond(h, ""))
			if r.Verdict.CGN != tc.cgn || r.Verdict.InsideHops != tc.hops || has(r, nattest.SeveralHops) != (tc.cgn != nattest.Yes && tc.hops > 1) {
				t.Errorf("carrier %q: %v, %d hops: %v%+v", tc.carrier, r.Verdict.CGN, r.Verdict.InsideHops, explain(r), r.Observations.Near)
			}
		})
	}
}

func TestPathMTUIsFound(t *testing.T) {
	for mtu, want := range map[int][2]int{1500: {1500, 0}, 1492: {1492, 1500}, 1400: {1400, 1492}, 1300: {1280, 1400}} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			l := newLab(t, n, nat(natlab.NATConfig{}), natlab.LinkConfig{Delay: 50 * time.Millisecond, MTU: mtu}, &discovery, nil)
			start := time.Now()
			r := l.probe(t, beyond(l.client, ""))
			if v := r.Verdict; v.MTU != want[0] || v.MTUBelow != want[1] || has(r, nattest.SmallMTU) != (mtu < 1500) || len(r.Observations.Refused) > 0 {
				t.Errorf("MTU %d: %d to %d: %v%v", mtu, v.MTU, v.MTUBelow, explain(r), r.Observations.Refused)
			}
			if took := time.Since(start); took > 1500*time.Millisecond {
				t.Errorf("MTU %d: took %v", mtu, took)
			}
		})
	}
}

func TestMappingOfTCPIsFound(t *testing.T) {
	for _, m := range []natlab.Mapping{natlab.EIM, natlab.ADM, natlab.APDM} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			l := newLab(t, n, nat(natlab.NATConfig{Mapping: m, Ports: natlab.PortConfig{Order: natlab.Random}}), near, &discovery, nil)
			for i := range 3 {
				streamServer(t, l.server, discovery.At(stun.Corner{Addr: uint8(i & 1), Port: uint8(i >> 1)}).String(), "")
			}
			r := l.probe(t, beyond(l.client, ""))
			if r.Verdict.TCPMapping.String() != m.String() {
				t.Errorf("%v: %v: %v", m, r.Verdict.TCPMapping, explain(r))
			}
		})
	}
}

func TestBlockOfPortsIsMeasured(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		l := newLab(t, n, nat(natlab.NATConfig{Mapping: natlab.APDM, Ports: natlab.PortConfig{Order: natlab.Random, Block: 512}}), near, &discovery, nil)
		r := l.probe(t, nil)
		if b := r.Verdict.Ports.Block; b < 128 || b > 512 || !has(r, nattest.PortBlock) {
			t.Errorf("block of %d: %v", b, explain(r))
		}
	})
}

func TestTunnelsAreNamed(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		l := newLab(t, n, nat(natlab.NATConfig{}), near, &discovery, nil)
		r := l.probe(t, func(c *nattest.Config) {
			c.Tunnels = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("10.8.0.2")} }
		})
		if !has(r, nattest.Tunnel) {
			t.Error(explain(r))
		}
	})
}

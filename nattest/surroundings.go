package nattest

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/stilenet/stile/stun"
)

// Ours to tune.
const (
	surroundTime  = 300 * time.Millisecond // and a round trip: what is near answers sooner
	tracedHops    = 4                      // a home router, a carrier's NAT, and what is beyond
	mapperPackets = 4                      // NAT-PMP, PCP, SSDP to the gateway and to the group
	surroundSent  = tracedHops + mapperPackets
)

// Surroundings are what stands near this machine.
type Surroundings struct {
	Gateway netip.Addr   `json:"gateway"`
	Hops    []netip.Addr `json:"hops,omitempty"` // routers on the way to the server, the nearest first; unset where one is silent
	Mappers []Mapper     `json:"mappers,omitempty"`
	Tunnels []netip.Addr `json:"tunnels,omitempty"` // this machine's addresses on interfaces with one other end
	Missing []string     `json:"missing,omitempty"` // what could not be asked, and why
}

// maySurround begins to ask what stands near as soon as there are packets for it: when the controls have shown that nothing is
// lost, or while nobody answers. With losses the plan needs them first.
func (r *runner) maySurround(ctx context.Context, now time.Time) {
	s := r.s
	if !r.looked.IsZero() || s.budget-s.sent < surroundSent {
		return
	}
	k, f, _ := s.lost(now)
	switch waited := now.Sub(s.begin); {
	case s.replied && k >= controlsAtOnce && f == 0 && waited >= s.patience():
	case !s.replied && waited >= portsAfter:
	default:
		return
	}
	r.startSurround(ctx, now)
}

func (r *runner) startSurround(ctx context.Context, now time.Time) {
	r.looked = now
	if r.cfg.Gateway != nil || r.cfg.Hop != nil {
		r.s.budget -= surroundSent
	}
	look, stop := context.WithCancel(ctx)
	r.stop = stop
	to := r.s.primary
	r.wait.Go(func() { r.surround(look, to) })
}

// awaitSurroundings returns what stands near, and asks for it now if that was not done and packets are left.
func (r *runner) awaitSurroundings(ctx context.Context) near {
	now := time.Now()
	if r.looked.IsZero() {
		if (r.cfg.Gateway != nil || r.cfg.Hop != nil) && r.s.budget-r.s.sent < surroundSent {
			return near{s: Surroundings{Missing: []string{"gateway and hops: losses used the packets up"}}}
		}
		if s := r.s; s.replied && now.Add(surroundTime+s.longest).After(s.deadline()) {
			return near{s: Surroundings{Missing: []string{"gateway and hops: losses used the time up"}}}
		}
		r.startSurround(ctx, now)
	}
	late := time.AfterFunc(time.Until(r.looked.Add(surroundTime+r.s.longest)), r.stop)
	defer late.Stop()
	defer r.stop()
	return <-r.near
}

// surround asks what stands near, and sends the outcome when ctx ends or everything is answered.
func (r *runner) surround(ctx context.Context, to netip.AddrPort) {
	s := Surroundings{}
	if r.cfg.Tunnels != nil {
		s.Tunnels = r.cfg.Tunnels()
	}
	var mutex sync.Mutex
	var wait sync.WaitGroup
	sent := 0
	if r.cfg.Hop != nil {
		hops := make([]netip.Addr, tracedHops)
		sent += tracedHops
		for i := range hops {
			wait.Go(func() {
				var id stun.TransactionID
				rand.Read(id[:])
				b := stun.Begin(nil, stun.NewType(stun.Binding, stun.Request), id)
				a, err := r.cfg.Hop(ctx, to, b.Bytes(), i+1)
				hops[i] = a
				if err != nil && ctx.Err() == nil && i == 0 {
					mutex.Lock()
					s.Missing = append(s.Missing, "hops: "+strings.TrimPrefix(err.Error(), "nattest: "))
					mutex.Unlock()
				}
			})
		}
		defer func() { // below, once all are there
			for i, a := range hops {
				if a == to.Addr() {
					hops = hops[:i]
					break
				}
			}
			for len(hops) > 0 && !hops[len(hops)-1].IsValid() {
				hops = hops[:len(hops)-1]
			}
			s.Hops = hops
			r.near <- near{s, sent}
		}()
	} else {
		defer func() { r.near <- near{s, sent} }()
	}
	if r.cfg.Gateway != nil {
		s.Gateway = r.cfg.Gateway()
	}
	if s.Gateway.Is4() {
		sent += mapperPackets
		found := func(m Mapper) {
			mutex.Lock()
			defer mutex.Unlock()
			for _, o := range s.Mappers {
				if o.Protocol == m.Protocol {
					return
				}
			}
			s.Mappers = append(s.Mappers, m)
		}
		wait.Go(func() { r.askMapper(ctx, s.Gateway, found) })
		if r.cfg.DialContext != nil {
			wait.Go(func() { r.askUPnP(ctx, s.Gateway, found) })
		}
	}
	wait.Wait()
}

// near is the outcome of surround.
type near struct {
	s    Surroundings
	sent int
}

// askMapper asks by NAT-PMP and PCP.
func (r *runner) askMapper(ctx context.Context, gateway netip.Addr, found func(Mapper)) {
	c, err := r.cfg.ListenPacket(ctx, "udp4", ":0")
	if err != nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })()
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(gateway, mapperPort))
	own := netip.IPv4Unspecified()
	for _, a := range r.local {
		if a.Is4() && usable(a) {
			own = a
			break
		}
	}
	c.WriteTo([]byte{0, natpmpExternal}, to)
	c.WriteTo(pcpQuestion(own), to)
	b := make([]byte, 1100) // RFC 6887 §7: no longer
	for answers := 0; answers < 2; {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		if at := addrPort(from); at.Addr() == gateway && at.Port() == mapperPort {
			answers++ // a refusal of the other version is an answer too
			if m, err := parseMapper(b[:n]); err == nil {
				m.At = at
				found(m)
			}
		}
	}
}

// askUPnP searches for an Internet Gateway Device and asks it for its external address.
func (r *runner) askUPnP(ctx context.Context, gateway netip.Addr, found func(Mapper)) {
	c, err := r.cfg.ListenPacket(ctx, "udp4", ":0")
	if err != nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })()
	for _, to := range []netip.Addr{gateway, netip.MustParseAddr(ssdpGroup)} {
		c.WriteTo(ssdpQuestion(to.String()), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, ssdpPort)))
	}
	b := make([]byte, 2048)
	for tries := 0; tries < 8; tries++ {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		at := addrPort(from)
		where, err := parseSSDP(b[:n], at.Addr())
		if err != nil || at.Addr() != gateway { // another device may answer the group; it does not map what we send
			continue
		}
		m := Mapper{Protocol: "upnp", At: at}
		if m.External, err = r.askGatewayDevice(ctx, where); err != nil {
			m.Error = "no external address"
		}
		if ctx.Err() == nil || m.External.IsValid() {
			found(m)
		}
		return
	}
}

// askGatewayDevice reads the description and calls GetExternalIPAddress.
func (r *runner) askGatewayDevice(ctx context.Context, description *url.URL) (netip.Addr, error) {
	t := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return r.cfg.DialContext(ctx, network, hostPort(description))
		}}
	client := http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ask := func(method string, at *url.URL, action, body string) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, method, at.String(), strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		if action != "" {
			req.Header.Set("SOAPACTION", action)
			req.Header.Set("Content-Type", `text/xml; charset="utf-8"`)
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, errMapper
		}
		return io.ReadAll(io.LimitReader(resp.Body, maxDescription))
	}
	b, err := ask(http.MethodGet, description, "", "")
	if err != nil {
		return netip.Addr{}, err
	}
	service, control, err := parseDescription(b, description)
	if err != nil {
		return netip.Addr{}, err
	}
	b, err = ask(http.MethodPost, control, `"`+service+`#GetExternalIPAddress"`, externalQuestion(service))
	if err != nil {
		return netip.Addr{}, err
	}
	return parseExternal(b)
}

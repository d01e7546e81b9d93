//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stilenet/stile/internal/netns"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/turn/client"
)

// player is an application on a host of the laboratory.
type player struct {
	t    *testing.T
	host *netns.Host
	nc   *flash.NetConnection

	mu     sync.Mutex
	events []flash.NetStatusEvent
}

// newPlayer makes a player; proxy is the TURN proxy that its mms.cfg names, or "".
func newPlayer(t *testing.T, h *netns.Host, proxy, network string) *player {
	t.Helper()
	p := &player{t: t, host: h}
	cfg := flash.Config{
		ListenPacket:   h.ListenPacket,
		InterfaceAddrs: func() ([]netip.Addr, error) { return h.IPs(), nil },
		LookupNetIP: func(_ context.Context, _, host string) ([]netip.Addr, error) {
			a, err := netip.ParseAddr(host)
			return []netip.Addr{a}, err
		},
	}
	if proxy != "" {
		cfg.MMS.Proxy = proxy
		cfg.DialRelay = func(ctx context.Context, server string) (net.PacketConn, error) {
			return client.Dial(ctx, client.Config{Server: server, Network: network, ListenPacket: h.ListenPacket, DialContext: h.Dial})
		}
	}
	p.nc = flash.NewNetConnection(cfg)
	p.nc.OnNetStatus = func(ev flash.NetStatusEvent) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.events = append(p.events, ev)
	}
	t.Cleanup(func() { _ = p.nc.Close() })
	return p
}

func (p *player) connect(url string) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	return p.nc.Connect(ctx, url)
}

func (p *player) mustConnect(url string) *player {
	p.t.Helper()
	if err := p.connect(url); err != nil {
		p.t.Fatalf("%s: %v", p.host.Name(), err)
	}
	return p
}

func (p *player) waitEvent(code string) flash.NetStatusEvent {
	p.t.Helper()
	for range 3000 {
		p.mu.Lock()
		for _, ev := range p.events {
			if ev.Code == code {
				p.mu.Unlock()
				return ev
			}
		}
		p.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
	p.t.Fatalf("no %s", code)
	return flash.NetStatusEvent{}
}

// watch has q play what p publishes, and returns the way of their session when data has come.
func watch(t *testing.T, p, q *player, name string) flash.Path {
	t.Helper()
	out := flash.NewNetStream(p.nc, flash.DirectConnections)
	if err := out.Publish(name); err != nil {
		t.Fatal(err)
	}
	in := flash.NewNetStream(q.nc, p.nc.NearID())
	came := make(chan struct{}, 100)
	in.Client = map[string]func([]any){"hello": func([]any) { came <- struct{}{} }}
	if err := in.Play(name); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(40 * time.Second)
	for len(out.PeerStreams()) == 0 {
		if time.Now().After(end) {
			t.Fatalf("%s does not reach %s", q.host.Name(), p.host.Name())
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := out.Send("hello", "there"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-came:
	case <-time.After(20 * time.Second):
		t.Fatal("no data came")
	}
	return in.Info().Path
}

// stile runs a control command on a host of the laboratory.
func stile(t *testing.T, h *netns.Host, args ...string) string {
	t.Helper()
	out, err := h.Command(t.Context(), binary, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("stile %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestTwoPlayersBehindNATsAreIntroducedAndDirect(t *testing.T) {
	lab := netns.New(t)
	inet := lab.Internet()
	server := inet.Host("server", "203.0.113.1", "203.0.113.2", "203.0.113.3")
	state := t.TempDir()
	serve(t, server, "--state.dir="+state, "--rendezvous.addresses=203.0.113.1,203.0.113.2,203.0.113.3", "--rendezvous.listen=udp://203.0.113.1:1935",
		"--turn.relay.addresses=203.0.113.1", "--stun.alternate.port=0")
	a := newPlayer(t, inet.Site(netns.SiteConfig{Name: "home", NAT: netns.Masquerade, Public: "192.0.2.1", LAN: "10.0.1.0/24"}).Host("ann"), "", "")
	b := newPlayer(t, inet.Site(netns.SiteConfig{Name: "flat", NAT: netns.PortRange, Public: "192.0.2.2", LAN: "10.0.2.0/24"}).Host("bob"), "", "")
	const url = "rtmfp://203.0.113.1/any-key"
	a.mustConnect(url)
	b.mustConnect(url)
	if path := watch(t, a, b, "cam"); path.Relayed || path.Remote.Addr() != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("bob's session with ann takes %+v", path)
	}

	// The control commands know them.
	list := stile(t, server, "sessions", "--json", "--state.dir="+state)
	var sessions struct {
		Rendezvous []struct {
			PeerID     string `json:"peer_id"`
			Client     string `json:"client"`
			Introduced int    `json:"introduced"`
		}
	}
	if err := json.Unmarshal([]byte(list), &sessions); err != nil || len(sessions.Rendezvous) != 2 {
		t.Errorf("%v\n%s", err, list)
	}
	for _, s := range sessions.Rendezvous {
		if s.PeerID == a.nc.NearID().String() && (s.Introduced == 0 || !strings.HasPrefix(s.Client, "192.0.2.1:")) {
			t.Errorf("ann: %+v", s)
		}
	}
	if text := stile(t, server, "status", "--state.dir="+state); !strings.Contains(text, "2 sessions of at most 1,000,000, 2 peers") || !strings.Contains(text, "made ") {
		t.Errorf("status:\n%s", text)
	}

	// The exchange of IDs takes a name from ann's network, and from nowhere else.
	ask := func(p *player, query string) string {
		c := http.Client{Transport: &http.Transport{DialContext: p.host.Dial, DisableKeepAlives: true}, Timeout: 10 * time.Second}
		r, err := c.Get("http://203.0.113.1:8935/?" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if text := ask(b, "username=ann&identity="+a.nc.NearID().String()); !strings.Contains(text, "<update>false</update>") {
		t.Error(text)
	}
	if text := ask(a, "username=ann&identity="+a.nc.NearID().String()); !strings.Contains(text, "<result><update>true</update></result>") {
		t.Error(text)
	}
	if text, want := ask(b, "friends=ann"), fmt.Sprintf("<result><friend><user>ann</user><identity>%s</identity></friend></result>", a.nc.NearID()); !strings.Contains(text, want) {
		t.Error(text)
	}

	// The connectivity check knows the NAT.
	c := newPlayer(t, a.host, "", "").mustConnect("rtmfp://203.0.113.1/cc")
	results := c.waitEvent(flash.NetConnectionConnectivityCheck)
	for name, want := range map[string]any{
		"publicAddressIsLocal": false, "receiveSameAddressDifferentPortAllowed": false, "receiveDifferentAddressDifferentPortAllowed": false,
		"sendAfterIntroductionAllowed": true, "sendAfterIntroductionPreservesSourceAddress": true, "sendAfterIntroductionPreservesSourcePort": true,
	} {
		if got, _ := results.Info.Get(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestAPlayerThatReachesTheRendezvousOnlyThroughTheProxyMeetsAPeer(t *testing.T) {
	for _, c := range []struct{ network, rule string }{{"udp", "udp dport 3478"}, {"tcp", "tcp dport 3478"}} {
		t.Run(c.network, func(t *testing.T) {
			o := newOffice(t, c.rule)
			o.firewall.NFT(t.Context(), "insert rule inet fw forward iifname wan oifname dmz udp dport 1935 accept\n")
			serve(t, o.proxy)
			const url = "rtmfp://198.51.100.2/any-key"
			desk := newPlayer(t, o.desks[0], "198.51.100.2:3478", c.network).mustConnect(url)
			friend := newPlayer(t, o.inet.Site(netns.SiteConfig{Name: "home", NAT: netns.Masquerade, Public: "192.0.2.30", LAN: "10.0.3.0/24"}).Host("friend"), "", "").mustConnect(url)
			if relay, ok := desk.nc.Relay(); !ok || relay.Addr() != netip.MustParseAddr("198.51.100.2") {
				t.Fatalf("relay %v", relay)
			}
			watch(t, desk, friend, "cam")
			watch(t, friend, desk, "cam")
		})
	}
}

func TestKeysAreManagedWhileTheServerRunsAndWhileItDoesNot(t *testing.T) {
	lab := netns.New(t)
	server := lab.Internet().Host("server", "203.0.113.1")
	state := t.TempDir()
	at := "--state.dir=" + state
	first := strings.TrimSpace(stile(t, server, "keys", "add", "offline", "--sessions=1", at)) // on the file
	if len(first) != 32 {
		t.Fatalf("a key of %d characters: %s", len(first), first)
	}
	cmd := server.Command(t.Context(), binary, "serve", at, "--rendezvous.keys.required=true", "--log.format=json")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if err := cmd.WaitLog(ctx, "with one of 1 keys"); err != nil {
		t.Fatalf("%v\n%s", err, cmd.Log())
	}
	if err := cmd.WaitLog(ctx, "RTMFPTURNProxy="); err != nil {
		t.Fatalf("%v\n%s", err, cmd.Log())
	}
	second := strings.TrimSpace(stile(t, server, "keys", "add", "online", "--expires=30d", at)) // by the server
	for _, key := range []string{first, second} {
		newPlayer(t, server, "", "").mustConnect("rtmfp://203.0.113.1/" + key)
	}
	for _, key := range []string{"wrong", first} {
		err := newPlayer(t, server, "", "").connect("rtmfp://203.0.113.1/" + key)
		if err == nil || !strings.Contains(err.Error(), flash.NetConnectionConnectFailed) {
			t.Errorf("%.8s: %v", key, err)
		}
	}
	if err := cmd.WaitLog(ctx, `"reason":"key_unknown"`); err != nil {
		t.Errorf("%v\n%s", err, cmd.Log())
	}
	if strings.Contains(cmd.Log(), first) || strings.Contains(cmd.Log(), second) {
		t.Error("a key is in the log")
	}
	if text := stile(t, server, "keys", "list", at); !strings.Contains(text, "offline") || !strings.Contains(text, "online") || strings.Contains(text, first) {
		t.Errorf("keys list:\n%s", text)
	}
	stile(t, server, "keys", "revoke", "online", at)
	if err := newPlayer(t, server, "", "").connect("rtmfp://203.0.113.1/" + second); err == nil {
		t.Error("a revoked key was taken")
	}
	if out, err := server.Command(t.Context(), binary, "keys", "add", "offline", at).CombinedOutput(); err == nil || !strings.Contains(string(out), "there is a key of this name") {
		t.Errorf("%v %s", err, out)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if text := stile(t, server, "keys", "list", at); !strings.Contains(text, "offline") || strings.Contains(text, "online") {
		t.Errorf("keys list:\n%s", text)
	}
}

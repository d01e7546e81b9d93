//go:build e2e

package main

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stilenet/stile/internal/netns"
	"github.com/stilenet/stile/turn/client"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "stile-e2e")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "stile")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// office is the administrator's case: clients on a LAN whose firewall lets no UDP of theirs to the internet, and a proxy in the
// DMZ, which may send.
//
//	LAN 10.0.0.0/24 ── firewall ── internet: peer 203.0.113.7
//	                      └─ DMZ 198.51.100.0/29: proxy 198.51.100.2
type office struct {
	lab      *netns.Lab
	inet     *netns.Internet
	firewall *netns.Host
	proxy    *netns.Host
	desks    [2]*netns.Host
	peer     *netns.Host
}

func newOffice(t *testing.T, lanToProxy string) *office {
	o := &office{lab: netns.New(t)}
	o.inet = o.lab.Internet()
	o.peer = o.inet.Host("peer", "203.0.113.7")
	o.firewall = o.lab.Router("firewall")
	o.inet.Attach(o.firewall.At("192.0.2.10/32").Named("wan"))
	o.inet.Router.Route("198.51.100.0/29", "192.0.2.10")
	o.proxy = o.lab.Host("proxy")
	o.lab.Link(o.firewall.At("198.51.100.1/29").Named("dmz"), o.proxy.At("198.51.100.2/29"))
	o.proxy.Route("default", "198.51.100.1")
	ends := []netns.End{o.firewall.At("10.0.0.1/24").Named("lan")}
	for i, addr := range []string{"10.0.0.11/24", "10.0.0.12/24"} {
		o.desks[i] = o.lab.Host("desk" + string(rune('1'+i)))
		ends = append(ends, o.desks[i].At(addr))
	}
	o.lab.Switch("lan", ends...)
	for _, d := range o.desks {
		d.Route("default", "10.0.0.1")
	}
	o.firewall.NFT(t.Context(), `
table inet fw {
	counter refused { }
	chain forward {
		type filter hook forward priority 0
		policy drop
		ct state established,related accept
		iifname "lan" oifname "dmz" `+lanToProxy+` accept
		iifname "dmz" oifname "wan" meta l4proto udp accept
		iifname "wan" oifname "dmz" ip daddr 198.51.100.2 udp dport 49152-65535 accept
		iifname "lan" oifname "wan" meta l4proto tcp accept
		counter name refused
	}
	chain postrouting {
		type nat hook postrouting priority 100
		iifname "lan" oifname "wan" masquerade
	}
}
`)
	return o
}

// anyPayload is for tests whose clients and peers exchange words. TestTheProxyAsItComesCarriesPlayersAndNothingElse has the default.
const anyPayload = "--turn.peers.payload=any"

// serve starts the built program on a host and returns once it has said what it does.
func serve(t *testing.T, h *netns.Host, args ...string) *netns.Cmd {
	t.Helper()
	args = append([]string{"serve", "--state.dir=" + t.TempDir()}, args...)
	cmd := h.Command(t.Context(), binary, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if err := cmd.WaitLog(ctx, "RTMFPTURNProxy="); err != nil {
		t.Fatalf("%v\n%s", err, cmd.Log())
	}
	return cmd
}

func dial(t *testing.T, h *netns.Host, server, network string) *client.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := client.Dial(ctx, client.Config{Server: server, Network: network, ListenPacket: h.ListenPacket, DialContext: h.Dial})
	if err != nil {
		t.Fatalf("allocate at %s over %q: %v", server, network, err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func listen(t *testing.T, h *netns.Host, address string) net.PacketConn {
	t.Helper()
	conn, err := h.ListenPacket(t.Context(), "udp4", address)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// hello is what expect passes over.
const hello = "hello"

// meet sends until both have heard each other: whichever permission is opened last, an earlier datagram is dropped.
//
// toB is where a sends to reach b, toA the other way round.
func meet(t *testing.T, a net.PacketConn, toB net.Addr, b net.PacketConn, toA net.Addr) {
	t.Helper()
	for _, at := range []net.PacketConn{a, b} {
		for try := 0; ; try++ {
			tell(t, a, hello, toB)
			tell(t, b, hello, toA)
			_ = at.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if _, _, err := at.ReadFrom(make([]byte, 100)); err == nil {
				break
			} else if try == 50 {
				t.Fatalf("%v hears nothing: %v", at.LocalAddr(), err)
			}
		}
	}
}

// expect reads one datagram, and checks what it says and, if from is not nil, who sent it.
func expect(t *testing.T, conn net.PacketConn, text string, from net.Addr) net.Addr {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 2000)
	var n int
	var addr net.Addr
	for n == 0 || string(buf[:n]) == hello {
		var err error
		if n, addr, err = conn.ReadFrom(buf); err != nil {
			t.Fatalf("waiting for %q: %v", text, err)
		}
	}
	if string(buf[:n]) != text || from != nil && addr.String() != from.String() {
		t.Fatalf("got %q from %v, want %q from %v", buf[:n], addr, text, from)
	}
	return addr
}

func tell(t *testing.T, conn net.PacketConn, text string, to net.Addr) {
	t.Helper()
	if _, err := conn.WriteTo([]byte(text), to); err != nil {
		t.Fatalf("send %q: %v", text, err)
	}
}

// converse exchanges enough datagrams both ways that the client binds a channel on the way.
func converse(t *testing.T, relay *client.Conn, peer net.PacketConn) {
	t.Helper()
	for range 40 {
		tell(t, relay, "from the desk", peer.LocalAddr())
		expect(t, peer, "from the desk", relay.LocalAddr())
		tell(t, peer, "from the peer", relay.LocalAddr())
		expect(t, relay, "from the peer", peer.LocalAddr())
	}
}

func TestDeskReachesAPeerThroughTheProxyOverUDP(t *testing.T) {
	o := newOffice(t, "meta l4proto { tcp, udp } th dport 3478")
	cmd := serve(t, o.proxy, anyPayload)
	for _, want := range []string{"udp://:3478", "tcp://:3478", "10.0.0.0/8", "the public internet by the default route",
		"198.51.100.2 ports 49152-65535", "at most ", "RTMFPTURNProxy=198.51.100.2\n"} {
		if !strings.Contains(cmd.Log(), want) {
			t.Errorf("the start page does not say %q:\n%s", want, cmd.Log())
		}
	}
	peer := listen(t, o.peer, "203.0.113.7:19350")
	direct := listen(t, o.desks[0], "10.0.0.11:0")
	tell(t, direct, "direct", peer.LocalAddr())
	relay := dial(t, o.desks[0], "198.51.100.2", "udp")
	if a := netip.MustParseAddrPort(relay.LocalAddr().String()); a.Addr() != netip.MustParseAddr("198.51.100.2") {
		t.Errorf("relayed address %v", a)
	}
	converse(t, relay, peer) // and nothing of the direct try is in between
	if n, _, err := o.firewall.Counter(t.Context(), "refused"); err != nil || n == 0 {
		t.Errorf("the firewall refused %d packets, %v: the direct try should be one", n, err)
	}
	// Ends as an administrator ends it, and says who was there.
	relay.Close()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if log := cmd.Log(); !strings.Contains(log, "10.0.0.11") || !strings.Contains(log, "released") {
		t.Errorf("no line about the session that ended:\n%s", log)
	}
}

func TestDeskReachesAPeerWhereTheFirewallLetsOnlyTCPToTheProxy(t *testing.T) {
	o := newOffice(t, "tcp dport 3478")
	serve(t, o.proxy, anyPayload)
	peer := listen(t, o.peer, "203.0.113.7:19350")
	relay := dial(t, o.desks[0], "198.51.100.2", "") // tries UDP first, as a player does
	if network := relay.ServerAddr().Network(); network != "tcp" {
		t.Errorf("the proxy was reached over %s", network)
	}
	converse(t, relay, peer)
}

func TestTwoDesksReachEachOtherThroughOneProxy(t *testing.T) {
	o := newOffice(t, "meta l4proto { tcp, udp } th dport 3478")
	serve(t, o.proxy, anyPayload)
	one := dial(t, o.desks[0], "198.51.100.2", "udp")
	two := dial(t, o.desks[1], "198.51.100.2", "tcp")
	meet(t, one, two.LocalAddr(), two, one.LocalAddr())
	converse(t, one, two)
}

func TestClientBehindASymmetricNATReachesAPortRestrictedPeer(t *testing.T) {
	o := newOffice(t, "meta l4proto { tcp, udp } th dport 3478")
	o.firewall.NFT(t.Context(), `
table inet fw {
	chain forward {
		iifname "wan" oifname "dmz" ip daddr 198.51.100.2 meta l4proto { tcp, udp } th dport 3478 accept
	}
}
`)
	// The added rule stands behind the counter; the chain's policy is drop, so it still decides.
	serve(t, o.proxy, anyPayload, "--turn.clients=10.0.0.0/8,192.0.2.20")
	branch := o.inet.Site(netns.SiteConfig{Name: "branch", NAT: netns.FullyRandom, Public: "192.0.2.20", LAN: "10.0.2.0/24"})
	home := o.inet.Site(netns.SiteConfig{Name: "home", NAT: netns.Masquerade, Public: "192.0.2.30", LAN: "10.0.3.0/24"})
	player, friend := branch.Host("player"), home.Host("friend")

	// The introducer sees both as NATs show them.
	introducer := listen(t, o.inet.Host("introducer", "203.0.113.9"), "203.0.113.9:1935")
	theirs := listen(t, friend, friend.IPs()[0].String()+":0")
	tell(t, theirs, "here I am", introducer.LocalAddr())
	friendPublic := expect(t, introducer, "here I am", nil)
	ours := listen(t, player, player.IPs()[0].String()+":0")
	tell(t, ours, "and I", introducer.LocalAddr())
	playerPublic := expect(t, introducer, "and I", nil)

	// Directly it does not work: the symmetric NAT uses another port towards the friend.
	for range 5 {
		tell(t, ours, "direct", friendPublic)
		tell(t, theirs, "direct", playerPublic)
		time.Sleep(20 * time.Millisecond)
	}
	_ = theirs.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, from, err := theirs.ReadFrom(make([]byte, 100)); err == nil {
		t.Fatalf("the laboratory is wrong: %d bytes came directly from %v", n, from)
	}

	relay := dial(t, player, "198.51.100.2", "udp")
	meet(t, relay, friendPublic, theirs, relay.LocalAddr()) // opens the permission here and the NAT there
	for range 20 {
		tell(t, relay, "to the friend", friendPublic)
		expect(t, theirs, "to the friend", relay.LocalAddr())
		tell(t, theirs, "to the player", relay.LocalAddr())
		expect(t, relay, "to the player", friendPublic)
	}
}

func TestStrangersOfTheInternetAreNotServed(t *testing.T) {
	o := newOffice(t, "udp dport 3478")
	o.firewall.NFT(t.Context(), `
table inet fw {
	chain forward {
		iifname "wan" oifname "dmz" ip daddr 198.51.100.2 udp dport 3478 accept
	}
}
`)
	serve(t, o.proxy)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if conn, err := client.Dial(ctx, client.Config{Server: "198.51.100.2", Network: "udp", ListenPacket: o.peer.ListenPacket}); err == nil {
		conn.Close()
		t.Error("a client with a public address got an allocation")
	}
}

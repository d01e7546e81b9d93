//go:build e2e && linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/internal/netns"
	"github.com/stilenet/stile/turn/client"
)

// wiring sets a property of an interface of a host.
func wiring(t *testing.T, h *netns.Host, iface string, command, value uint32) {
	t.Helper()
	err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		arg := struct{ cmd, data uint32 }{command, value}
		req := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&arg)}
		copy(req.name[:unix.IFNAMSIZ-1], iface)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// crossing is a proxy between two networks, with a client in one and a peer in the other.
//
//	client 10.0.0.2 ── 10.0.0.1 proxy 203.0.113.1 ── 203.0.113.2 peer
type crossing struct {
	*desk
	peer *netns.Host
}

// newCrossing makes the far ends take what a program sends (GRO), and compute the checksums of what they send, as on a wire.
func newCrossing(t *testing.T, args ...string) *crossing {
	lab := netns.New(t)
	c := &crossing{desk: &desk{proxy: lab.Host("proxy"), client: lab.Host("client"), state: t.TempDir()}, peer: lab.Host("peer")}
	lab.Link(c.client.At("10.0.0.2/24", "fd00:1::2/64").Named("net"), c.proxy.At("10.0.0.1/24", "fd00:1::1/64").Named("inside"))
	lab.Link(c.peer.At("203.0.113.2/24", "2001:db8::2/64").Named("net"), c.proxy.At("203.0.113.1/24", "2001:db8::1/64").Named("outside"))
	for _, h := range []*netns.Host{c.client, c.peer} {
		wiring(t, h, "net", unix.ETHTOOL_SGRO, 1)
		wiring(t, h, "net", unix.ETHTOOL_STXCSUM, 0)
	}
	c.write(t, c.config(""))
	c.start(t, args...)
	return c
}

func (c *crossing) config(peers string) string {
	return "turn: {listen: ['udp://:3478'], relay: {addresses: [203.0.113.1, '2001:db8::1']}, peers: {profile: lab" + peers + "}}\n"
}

func (c *crossing) start(t *testing.T, args ...string) {
	t.Helper()
	c.cmd = c.proxy.Command(t.Context(), binary, append([]string{"serve", "--config=" + c.file(), "--state.dir=" + c.state}, args...)...)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go c.cmd.Wait()
	c.waitLog(t, "RTMFPTURNProxy=")
}

// offloadOf is what the server says of its offload.
type offloadOf struct {
	Running bool
	Text    string
	Flows   int
	Packets uint64 // that it has relayed
	Read    uint64
}

func (c *crossing) offload(t *testing.T) offloadOf {
	t.Helper()
	var s struct {
		Engine  struct{ Offload offloadOf }
		Traffic struct {
			Offloaded   uint64
			PacketsRead uint64 `json:"packets_read"`
		}
	}
	if err := json.Unmarshal([]byte(c.must(t, "status", "--json")), &s); err != nil {
		t.Fatal(err)
	}
	o := s.Engine.Offload
	o.Packets, o.Read = s.Traffic.Offloaded, s.Traffic.PacketsRead
	return o
}

// fewDoubts is how many packets of an offloaded flow may come to the server all the same: when two processors ask for its route at once.
const fewDoubts = 4

// call is a client and a peer that have heard each other.
type call struct {
	client *client.Conn
	peer   net.PacketConn
}

func (c *crossing) call(t *testing.T, server, peer string, channel bool) *call {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cfg := client.Config{Server: server, Network: "udp", ListenPacket: c.client.ListenPacket, ChannelAfter: -1}
	if channel {
		cfg.ChannelAfter = 1
	}
	conn, err := client.Dial(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	far, err := c.peer.ListenPacket(t.Context(), "udp", peer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	if channel {
		if err := conn.Bind(ctx, far.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
			t.Fatal(err)
		}
	}
	x := &call{conn, far}
	meet(t, conn, far.LocalAddr(), far, conn.LocalAddr())
	return x
}

// talk sends n datagrams of a size each way and checks each.
func (x *call) talk(t *testing.T, n, size int) {
	t.Helper()
	for i := range n {
		text := string(bytes.Repeat([]byte{byte('a' + i%26)}, size-8)) + fmt.Sprintf("%08d", i)
		tell(t, x.client, text, x.peer.LocalAddr())
		expect(t, x.peer, text, x.client.LocalAddr())
		tell(t, x.peer, text, x.client.LocalAddr())
		expect(t, x.client, text, x.peer.LocalAddr())
	}
}

func TestEstablishedFlowsNeverReachTheServer(t *testing.T) {
	c := newCrossing(t)
	o := c.offload(t)
	if !o.Running || o.Text != "XDP on inside, outside" && o.Text != "XDP on outside, inside" {
		t.Fatalf("%+v", o)
	}
	if !strings.Contains(c.cmd.Log(), "XDP on") {
		t.Errorf("the start page does not say that the offload runs:\n%s", c.cmd.Log())
	}
	for _, ends := range [][2]string{{"10.0.0.1:3478", "203.0.113.2:0"}, {"[fd00:1::1]:3478", "[2001:db8::2]:0"}} {
		for _, channel := range []bool{true, false} {
			x := c.call(t, ends[0], ends[1], channel)
			x.talk(t, 5, 100)
			before := c.offload(t)
			const n = 40
			x.talk(t, n, 1200)
			after := c.offload(t)
			if got := after.Packets - before.Packets; got < 2*n-fewDoubts || got > 2*n {
				t.Errorf("%v, channel %v: %d of %d packets were offloaded\n%s", ends, channel, got, 2*n, c.must(t, "status"))
			}
			if got := after.Read - before.Read; got < 2*n || got > 2*n+20 { // and what the client refreshes
				t.Errorf("%v, channel %v: %d packets counted", ends, channel, got)
			}
			// What fits into no packet of the way is the engine's.
			x.talk(t, 3, 1472)
		}
	}
}

func TestAFlowEndsWithItsPermission(t *testing.T) {
	c := newCrossing(t)
	x := c.call(t, "10.0.0.1:3478", "203.0.113.2:0", true)
	x.talk(t, 10, 200)
	if o := c.offload(t); o.Flows == 0 || o.Packets == 0 {
		t.Fatalf("%+v", o)
	}
	c.write(t, c.config(", deny: [203.0.113.2/32]"))
	c.must(t, "reload")
	if o := c.offload(t); o.Flows != 0 {
		t.Errorf("%d flows to a peer that is denied now", o.Flows)
	}
	for range 3 {
		tell(t, x.client, "up", x.peer.LocalAddr())
		tell(t, x.peer, "down", x.client.LocalAddr())
	}
	for _, conn := range []net.PacketConn{x.client, x.peer} {
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		buf := make([]byte, 100)
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				break
			}
			if string(buf[:n]) != hello { // of the beginning
				t.Errorf("%q reached %v", buf[:n], conn.LocalAddr())
			}
		}
	}
}

// TestTheEngineRelaysWhatTheOffloadCannot: unfinished checksums of a sender on this machine, neighbours that are not known yet, and interfaces that
// take no program.
func TestTheEngineRelaysWhatTheOffloadCannot(t *testing.T) {
	c := newCrossing(t, "--turn.offload_interfaces=inside,outside,nowhere")
	if o := c.offload(t); !o.Running || !strings.Contains(o.Text, "nowhere: there is no such interface") {
		t.Errorf("%+v", o)
	}
	for _, h := range []*netns.Host{c.client, c.peer} {
		wiring(t, h, "net", unix.ETHTOOL_STXCSUM, 1)
	}
	x := c.call(t, "10.0.0.1:3478", "203.0.113.2:0", true)
	before := c.offload(t)
	x.talk(t, 20, 300)
	if got := c.offload(t).Packets - before.Packets; got != 0 {
		t.Errorf("%d packets without their checksum were offloaded", got)
	}
	for _, h := range []*netns.Host{c.client, c.peer} {
		wiring(t, h, "net", unix.ETHTOOL_STXCSUM, 0)
	}
	x.talk(t, 20, 300)
	if got := c.offload(t).Packets - before.Packets; got < 40-fewDoubts || got > 40 {
		t.Errorf("%d of 40 packets were offloaded", got)
	}
	if out, err := c.proxy.Command(t.Context(), "ip", "neigh", "flush", "all").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	x.talk(t, 20, 300)
}

func TestWithoutAnInterfaceForItTheServerSaysSoAndServes(t *testing.T) {
	c := newCrossing(t, "--turn.offload_interfaces=lo,nowhere")
	o := c.offload(t)
	if o.Running || !strings.Contains(o.Text, "nowhere: there is no such interface") {
		t.Errorf("%+v", o)
	}
	if out := c.must(t, "status"); !strings.Contains(out, "nowhere") {
		t.Errorf("status does not say why:\n%s", out)
	}
	c.call(t, "10.0.0.1:3478", "203.0.113.2:0", true).talk(t, 10, 300)
}

// TestAKilledServerLeavesNoProgram on its interfaces, and the next one begins as if there had been none.
func TestAKilledServerLeavesNoProgram(t *testing.T) {
	c := newCrossing(t)
	c.call(t, "10.0.0.1:3478", "203.0.113.2:0", true).talk(t, 10, 200)
	attached := func() string {
		out, err := c.proxy.Command(t.Context(), "ip", "-details", "link", "show").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	if !strings.Contains(attached(), "prog/xdp") {
		t.Fatalf("no program before:\n%s", attached())
	}
	if err := c.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); strings.Contains(attached(), "prog/xdp"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a program is left:\n%s", attached())
		}
	}
	c.start(t)
	c.call(t, "10.0.0.1:3478", "203.0.113.2:0", false).talk(t, 10, 200)
	if o := c.offload(t); !o.Running || o.Packets == 0 {
		t.Errorf("%+v", o)
	}
}

package dataplane

import (
	"context"
	"net"
	"net/netip"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn"
)

var loopback2 = netip.MustParseAddr("127.0.0.2")

// discoveryConfig is socketConfig with two ports on all addresses, of which discovery knows two. The system has chosen the ports, which are free
// but for programs that start in between.
func discoveryConfig(t testing.TB, shards int) Config {
	t.Helper()
	cfg := socketConfig(t)
	cfg.Shards = shards
	d := &cfg.Discovery[0]
	d.Addrs = [2]turn.RelayAddress{{Public: loopback, Local: loopback}, {Public: loopback2, Local: loopback2}}
	d.Listeners = [2][2]uint16{{0, 1}, {0, 1}}
	cfg.Listeners = nil
	for p := range d.Ports {
		c, err := net.ListenPacket("udp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		d.Ports[p] = addrPort(c.LocalAddr()).Port()
		cfg.Listeners = append(cfg.Listeners, Listener{Network: "udp", Address: netip.AddrPortFrom(netip.IPv6Unspecified(), d.Ports[p]), BindingOnly: p == 1})
	}
	return cfg
}

func bindingRequest(id byte, change uint32) []byte {
	b := stun.Begin(nil, stun.NewType(stun.Binding, stun.Request), stun.TransactionID{id})
	if change != 0 {
		b.Uint32(stun.AttrChangeRequest, change)
	}
	return b.Bytes()
}

// Each shard has sockets of all corners, so it does not matter which shard the kernel gives a request to.
func TestDiscoveryLeavesByTheSocketAskedForFromEveryShard(t *testing.T) {
	cfg := discoveryConfig(t, 3)
	s := startSocket(t, cfg)
	d := cfg.Discovery[0]
	corner := func(i int) netip.AddrPort { return netip.AddrPortFrom(d.Addrs[i/2].Local, d.Ports[i%2]) }
	const clients = 12
	for range clients {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for at := range 4 {
			for change := range 4 {
				id := byte(at<<4 | change)
				if _, err := c.WriteToUDPAddrPort(bindingRequest(id, stun.ChangeRequest(change&2 != 0, change&1 != 0)), corner(at)); err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 500)
				c.SetReadDeadline(time.Now().Add(10 * time.Second))
				n, from, err := c.ReadFromUDPAddrPort(b)
				if err != nil {
					t.Fatalf("at %v, change %d: %v", corner(at), change, err)
				}
				m, err := stun.Parse(b[:n])
				other, _ := m.Get(stun.AttrOtherAddress)
				if o, _ := stun.Address(other); err != nil || from != corner(at^change) || m.TransactionID()[0] != id || o != corner(at^3) {
					t.Errorf("at %v, change %d: from %v, %x", corner(at), change, from, b[:n])
				}
			}
		}
	}
	stats, err := s.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if n := stats.Packets[turn.AnsweredBinding]; n != clients*16 || stats.Read != n {
		t.Errorf("%d requests read, %d answered", stats.Read, n)
	}
	shards := 0
	for i := range cfg.Shards {
		s.on(t, i, func(x *shard) {
			if st := x.core.Stats(); st.Read > 0 {
				shards++
			}
		})
	}
	if shards < 2 {
		t.Errorf("all requests came to one shard")
	}
}

// A shard that is not running, whose sockets have what a client has sent: a benchmark of everything but the waiting.
func benchShard(t testing.TB) (*shard, *net.UDPConn, Config) {
	t.Helper()
	cfg := discoveryConfig(t, 1)
	s, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, cfg.Discovery[0].Ports[0])))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return s.shard(0), c, cfg
}

func TestABindingRequestThroughTheEngineAllocatesNothing(t *testing.T) {
	x, c, _ := benchShard(t)
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	b := bindingRequest(1, 6)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	if err := raw.Control(func(fd uintptr) {
		sent := func() {
			for range 8 {
				if _, err := unix.SendmsgN(int(fd), b, nil, nil, 0); err != nil {
					t.Error(err)
				}
			}
		}
		sent()
		x.round(x.poll.sleep(1000))
		if n := testing.AllocsPerRun(100, func() { sent(); x.round(x.poll.sleep(1000)) }); n != 0 {
			t.Errorf("%v allocations for 8 requests", n)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if s := x.core.Stats(); s.Packets[turn.AnsweredBinding] != s.Read || s.Read < 800 {
		t.Errorf("%d read, %d answered", s.Read, s.Packets[turn.AnsweredBinding])
	}
}

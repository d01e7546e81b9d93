//go:build e2e && linux

package dataplane

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/internal/netns"
	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn"
)

// TestKernelEnginePassesTheTestsOfTheSocketEngine but for the one about descriptors.
func TestKernelEnginePassesTheTestsOfTheSocketEngine(t *testing.T) {
	var names []string
	for _, file := range []string{"socket_linux_test.go", "socket_stream_linux_test.go"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(b), -1) {
			names = append(names, m[1])
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^("+strings.Join(names, "|")+")$", "-test.skip=TestDescriptorTableIsLargeFromTheStart", "-test.v")
	cmd.Env = append(os.Environ(), engineVariable+"=kernel")
	out, err := cmd.CombinedOutput()
	if n := bytes.Count(out, []byte("\n--- PASS: ")); err != nil || n < len(names)-2 {
		t.Errorf("%d of %d tests pass: %v\n%s", n, len(names), err, out)
	}
}

// TestRelayedPortsInUseAreNobodyElses and are anybody's before and after.
func TestRelayedPortsInUseAreNobodyElses(t *testing.T) {
	cfg := socketConfig(t)
	cfg.Engine = Kernel
	s := startEngine(t, cfg)
	for _, relay := range []struct {
		listener int
		inet6    bool
	}{{0, false}, {2, true}} {
		conn := dial(t, "udp", s.address(relay.listener))
		relayed := allocate(t, conn)
		places := []string{relayed.String(), fmt.Sprintf("[::]:%d", relayed.Port())}
		if !relay.inet6 {
			places = append(places, fmt.Sprintf("0.0.0.0:%d", relayed.Port()))
		}
		for _, at := range places {
			if c, err := net.ListenPacket("udp", at); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("bind to %s: %v", at, err)
				if err == nil {
					c.Close()
				}
			}
		}
		for _, at := range []string{fmt.Sprintf("127.0.0.2:%d", relayed.Port()), netip.AddrPortFrom(relayed.Addr(), relayed.Port()^1).String()} {
			c, err := net.ListenPacket("udp", at)
			if err != nil {
				t.Errorf("bind to %s, which is not relayed: %v", at, err)
				continue
			}
			c.Close()
		}
		if m := ask(t, conn, request(stun.Refresh, stun.Request, 9, func(b *stun.Builder) { b.Uint32(stun.AttrLifetime, 0) })); m.Class() != stun.Success {
			t.Fatalf("release: %x", m.Raw())
		}
		for _, at := range places {
			c, err := net.ListenPacket("udp", at)
			if err != nil {
				t.Errorf("bind to %s after the release: %v", at, err)
				continue
			}
			c.Close()
		}
	}
}

// TestConnectedSocketsKeepTheirPackets also on a port that is allocated then.
func TestConnectedSocketsKeepTheirPackets(t *testing.T) {
	other, at := peerOn(t, loopback)
	conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)), net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	port := addrPort(conn.LocalAddr()).Port()
	cfg := socketConfig(t)
	cfg.Engine, cfg.Ports = Kernel, turn.PortRange{First: port, Last: port}
	s := startEngine(t, cfg)
	client := dial(t, "udp", s.address(0))
	relayed := allocate(t, client)
	peer, peerAt := peerOn(t, loopback)
	bindChannel(t, client, 0x4001, peerAt)
	if _, err := peer.WriteToUDPAddrPort([]byte("for the client"), relayed); err != nil {
		t.Fatal(err)
	}
	wantChannel(t, client, 0x4001, []byte("for the client"))
	if _, err := other.WriteToUDPAddrPort([]byte("for the other program"), relayed); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, conn); string(got) != "for the other program" {
		t.Errorf("the connected socket got %q", got)
	}
}

// TestWidePacketsPassNarrowPaths in both directions: what is larger than the interface, and what the kernel learns from ICMP to be larger than the path. An
// ICMP error for one peer does not touch the others.
func TestWidePacketsPassNarrowPaths(t *testing.T) {
	lab := netns.New(t)
	relay, router, far := lab.Host("relay"), lab.Router("router"), lab.Host("peer")
	lab.Link(relay.At("10.0.0.1/24", "2001:db8:1::1/64"), router.At("10.0.0.2/24", "2001:db8:1::2/64"))
	lab.Link(router.At("10.0.1.1/24", "2001:db8:2::1/64").MTU(1300), far.At("10.0.1.2/24", "2001:db8:2::2/64").MTU(1300))
	for _, r := range [][2]string{{"10.0.1.0/24", "10.0.0.2"}, {"2001:db8:2::/64", "2001:db8:1::2"}} {
		relay.Route(r[0], r[1])
	}
	for _, r := range [][2]string{{"10.0.0.0/24", "10.0.1.1"}, {"2001:db8:1::/64", "2001:db8:2::1"}} {
		far.Route(r[0], r[1])
	}
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8:1::1")
	relays := []turn.RelayAddress{{Public: v4, Local: v4}, {Public: v6, Local: v6}}
	cfg := socketConfig(t)
	policy, err := turn.NewPolicy(turn.PolicyConfig{Profile: turn.ProfileLab, Relays: relays, RelayPorts: cfg.Ports})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Engine, cfg.Relays, cfg.Rules = Kernel, relays, &turn.Rules{Policy: policy, ModernWithoutCredentials: true}
	cfg.Listeners = []Listener{{Network: "udp", Address: netip.AddrPortFrom(v4, 3478)}, {Network: "udp", Address: netip.AddrPortFrom(v6, 3478)}}
	var s *Server
	if err := relay.Do(func() (err error) { s, err = Open(context.Background(), cfg); return err }); err != nil {
		t.Fatal(err)
	}
	if kind, _, why := s.Engine(); kind != Kernel {
		t.Fatalf("%v: %s", kind, why)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	defer func() { cancel(); <-done }()
	for i, peerAt := range []string{"10.0.1.2:0", "[2001:db8:2::2]:0"} {
		client, err := relay.Dial(ctx, "udp", cfg.Listeners[i].Address.String())
		if err != nil {
			t.Fatal(err)
		}
		peer, err := far.ListenPacket(ctx, "udp", peerAt)
		if err != nil {
			t.Fatal(err)
		}
		relayed, to := allocate(t, client), addrPort(peer.LocalAddr())
		bindChannel(t, client, 0x4001, to)
		bindChannel(t, client, 0x4002, netip.AddrPortFrom(to.Addr(), 9999)) // where nobody listens
		buf := make([]byte, 1<<16)
		for _, size := range []int{100, 1252, 1400, 1473, 1500, 3000, 9000, 30000} {
			data := bytes.Repeat([]byte{byte(size)}, size)
			for try := 0; ; try++ {
				if try == 5 {
					t.Fatalf("%d bytes to %v do not arrive", size, to)
				}
				write(t, client, channelData(0x4002, data, false))
				write(t, client, channelData(0x4001, data, false))
				_ = peer.SetReadDeadline(time.Now().Add(time.Second))
				n, from, err := peer.ReadFrom(buf)
				if err == nil && (!bytes.Equal(buf[:n], data) || addrPort(from) != relayed) {
					t.Fatalf("%d bytes of another datagram from %v", n, from)
				}
				if err == nil {
					break
				}
			}
			for try := 0; ; try++ { // the peer's kernel learns of no narrower path, but fragments
				if try == 5 {
					t.Fatalf("%d bytes from %v do not arrive", size, to)
				}
				if _, err := peer.WriteTo(data, net.UDPAddrFromAddrPort(relayed)); err != nil {
					t.Fatal(err)
				}
				_ = client.SetReadDeadline(time.Now().Add(time.Second))
				if n, err := client.Read(buf); err == nil && bytes.Equal(buf[:n], channelData(0x4001, data, false)) {
					break
				}
			}
		}
	}
	if st := s.stats(t); st.SendErrors != 0 {
		t.Errorf("%d errors of sending", st.SendErrors)
	}
}

// TestBurstsLeaveByASocketOfTheirPort while they last, in their order and from the same address, and the port stays the relay's.
func TestBurstsLeaveByASocketOfTheirPort(t *testing.T) {
	cfg := socketConfig(t)
	cfg.Engine = Kernel
	s := startEngine(t, cfg)
	for _, c := range []struct {
		listener int
		at       netip.Addr
	}{{0, loopback}, {2, loopback6}} {
		client := dial(t, "udp", s.address(c.listener))
		relayed := allocate(t, client)
		peer, at := peerOn(t, c.at)
		bindChannel(t, client, 0x4001, at)
		sockets := func() (n int) {
			s.on(t, 0, func(x *shard) { n = len(x.ports.(*kernelPorts).bursty) })
			return n
		}
		count := byte(0)
		burst := func(n int) {
			release := s.hold(t, 0)
			for i := range n {
				write(t, client, channelData(0x4001, bytes.Repeat([]byte{count + byte(i)}, 100), false))
			}
			release()
			for range n {
				if got, from := readPeer(t, peer); from != relayed || !bytes.Equal(got, bytes.Repeat([]byte{count}, 100)) {
					t.Fatalf("datagram %d from %v: %x", count, from, got)
				}
				count++
			}
		}
		for range 2 * burstsFirst {
			burst(1)
		}
		if n := sockets(); n != 0 {
			t.Fatalf("%d sockets without a burst", n)
		}
		for range 2 * burstsFirst {
			burst(burstLeast + 2)
		}
		if n := sockets(); n != 1 {
			t.Fatalf("%d sockets after bursts", n)
		}
		if _, err := peer.WriteToUDPAddrPort([]byte("back"), relayed); err != nil {
			t.Fatal(err)
		}
		wantChannel(t, client, 0x4001, []byte("back"))
		if c, err := net.ListenPacket("udp", relayed.String()); err == nil {
			c.Close()
			t.Error("another program bound the port")
		}
		eventually(t, "the socket of a port without bursts is closed", func() bool { return sockets() == 0 })
		burst(burstLeast)
	}
}

// TestKilledProcessLeavesNothingBehind neither programs nor ports that nobody may bind.
func TestKilledProcessLeavesNothingBehind(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		cfg := socketConfig(t)
		cfg.Engine = Kernel
		s := startEngine(t, cfg)
		fmt.Println("relayed", allocate(t, dial(t, "udp", s.address(0))))
		time.Sleep(time.Minute) // it is killed
		return
	}
	before := links(t)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), childVariable+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var relayed string
	if _, err := fmt.Fscanf(out, "relayed %s\n", &relayed); err != nil {
		t.Fatal(err)
	}
	var its []link.ID
	for id := range links(t) {
		if !before[id] {
			its = append(its, id)
		}
	}
	if c, err := net.ListenPacket("udp", relayed); err == nil {
		c.Close()
		t.Error("the port was not reserved")
	}
	if len(its) < 3 {
		t.Errorf("the engine has %d links", len(its))
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, "the links of the process are gone", func() bool {
		now := links(t)
		for _, id := range its {
			if now[id] {
				return false
			}
		}
		return true
	})
	c, err := net.ListenPacket("udp", relayed)
	if err != nil {
		t.Fatal("the port of a process that is no more: ", err)
	}
	c.Close()
}

// childVariable is set in the environment of a process that a test starts to kill it.
const childVariable = "STILE_TEST_CHILD"

// links is the links of this machine.
func links(t *testing.T) map[link.ID]bool {
	t.Helper()
	ids := make(map[link.ID]bool)
	it := new(link.Iterator)
	defer it.Close()
	for it.Next() {
		ids[it.ID] = true
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return ids
}

// TestMissingCapabilityLeavesTheSocketEngine and its name stands in the reason, whichever it is, and whether the kernel engine was asked for or not.
func TestMissingCapabilityLeavesTheSocketEngine(t *testing.T) {
	for name, bits := range map[string][]uint{"CAP_NET_RAW": {unix.CAP_NET_RAW}, "CAP_NET_ADMIN": {unix.CAP_NET_ADMIN}, "CAP_BPF": {unix.CAP_BPF, unix.CAP_SYS_ADMIN}} {
		for _, kind := range []Kind{Auto, Kernel} {
			cfg := socketConfig(t)
			cfg.Engine = kind
			s, err := openWithout(cfg, bits)
			if err != nil {
				t.Fatal(err)
			}
			got, _, why := s.Engine()
			if got != Socket || !strings.Contains(why, name) || strings.Contains(why, "\n") {
				t.Errorf("without %s, %v asked for: the engine is %v: %q", name, kind, got, why)
			}
			s.Close()
		}
	}
	for name, bits := range map[string][]uint{"CAP_SYS_ADMIN and CAP_PERFMON": {unix.CAP_SYS_ADMIN, unix.CAP_PERFMON}, "CAP_SYS_RESOURCE": {unix.CAP_SYS_RESOURCE}} {
		cfg := socketConfig(t)
		cfg.Engine = Auto
		s, err := openWithout(cfg, bits)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, why := s.Engine(); got != Kernel || why != "" || len(s.Warnings()) > 1 {
			t.Errorf("without %s the engine is %v: %s; warnings: %q", name, got, why, s.Warnings())
		}
		s.Close()
	}
}

// openWithout opens a server on a thread without these capabilities.
func openWithout(cfg Config, bits []uint) (s *Server, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err = unix.Capget(&header, &data[0]); err != nil {
			return
		}
		for _, b := range bits {
			data[b/32].Effective &^= 1 << (b % 32)
		}
		if err = unix.Capset(&header, &data[0]); err != nil {
			return
		}
		s, err = Open(context.Background(), cfg)
	}()
	<-done
	return s, err
}

// TestVerifiersRefusalIsOneLine with the verifier's last words.
func TestVerifiersRefusalIsOneLine(t *testing.T) {
	spec, err := loadSpec("steer")
	if err != nil {
		t.Fatal(err)
	}
	p := spec.Programs["steer"]
	p.Instructions = p.Instructions[:len(p.Instructions)-2] // no exit
	_, err = ebpf.NewCollection(spec)
	if err == nil {
		t.Fatal("the verifier takes a program without an end")
	}
	if got := oneLine(err); strings.Contains(got, "\n") || !strings.Contains(got, "verifier refuses") || len(got) > 300 {
		t.Errorf("%q", got)
	}
}

// TestEmbeddedObjectsAreWhatTheSourceMakes: the same instructions. With another version of clang than the embedded ones were made with, the tests of the engine
// run with what the source makes here.
func TestEmbeddedObjectsAreWhatTheSourceMakes(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bpf"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("bpf/build", filepath.Join(dir, "bpf")).CombinedOutput(); err != nil {
		t.Fatalf("bpf/build: %v\n%s", err, out)
	}
	sources, err := filepath.Glob("bpf/*.c")
	if err != nil {
		t.Fatal(err)
	}
	differ := false
	for _, source := range sources {
		object := strings.TrimSuffix(source, ".c") + ".o"
		built, embedded := describeObject(t, filepath.Join(dir, object)), describeObject(t, object)
		for what := range built {
			switch {
			case built[what] == embedded[what]:
			case built["compiler"] != embedded["compiler"] && strings.HasPrefix(what, "instructions"):
				differ = true
			case what != "compiler":
				t.Errorf("%s is not what its source makes: run go generate ./turn/dataplane\n%s\nembedded: %v\nbuilt:    %v", object, what, embedded[what], built[what])
			}
		}
	}
	if differ {
		t.Log("clang is of another version: the tests run once more with what it makes")
		cmd := exec.Command(os.Args[0], "-test.run=^(TestEnginesAreOneServer|TestRelayedPortsInUseAreNobodyElses|TestConnectedSocketsKeepTheirPackets|TestWidePacketsPassNarrowPaths|TestOffload)")
		cmd.Env = append(os.Environ(), objectsVariable+"="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// objectsVariable names a directory with a directory bpf of objects to use in place of the embedded ones.
const objectsVariable = "STILE_TEST_OBJECTS"

func init() {
	if dir := os.Getenv(objectsVariable); dir != "" {
		objects = os.DirFS(dir)
	}
}

// describeObject is what an object file is made of.
func describeObject(t *testing.T, path string) map[string]string {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec(path)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	d := make(map[string]string)
	for name, m := range spec.Maps {
		if !strings.HasPrefix(name, ".") { // .rodata and its kin are listed by variables
			d["map "+name] = fmt.Sprint(m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags)
		}
	}
	for name, p := range spec.Programs {
		d["program "+name] = fmt.Sprint(p.Type, p.AttachType, p.SectionName)
		var code bytes.Buffer
		for i := range p.Instructions {
			fmt.Fprintln(&code, p.Instructions[i])
		}
		d["instructions of "+name] = code.String()
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if section := f.Section("compiler"); section != nil {
		version, err := section.Data()
		if err != nil {
			t.Fatal(err)
		}
		d["compiler"] = string(version)
	}
	return d
}

// TestFiftyThousandAllocationsOfTheKernelEngine take fewer than 100 descriptors and at most 1 KB each, their permission and channel included. The requests are
// given to the core on its thread: a client of its own for each would need the descriptors that the server does not.
func TestFiftyThousandAllocationsOfTheKernelEngine(t *testing.T) {
	const count = 50_000
	cfg := socketConfig(t)
	cfg.Engine, cfg.Ports = Kernel, turn.PortRange{First: 1024, Last: 65535}
	rules := *cfg.Rules
	rules.Limits = turn.Limits{Unconfirmed: count}
	cfg.Rules = &rules
	s := startEngine(t, cfg)
	before := heap()
	slot := make([]byte, turn.Headroom+turn.MaxFrame+turn.Tailroom)
	ask := func(c *turn.Core, now time.Time, client netip.AddrPort, msg []byte) stun.Message {
		src := turn.Source{Client: client, Server: netip.AddrPortFrom(loopback, 3478)}
		n := copy(slot[turn.Headroom:], msg)
		c.FromClient(now, &src, turn.Packet{Buf: slot, At: turn.Headroom, Len: n})
		outs := c.Outputs()
		if len(outs) != 1 {
			t.Fatalf("%d answers", len(outs))
		}
		m, err := stun.Parse(append([]byte(nil), outs[0].Data...))
		if err != nil {
			t.Fatal(err)
		}
		c.Reset()
		return m
	}
	s.on(t, 0, func(x *shard) {
		now := time.Now()
		for i := range count {
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 14), 1}), uint16(1024+i&(1<<14-1)))
			var id [12]byte
			binary.BigEndian.PutUint32(id[:], uint32(i))
			m := ask(x.core, now, client, request(stun.Allocate, stun.Request, byte(i), func(b *stun.Builder) {
				b.Attr(stun.AttrRequestedTransport, []byte{17, 0, 0, 0})
			}))
			if m.Class() != stun.Success {
				t.Fatalf("allocation %d: %x", i, m.Raw())
			}
			m = ask(x.core, now, client, request(stun.ChannelBind, stun.Request, byte(i+1), func(b *stun.Builder) {
				b.Attr(stun.AttrChannelNumber, []byte{0x40, 1, 0, 0})
				b.XORAddress(stun.AttrXORPeerAddress, netip.AddrPortFrom(loopback, 40000))
			}))
			if m.Class() != stun.Success {
				t.Fatalf("channel of allocation %d: %x", i, m.Raw())
			}
		}
		x.core.TakeEvents()
	})
	if st := s.stats(t); st.Allocations != count {
		t.Fatalf("%d allocations", st.Allocations)
	}
	each := float64(heap()-before) / count
	t.Logf("%.0f bytes for each of %d allocations, %d descriptors", each, count, len(descriptors(t)))
	if each > 1024 {
		t.Errorf("%.0f bytes for each allocation", each)
	}
	if n := len(descriptors(t)); n >= 100 {
		t.Errorf("%d descriptors:\n%s", n, strings.Join(descriptors(t), "\n"))
	}
}

// heap is what the heap holds after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

package dataplane

import (
	"bytes"
	"context"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/turn"
)

//go:generate bpf/build
//go:embed bpf/*.o
var embedded embed.FS

// objects has the programs. Tests put there what they have built.
var objects fs.FS = embedded

// kernel is what the shards of the kernel engine share: the program that brings what comes to relayed ports to them, and the table
// of ports, which it reads and they write.
//
//	peers ══▶ relayed port ──▶ steer (sk_lookup) ─┬─▶ door of shard 0 ─▶ recvmmsg ─▶ core
//	                             │ port table      └─▶ door of shard 1
//	peers ◀════════════════════ raw sender of the shard ◀── sendmmsg ◀─ core
//
// Nothing is pinned: when the process ends, however it does, the last reference to program and maps goes with it.
type kernel struct {
	cfg      *Config
	addrs    []netip.Addr // of the relays, each once; the index is the one in the table
	programs *ebpf.Collection
	links    []link.Link
	memory   []byte // the table, shared with the programs
	warnings []string
}

// Of the table: ports of one relay address, bytes of an entry.
const (
	portsPerAddress = 1 << 16
	ownerSize       = 8
	ownerBinds      = 1 << 63 // the relay itself binds a socket to the port
	maxGuarded      = 64      // relay addresses that bpf/guard.c looks at
)

// openKernel starts the kernel engine. An error that is errors.ErrUnsupported says what is missing here; without it everything else would
// fail as well.
func openKernel(ctx context.Context, cfg *Config, ledger *turn.Ledger) (engine, error) {
	k, err := newKernel(cfg)
	if err != nil {
		return nil, err
	}
	return openThreads(ctx, cfg, ledger, k) // which closes k if it fails
}

// newKernel loads and attaches the programs.
func newKernel(cfg *Config) (_ *kernel, err error) {
	if lacks := missingCapabilities(unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW); lacks != "" {
		return nil, unsupported("the kernel engine needs " + lacks)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, unsupported(fmt.Sprintf("the kernel engine needs memory for its programs: %v", err))
	}
	if err := features.HaveProgramType(ebpf.SkLookup); err != nil {
		return nil, unsupported("the kernel engine needs Linux 5.9 with eBPF and sk_lookup")
	}
	k := &kernel{cfg: cfg}
	for _, r := range cfg.Relays {
		k.add(r.Local)
	}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	if err := k.load(); err != nil {
		return nil, unsupported("the kernel engine: " + oneLine(err))
	}
	k.warnings = portWarnings(k.guard(), cfg.Ports)
	return k, nil
}

func unsupported(why string) error {
	return fmt.Errorf("dataplane: %s: %w", why, errors.ErrUnsupported)
}

// oneLine is an error without the verifier's log.
func oneLine(err error) string {
	var v *ebpf.VerifierError
	if errors.As(err, &v) {
		last := ""
		for _, l := range v.Log {
			if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "processed ") {
				last = l
			}
		}
		return fmt.Sprintf("the kernel's verifier refuses the program: %v: %s", v.Cause, last)
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// capabilityNames are the capabilities that the room asks for.
var capabilityNames = map[uint]string{
	unix.CAP_BPF: "CAP_BPF", unix.CAP_PERFMON: "CAP_PERFMON", unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_NET_RAW: "CAP_NET_RAW",
}

// missingCapabilities names those of the capabilities that the process lacks. CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON, which are
// younger.
func missingCapabilities(needs ...uint) string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return ""
	}
	has := func(c uint) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }
	var lacks []string
	for _, c := range needs {
		if !has(c) && !((c == unix.CAP_BPF || c == unix.CAP_PERFMON) && has(unix.CAP_SYS_ADMIN)) {
			lacks = append(lacks, capabilityNames[c])
		}
	}
	return strings.Join(lacks, ", ")
}

func (k *kernel) add(a netip.Addr) {
	if k.index(a) < 0 {
		k.addrs = append(k.addrs, a)
	}
}

// index is the place of a relay address in the table, -1 for any other. There are few.
func (k *kernel) index(a netip.Addr) int {
	for i := range k.addrs {
		if k.addrs[i] == a {
			return i
		}
	}
	return -1
}

// owner is the entry of a relayed port: 0, or the shard plus one and the allocation. A port's entry is written by the shard that opens or shuts
// it, which the ledger makes one at a time; any shard may read it.
func (k *kernel) owner(index int, port uint16) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&k.memory[(index*portsPerAddress+int(port))*ownerSize]))
}

func (k *kernel) load() error {
	spec, err := loadSpec("steer")
	if err != nil {
		return err
	}
	shards := shardCount(k.cfg)
	spec.Maps["relayed"].MaxEntries = uint32(len(k.addrs))
	spec.Maps["relays"].MaxEntries = uint32(len(k.addrs))
	spec.Maps["doors"].MaxEntries = uint32(2 * shards)
	if k.programs, err = ebpf.NewCollection(spec); err != nil {
		return err
	}
	for i, a := range k.addrs {
		if err := k.programs.Maps["relays"].Put(a.WithZone("").As16(), uint32(i)); err != nil {
			return err
		}
	}
	k.memory, err = unix.Mmap(k.programs.Maps["relayed"].FD(), 0, len(k.addrs)*portsPerAddress*ownerSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the table of ports: %w", err)
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer ns.Close()
	steer, err := link.AttachNetNs(int(ns.Fd()), k.programs.Programs["steer"])
	if err != nil {
		return fmt.Errorf("attach sk_lookup: %w", err)
	}
	k.links = append(k.links, steer)
	return nil
}

func loadSpec(name string) (*ebpf.CollectionSpec, error) {
	b, err := fs.ReadFile(objects, "bpf/"+name+".o")
	if err != nil {
		return nil, err
	}
	return ebpf.LoadCollectionSpecFromReader(bytes.NewReader(b))
}

// admit makes fd the door of a shard.
func (k *kernel) admit(shard int, inet6 bool, fd int) error {
	door := uint32(2 * shard)
	if inet6 {
		door++
	}
	return k.programs.Maps["doors"].Put(door, uint64(fd))
}

// testRun is what bpf(2) is given for BPF_PROG_TEST_RUN: the beginning of union bpf_attr's member test.
type testRun struct {
	program, result    uint32
	sizeIn, sizeOut    uint32
	in, out            uint64
	repeat, nanosecond uint32
}

// taken reports whether another program has a socket that would lose what comes to the port. It makes the system call itself: the library blocks
// signals around it, which takes two more, and the call is a tenth of what an allocation costs.
func (k *kernel) taken(at netip.AddrPort) (bool, error) {
	question := new([24]byte) // not on the stack: the kernel is given its address as a number
	ip := at.Addr().As16()
	copy(question[:], ip[:])
	if at.Addr().Is6() {
		binary.NativeEndian.PutUint32(question[16:], 1)
	}
	binary.BigEndian.PutUint16(question[20:], at.Port())
	run := &testRun{
		program: uint32(k.programs.Programs["taken"].FD()), sizeIn: uint32(len(question)), in: uint64(uintptr(unsafe.Pointer(question))),
	}
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(run)), unsafe.Sizeof(*run))
		if errno == unix.EINTR || errno == unix.EAGAIN {
			continue
		}
		runtime.KeepAlive(question)
		if errno != 0 {
			return false, errno
		}
		break
	}
	const xdpDrop, xdpPass = 1, 2
	switch run.result {
	case xdpPass:
		return false, nil
	case xdpDrop:
		return true, nil
	}
	return false, fmt.Errorf("the program that looks for sockets answers %d", run.result)
}

func (k *kernel) close() {
	for _, l := range k.links {
		_ = l.Close()
	}
	if k.memory != nil {
		_ = unix.Munmap(k.memory)
	}
	if k.programs != nil {
		k.programs.Close()
	}
}

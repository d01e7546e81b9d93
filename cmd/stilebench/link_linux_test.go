package main

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// checksum adds everything up as a receiver does; a correct packet gives 0xFFFF.
func checksum(wire []byte) (ip, udp uint16) {
	h := wire[etherSize:]
	n := uint32(len(h) - ipv4Size)
	return fold(onesSum(h[:ipv4Size])), fold(onesSum(h[12:]) + 17 + n)
}

func TestFramesHaveRightChecksumsWhateverTheProbe(t *testing.T) {
	l := &packetLink{addr: labClient, base: labPortBase, ports: 10}
	to := netip.AddrPortFrom(labServer, 3478)
	for _, size := range []int{24, 25, 172, 1200} {
		payload := make([]byte, size+4)
		for i := range payload {
			payload[i] = byte(i * 31)
		}
		f := l.frame(3, to, payload, 4)
		for i := range 1000 {
			putProbe(f.probe, probe{tag: uint32(i) * 0x9E3779B9, alloc: uint32(i), sent: int64(i) * 0x1234567890ab, seq: ^uint32(i)})
			l.seal(f)
			if ip, udp := checksum(f.wire); ip != 0xFFFF || udp != 0xFFFF {
				t.Fatalf("size %d, probe %d: sums %#x and %#x", size, i, ip, udp)
			}
			if binary.BigEndian.Uint16(f.wire[etherSize+ipv4Size+6:]) == 0 {
				t.Fatal("a checksum of zero means none")
			}
		}
	}
}

func TestFoldCarriesTwice(t *testing.T) {
	for sum, want := range map[uint32]uint16{0: 0, 0xFFFF: 0xFFFF, 0x10000: 1, 0x1FFFF: 1, 0xFFFFFFFF: 0xFFFF} {
		if got := fold(sum); got != want {
			t.Errorf("%#x: %#x, want %#x", sum, got, want)
		}
	}
}

func TestPacerSkipsWhatItCannotCatchUp(t *testing.T) {
	p := newPacer(0, 1000)
	if n := p.due(10e6); n != 10 {
		t.Fatalf("after 10 ms at 1000/s %d are due", n)
	}
	p.done += 10
	if n := p.due(int64(1e9)); n != maxDebt {
		t.Fatalf("after a pause %d are due at once", n)
	}
	if p.done += maxDebt; p.skipped != 1000-10-maxDebt || p.due(1e9) != 0 {
		t.Errorf("%d skipped, %d still due", p.skipped, p.due(1e9))
	}
	if idle := newPacer(0, 0); idle.due(1e9) != 0 {
		t.Error("a rate of zero sends")
	}
}

func TestSocketsCarryProbesAndCountDrops(t *testing.T) {
	lo := netip.MustParseAddr("127.0.0.1")
	peers, err := newUDPLink(lo, 2, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer peers.close()
	clients, err := newUDPLink(lo, 3, peers.local(1))
	if err != nil {
		t.Fatal(err)
	}
	defer clients.close()
	var frames []*frame
	for i := range 3 {
		f := clients.frame(i, peers.local(1), make([]byte, 100), 0)
		putProbe(f.probe, probe{alloc: uint32(i), sent: time.Now().UnixNano()})
		frames = append(frames, f)
	}
	if n, err := clients.send(frames); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	seen := map[uint32]netip.AddrPort{}
	for deadline := time.Now().Add(5 * time.Second); len(seen) < 3 && time.Now().Before(deadline); {
		peers.receive(func(a *arrival) {
			p, ok := parseProbe(a.payload)
			if !ok || a.to != 1 || a.size != 100 {
				t.Errorf("arrived at %d with %d bytes", a.to, a.size)
			}
			seen[p.alloc] = a.from
		})
	}
	for i := range 3 {
		if seen[uint32(i)] != clients.local(i) {
			t.Errorf("probe %d came from %v, sent from %v", i, seen[uint32(i)], clients.local(i))
		}
	}
	if clients.drops()+peers.drops() != 0 {
		t.Error("drops are counted where nothing was lost")
	}
}

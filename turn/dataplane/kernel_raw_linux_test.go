package dataplane

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stilenet/stile/turn"
)

// reference is the checksum of RFC 1071 in its plainest form: 0 for data that carries a correct one.
func reference(parts ...[]byte) uint16 {
	var s uint32
	b := bytes.Join(parts, nil)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	for ; len(b) > 0; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
		s = s>>16 + s&0xFFFF
	}
	return ^uint16(s)
}

// TestRawDatagramsHaveTheHeadersOfTheirPort and a checksum that is right for every length.
func TestRawDatagramsHaveTheHeadersOfTheirPort(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, pair := range [][2]string{{"192.0.2.1", "198.51.100.200"}, {"255.255.255.254", "255.255.255.253"}, {"2001:db8::1", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"}} {
		source, peer := netip.MustParseAddr(pair[0]), netip.MustParseAddr(pair[1])
		var r rawSender
		r.describe(source)
		for size := range 400 {
			slot := make([]byte, turn.Headroom+size+turn.Tailroom)
			for i := range slot {
				slot[i] = byte(rng.Uint32())
				if size%3 == 0 {
					slot[i] = 0xFF // many carries
				}
			}
			data := append([]byte(nil), slot[turn.Headroom:][:size]...)
			tx := newSender()
			var q queue
			it := tx.add(&q, slot[turn.Headroom:][:size])
			it.nameLen = it.name.put(netip.AddrPortFrom(peer, 60001), r.inet6, 0)
			r.take(tx, 50000, &q)
			b := tx.items[0].data()
			ip := 20
			if source.Is6() {
				ip = 40
			}
			if len(b) != ip+8+size || !bytes.Equal(b[ip+8:], data) {
				t.Fatalf("%v, %d bytes: %x", source, size, b)
			}
			udp := b[ip:]
			length := binary.BigEndian.AppendUint16(nil, uint16(8+size))
			if got := reference(source.AsSlice(), peer.AsSlice(), []byte{0, 17}, length, udp); got != 0 {
				t.Fatalf("%v, %d bytes: the checksum is off by %x", source, size, got)
			}
			if binary.BigEndian.Uint16(udp[6:]) == 0 {
				t.Fatalf("%v, %d bytes: the checksum says that there is none", source, size)
			}
			if binary.BigEndian.Uint16(udp) != 50000 || binary.BigEndian.Uint16(udp[2:]) != 60001 || !bytes.Equal(udp[4:6], length) {
				t.Fatalf("UDP header %x", udp[:8])
			}
			if source.Is4() && (b[0] != 0x45 || binary.BigEndian.Uint16(b[2:]) != uint16(len(b)) || b[6]&0x40 != 0 || b[9] != 17 ||
				!bytes.Equal(b[12:20], append(source.AsSlice(), peer.AsSlice()...))) {
				t.Fatalf("IPv4 header %x", b[:20])
			}
			if source.Is6() && (b[0] != 0x60 || !bytes.Equal(b[4:6], length) || b[6] != 17 || !bytes.Equal(b[8:40], append(source.AsSlice(), peer.AsSlice()...))) {
				t.Fatalf("IPv6 header %x", b[:40])
			}
		}
	}
}

func TestWarningNamesThePortsThatTheKernelGivesToOthers(t *testing.T) {
	ports := turn.PortRange{First: 49152, Last: 65535}
	for _, c := range []struct {
		local, reserved string
		want            turn.PortRange
	}{
		{"32768\t60999\n", "\n", turn.PortRange{First: 49152, Last: 60999}},
		{"32768\t60999\n", "49152-65535\n", turn.PortRange{}},
		{"32768\t60999\n", "8080,49152-50000\n", turn.PortRange{First: 50001, Last: 60999}},
		{"32768\t60999\n", "49153-60998", turn.PortRange{First: 49152, Last: 60999}},
		{"32768\t49151\n", "\n", turn.PortRange{}},
		{"nonsense", "\n", turn.PortRange{}},
	} {
		got, ok := unreserved(ports, c.local, c.reserved)
		if got != c.want || ok != (c.want != turn.PortRange{}) {
			t.Errorf("%q, %q: %v %v, want %v", c.local, c.reserved, got, ok, c.want)
		}
	}
}

func TestMountPointsAreUnescaped(t *testing.T) {
	for in, want := range map[string]string{`/sys/fs/cgroup`: "/sys/fs/cgroup", `/a\040b`: "/a b", `/a\134`: `/a\`, `/a\9`: `/a\9`} {
		if got := unescapeMount(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

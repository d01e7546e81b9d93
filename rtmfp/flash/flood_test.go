package flash_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

// floodPackets is how many packets there are in the flood: a million with the tag e2e.
var floodPackets = 100_000

// Startup packets from forged addresses, each another one: hellos for the server and for others, keyings with forged and with
// expired cookies, beginnings of fragmented packets, noise. The endpoint holds no more memory afterwards, keeps no session, has no key to
// agree on, and its answers are at most three times as long as what it was sent, on the wire.
func TestSpoofedHellosLeaveNoMemory(t *testing.T) {
	count := floodPackets
	id, err := flash.NewIdentity(flash.IdentityConfig{Random: rand.NewChaCha8([32]byte{1}), Server: true, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	e, err := rtmfp.New(now, rtmfp.Config{Identity: id, Random: rand.NewChaCha8([32]byte{2}), DeferKeying: true})
	if err != nil {
		t.Fatal(err)
	}
	cipher := id.DefaultCipher()
	header := rtmfp.AppendHeader(nil, rtmfp.Header{Mode: rtmfp.ModeStartup, TimestampPresent: true})
	tag := make([]byte, 16)
	client, err := flash.NewIdentity(flash.IdentityConfig{Random: rand.NewChaCha8([32]byte{3})})
	if err != nil {
		t.Fatal(err)
	}
	var plains [][]byte
	add := func(chunk []byte) { plains = append(plains, append(bytes.Clone(header), chunk...)) }
	hello := rtmfp.AppendIHello(nil, rtmfp.IHello{EPD: flash.ServerEPD("rtmfp://server.example.com/0123456789abcdef0123456789abcdef"), Tag: tag})
	keying := rtmfp.IIKeying{SessionID: 1, CookieEcho: make([]byte, 64), Certificate: client.Certificate(), Component: make([]byte, 76), Signature: []byte("X")}
	add(hello)
	add(rtmfp.AppendIHello(nil, rtmfp.IHello{EPD: flash.ServerEPD("x"), Tag: tag}))
	add(rtmfp.AppendIHello(nil, rtmfp.IHello{EPD: flash.PeerID{1}.EPD(), Tag: tag}))
	add(rtmfp.AppendIIKeying(nil, keying))
	add(rtmfp.AppendFragment(nil, rtmfp.Fragment{More: true, PacketID: 1, Data: make([]byte, 900)}))
	add(append(bytes.Clone(hello), hello...))
	plains = append(plains, make([]byte, 200))
	// A cookie that was given to another address, and has expired since.
	e.Receive(now, 0, netip.MustParseAddrPort("192.0.2.1:1"), sealed(cipher, nil, plains[0]))
	for _, d := range e.Flush(now) {
		if plain, err := cipher.Open(d.Data[4:]); err == nil {
			_, chunks, _ := rtmfp.ParseHeader(plain)
			for kind, payload := range rtmfp.Chunks(chunks) {
				if h, err := rtmfp.ParseRHello(payload); kind == rtmfp.ChunkRHello && err == nil {
					keying.CookieEcho = bytes.Clone(h.Cookie)
				}
			}
		}
	}
	add(rtmfp.AppendIIKeying(nil, keying))
	now = now.Add(10 * time.Minute)

	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var before uint64
	var packet []byte
	for n := range count {
		if n == count/10 { // buffers and the table of fragments have their size
			before = heap()
		}
		if n%100 == 0 {
			now = now.Add(time.Millisecond)
		}
		packet = sealed(cipher, packet, plains[n%len(plains)])
		var ip [4]byte
		binary.BigEndian.PutUint32(ip[:], 0x0b000000+uint32(n))
		sent := len(packet) + 28
		e.Receive(now, 0, netip.AddrPortFrom(netip.AddrFrom4(ip), 1935), packet)
		for _, ev := range e.Events() {
			if ev.Kind != rtmfp.EventHello {
				t.Fatal(ev.Kind)
			}
		}
		out := e.Flush(now)
		answered := 0
		for _, d := range out {
			answered += len(d.Data) + 28
		}
		if answered > 3*sent {
			t.Fatalf("%d bytes are answered with %d", sent, answered)
		}
		e.Recycle(out)
		if at, ok := e.NextTimer(); ok && at.Before(now) {
			e.Tick(now)
		}
	}
	after := heap()
	if grown := int64(after) - int64(before); grown > 256<<10 {
		t.Errorf("%d bytes more after %d packets", grown, count)
	}
	c := e.Counters()
	if e.Sessions() != 0 || c.Opened != 0 || c.Received != uint64(count)+1 || c.Chunks[rtmfp.ChunkCookie] == 0 || c.Chunks[rtmfp.ChunkAmplification] == 0 {
		t.Errorf("%d sessions: %+v", e.Sessions(), c)
	}
	runtime.KeepAlive(e)
}

func sealed(c rtmfp.Cipher, dst, plain []byte) []byte {
	dst = c.Seal(append(dst[:0], 0, 0, 0, 0), plain)
	rtmfp.PutSessionID(dst, 0)
	return dst
}

package client

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stilenet/stile/stun"
)

// FuzzCore lets a server that knows the identifiers of all requests say anything, between writes of the caller and the passing
// of time. Each step of the input is an operation, a length and that many bytes.
func FuzzCore(f *testing.F) {
	step := func(op byte, b []byte) []byte { return append([]byte{op, byte(len(b))}, b...) }
	m := stun.Begin(nil, stun.NewType(stun.Allocate, stun.Success), stun.TransactionID{})
	allocation(600)(&m)
	first := append([]byte{0}, step(1, m.Bytes())...)
	f.Add(first)
	f.Add(append(bytes.Clone(first), step(2, []byte{1, 2, 3})...))
	f.Add(append(bytes.Clone(first), append(step(2, []byte{1}), step(0, []byte{0x40, 0, 0, 1, 'x'})...)...))
	f.Add(append(bytes.Clone(first), step(0, dataFrom(alice, []byte("x")))...))
	f.Add(append(bytes.Clone(first), step(3, []byte{255})...))
	m = stun.Begin(nil, stun.NewType(stun.Allocate, stun.Error), stun.TransactionID{})
	challenged(401, "realm", "nonce")(&m)
	f.Add(append([]byte{7}, step(1, m.Bytes())...))
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) == 0 || len(input) > 1<<12 {
			return
		}
		p := params{dialect: Legacy + Dialect(input[0]%3), channelAfter: 2, stream: input[0]&8 != 0, keepalive: 25 * time.Second}
		if input[0]&4 != 0 {
			p.username, p.password, p.evenPort = "user", "key", true
		}
		c, err := newCore(p, rand.NewChaCha8([32]byte{}))
		if err != nil {
			t.Fatal(err)
		}
		now := epoch
		c.start(now, now)
		for input = input[1:]; len(input) >= 2; {
			op, size := input[0], min(int(input[1]), len(input)-2)
			b := bytes.Clone(input[2 : 2+size])
			input = input[2+size:]
			switch op % 4 {
			case 1: // an answer to a request under way
				if n := len(c.txs); n > 0 && len(b) >= stun.HeaderSize {
					t := c.txs[int(op/4)%n]
					copy(b[8:], t.id[:])
					class := stun.Type(binary.BigEndian.Uint16(b)).Class()
					binary.BigEndian.PutUint16(b, uint16(stun.NewType(t.method, class)))
				}
				c.handle(now, b)
			case 0:
				c.handle(now, b)
			case 2:
				to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, op / 4}), 9)
				if msg, err := c.write(now, nil, to, b); err == nil && len(msg) > 0 && !isChannelData(msg) {
					if _, err := stun.Parse(msg); err != nil {
						t.Fatalf("write makes %x: %v", msg, err)
					}
				}
			case 3:
				for _, s := range b {
					now = now.Add(time.Duration(s) * time.Second)
					c.tick(now)
					if due(c.wake, now) {
						t.Fatalf("the core wants to be woken %v ago", now.Sub(c.wake))
					}
				}
			}
			out, _ := c.takeOut()
			for _, raw := range out {
				if _, err := stun.Parse(raw); err != nil {
					t.Fatalf("sends %x: %v", raw, err)
				}
			}
			checkCore(t, c)
		}
	})
}

// checkCore finds what must never be.
func checkCore(t interface{ Fatalf(string, ...any) }, c *core) {
	sum := c.stats.Delivered + c.stats.Responses
	for _, n := range c.stats.Dropped {
		sum += n
	}
	if sum != c.stats.Read {
		t.Fatalf("read %d, counted %d", c.stats.Read, sum)
	}
	held := 0
	for _, p := range c.permList {
		if c.perms[p.peer.Addr()] != p {
			t.Fatalf("permission %v is in the list only", p.peer)
		}
		for _, b := range p.held {
			held += len(b)
		}
	}
	if held != c.heldBytes || held > heldBytes {
		t.Fatalf("%d bytes are held, %d counted", held, c.heldBytes)
	}
	for n, p := range c.channels {
		if n < firstChannel || n > lastChannel || p.channel != n || c.peers[p.addr] != p {
			t.Fatalf("channel %#x belongs to %+v", n, p)
		}
	}
	for _, p := range c.peerList {
		if p.bound && p.channel == 0 || p.channel != 0 && c.channels[p.channel] != p {
			t.Fatalf("peer %+v", p)
		}
	}
	if len(c.perms) != len(c.permList) || len(c.peers) != len(c.peerList) || len(c.perms) > MaxPeers || len(c.peers) > MaxPeers {
		t.Fatalf("%d and %d permissions, %d and %d peers", len(c.perms), len(c.permList), len(c.peers), len(c.peerList))
	}
	if c.phase != ended && c.phase != 0 && len(c.txs) == 0 && c.phase != allocated {
		t.Fatalf("phase %d waits for nothing", c.phase)
	}
}

// FuzzStream cuts a byte stream into messages, read at once and byte by byte.
func FuzzStream(f *testing.F) {
	f.Add([]byte{0x40, 0, 0, 1, 'x', 0, 0, 0})
	f.Add(append(dataFrom(alice, []byte("abc")), 0x40, 0, 0, 0))
	f.Add([]byte{0xFF, 0xFF, 0xFF, 0xFF, 0})
	f.Add([]byte{0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, input []byte) {
		whole, err1 := cut(bytes.NewReader(input))
		slow, err2 := cut(iotest.OneByteReader(bytes.NewReader(input)))
		if len(whole) != len(slow) || (err1 == errFrame) != (err2 == errFrame) {
			t.Fatalf("%d messages and %v, byte by byte %d and %v", len(whole), err1, len(slow), err2)
		}
		total := 0
		for i := range whole {
			if !bytes.Equal(whole[i], slow[i]) {
				t.Fatalf("message %d: %x, byte by byte %x", i, whole[i], slow[i])
			}
			total += len(whole[i])
		}
		if !bytes.Equal(bytes.Join(whole, nil), input[:total]) {
			t.Fatal("bytes are lost or invented")
		}
	})
}

// cut reads messages until the end.
func cut(r io.Reader) (out [][]byte, err error) {
	s := &stream{conn: readerConn{Reader: r}, buf: make([]byte, maxFrame)}
	for {
		b, err := s.next()
		if err != nil {
			return out, err
		}
		out = append(out, bytes.Clone(b))
	}
}

type readerConn struct {
	net.Conn
	io.Reader
}

func (r readerConn) Read(b []byte) (int, error) { return r.Reader.Read(b) }

// FuzzParseServer: what is accepted has a name that means the same.
func FuzzParseServer(f *testing.F) {
	for _, s := range []string{"turn:a:1?transport=tcp", "[::1]:3478", "host", "1.2.3.4:5", "turns:x", "[fe80::1%25a]", "turn:[::]?transport=udp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseServer(s)
		if err != nil {
			return
		}
		b, err := ParseServer(a.String())
		if err != nil || a != b {
			t.Fatalf("%q: %+v, its name %q: %+v, %v", s, a, a.String(), b, err)
		}
	})
}

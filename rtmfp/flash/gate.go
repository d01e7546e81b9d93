package flash

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"

	"github.com/stilenet/stile/rtmfp"
)

// § in this file means RFC 7016, unless said otherwise.

// maxStartupPacket bounds what a Gate takes for a startup packet, in bytes: the longest datagram of an Ethernet. What is longer is fragmented
// by its sender (§3.4). Ours to tune.
const maxStartupPacket = 1500

// GateVerdict is what a Gate says of a packet.
type GateVerdict uint8

// The verdicts.
const (
	GateDrop GateVerdict = iota // no startup packet, and no session has been set up
	GatePass                    // a startup packet
	GateOpen                    // the packet that completes a startup: what follows may be anything
)

// GateState is what a Gate remembers of a near and a far address that exchange packets. The zero value is the beginning. Until the gate is
// open a session ID is what the end has announced in an IIKeying; then both are the session's.
//
//	near, far: session IDs of packets to that end
//	cookie: a hash of the last cookie that the far end gave, 0 without
//	flags: see below
//	own, own: 64 bits, two of them set for each session ID that the near end has announced
type GateState [6]uint32

const (
	gateNear   = iota // session ID of packets to the near end
	gateFar           // to the far end
	gateCookie        //
	gateFlags         //
	gateOwn           // and the one behind it
)

const (
	nearAnnounced = 1 << iota // the near end's IIKeying has passed
	farAnnounced              // the far end's
	cookieEchoed              // the near end's IIKeying has had the far end's cookie
)

// Proven reports whether the near end has echoed a cookie that the far end sent it: whoever forges the near end's address cannot.
func (s *GateState) Proven() bool { return s[gateFlags]&cookieEchoed != 0 }

// Gate tells an RTMFP session from everything else by its startup, which everybody can read: it is encrypted with a published key
// (RFC 7425 §4.1). A relay that lets only startup packets through until an IIKeying has been answered by an RIKeying with the
// initiator's session ID carries sessions between two ends that both want them, and no other protocol to an end that does not
// collude.
//
//	                    IIKeying (sid i)          RIKeying to i
//	IHello, RHello ───▶ announced ──────────────▶ open
//	Redirect, cookie change: pass in every state; anything else: only when open
//
// A Gate holds no state of its own and may be used by any number of goroutines.
//
// # Limitations
//
// What it cannot see is the session itself: two ends that collude can set up one with made-up keys and then say anything.
// A startup packet in fragments (§3.4) is judged by its first fragment.
type Gate struct{ block cipher.Block }

// NewGate makes a Gate.
func NewGate() *Gate {
	block, err := aes.NewCipher([]byte(defaultKey))
	if err != nil {
		panic("BUG: flash: " + err.Error())
	}
	return &Gate{block}
}

// Inspect judges a datagram from the near end (up) or from the far one, and notes in s what it tells. The datagram is not
// changed. Scratch is memory for its plaintext; with as many bytes as the datagram has, nothing is allocated.
func (g *Gate) Inspect(s *GateState, up bool, datagram, scratch []byte) GateVerdict {
	id, ok := rtmfp.SessionID(datagram)
	if !ok || len(datagram) > maxStartupPacket {
		return GateDrop
	}
	// A packet with a session ID is under the default key only if it answers an IIKeying (§2.3.6, §2.3.8).
	to, announced := s[gateNear], s[gateFlags]&nearAnnounced != 0
	if up {
		to, announced = s[gateFar], s[gateFlags]&farAnnounced != 0
	}
	answer := id != 0
	if answer && (!announced || id != to) {
		return GateDrop
	}
	chunks, ok := g.open(datagram[4:], scratch)
	if !ok {
		return GateDrop
	}
	next := *s
	verdict := GateDrop
	for len(chunks) >= 3 {
		t, n := rtmfp.ChunkType(chunks[0]), int(binary.BigEndian.Uint16(chunks[1:]))
		if len(chunks)-3 < n || t == rtmfp.ChunkPaddingFF || t == rtmfp.ChunkPadding {
			break // the rest is padding (§2.2.4)
		}
		v := next.chunk(up, answer, t, chunks[3:3+n], n)
		if v == GateDrop {
			return GateDrop
		}
		verdict = max(verdict, v)
		chunks = chunks[3+n:]
	}
	if verdict != GateDrop {
		*s = next
	}
	return verdict
}

// open decrypts and verifies a packet under the default key (RFC 7425 §4.7), and returns its chunks if it is one of session startup.
func (g *Gate) open(packet, scratch []byte) (chunks []byte, ok bool) {
	if len(packet) == 0 || len(packet)%blockSize != 0 {
		return nil, false
	}
	if len(scratch) < len(packet) {
		scratch = make([]byte, len(packet))
	}
	plain := scratch[:len(packet)]
	for at := 0; at < len(packet); at += blockSize {
		block := plain[at : at+blockSize]
		g.block.Decrypt(block, packet[at:])
		if at > 0 { // cipher block chaining from a vector of zeros
			for i := range block {
				block[i] ^= packet[at-blockSize+i]
			}
		} else if rtmfp.Mode(block[2]&3) != rtmfp.ModeStartup {
			return nil, false // most of what is no startup packet ends here
		}
	}
	if binary.BigEndian.Uint16(plain) != checksum(plain[2:]) {
		return nil, false
	}
	h, chunks, err := rtmfp.ParseHeader(plain[2:])
	return chunks, err == nil && h.Mode == rtmfp.ModeStartup
}

// chunk judges one chunk of a startup packet. answer says that the packet was for an announced session ID. size is the length that the
// chunk's header gives, more than b has in the first fragment of a packet.
func (s *GateState) chunk(up, answer bool, t rtmfp.ChunkType, b []byte, size int) GateVerdict {
	whole := len(b) == size
	var err error
	switch {
	case t == rtmfp.ChunkFragment && whole:
		return s.fragment(up, answer, b)
	case t == rtmfp.ChunkIHello && !answer:
		if whole {
			_, err = rtmfp.ParseIHello(b)
		}
	case t == rtmfp.ChunkRHello && !answer:
		h, e := rtmfp.ParseRHello(b)
		if err = e; !whole {
			err = nil // the certificate is what is long; the cookie is before it
		}
		if e == nil && !up {
			s[gateCookie] = cookieHash(h.Cookie)
		}
	case t == rtmfp.ChunkRedirect && !answer:
		err = checkRedirect(b)
	case t == rtmfp.ChunkCookieChange && answer:
		c, e := rtmfp.ParseCookieChange(b)
		if err = e; e == nil && !up {
			s[gateCookie] = cookieHash(c.NewCookie)
		}
	case t == rtmfp.ChunkIIKeying && !answer:
		if len(b) < 4 {
			return GateDrop
		}
		if whole {
			_, _, err = rtmfp.ParseIIKeying(b)
		}
		id := binary.BigEndian.Uint32(b)
		if err != nil || id == 0 {
			return GateDrop
		}
		low, high := ownBits(id)
		if !up && s[gateOwn]&low == low && s[gateOwn+1]&high == high {
			return GateDrop // an echo service gives back what it is sent, and consents to nothing
		}
		if up {
			s[gateNear] = id
			s[gateFlags] |= nearAnnounced
			s[gateOwn] |= low
			s[gateOwn+1] |= high
			n, rest, e := rtmfp.ParseVLU(b[4:]) // also of a first fragment, which has the cookie
			if e == nil && n <= uint64(len(rest)) && s[gateCookie] != 0 && cookieHash(rest[:n]) == s[gateCookie] {
				s[gateFlags] |= cookieEchoed
			}
		} else {
			s[gateFar] = id
			s[gateFlags] |= farAnnounced
		}
	case t == rtmfp.ChunkRIKeying && answer:
		if len(b) < 4 {
			return GateDrop
		}
		if whole {
			_, _, err = rtmfp.ParseRIKeying(b)
		}
		id := binary.BigEndian.Uint32(b)
		if err != nil || id == 0 {
			return GateDrop
		}
		if up {
			s[gateNear] = id
			s[gateFlags] |= cookieEchoed // the session ID that it answers came to the near end as a cookie would
		} else {
			s[gateFar] = id
		}
		return GateOpen
	default:
		return GateDrop
	}
	if err != nil {
		return GateDrop
	}
	return GatePass
}

// fragment judges a fragment of a startup packet (§3.4): the first one by the chunk that begins in it, others by their form.
func (s *GateState) fragment(up, answer bool, b []byte) GateVerdict {
	f, err := rtmfp.ParseFragment(b)
	if err != nil {
		return GateDrop
	}
	if f.Number > 0 {
		return GatePass
	}
	h, chunks, err := rtmfp.ParseHeader(f.Data)
	if err != nil || h.Mode != rtmfp.ModeStartup || len(chunks) < 3 || rtmfp.ChunkType(chunks[0]) == rtmfp.ChunkFragment {
		return GateDrop
	}
	size := int(binary.BigEndian.Uint16(chunks[1:]))
	return s.chunk(up, answer, rtmfp.ChunkType(chunks[0]), chunks[3:min(len(chunks), 3+size)], size)
}

// checkRedirect is rtmfp.ParseRedirect without its result.
func checkRedirect(b []byte) error {
	n, b, err := rtmfp.ParseVLU(b)
	if err != nil {
		return err
	}
	if n > uint64(len(b)) {
		return rtmfp.ErrTruncated
	}
	for b = b[n:]; len(b) > 0; {
		if _, b, err = rtmfp.ParseAddress(b); err != nil {
			return err
		}
	}
	return nil
}

// ownBits are the two bits of a session ID. Every ID that the near end announces sets its own, so that none comes back as the far end's; of the far end's
// own one in a thousand is mistaken for one, and then only in glare.
func ownBits(id uint32) (low, high uint32) {
	h := id * 2654435769
	bits := uint64(1)<<(h>>26) | uint64(1)<<(h>>20&63)
	return uint32(bits), uint32(bits >> 32)
}

func cookieHash(cookie []byte) uint32 {
	h := uint32(2166136261) // FNV-1a: it is compared with what the far end could choose anyway
	for _, c := range cookie {
		h = (h ^ uint32(c)) * 16777619
	}
	return max(h, 1)
}

// Belongs reports whether a datagram from another port of the far end's address belongs to the session that opened s: its NAT may
// have given the far end another port. 32 bits that the far end and the near one alone have seen say so.
func (g *Gate) Belongs(s *GateState, datagram []byte) bool {
	id, ok := rtmfp.SessionID(datagram)
	return ok && id != 0 && id == s[gateNear]
}

// SealHello makes a datagram of an IHello whose tag is data, at most 1,400 bytes: a question that every relay of RTMFP carries, and that asks for an
// identity that nobody has. Probes go through a relay in it.
func SealHello(data []byte) []byte {
	return SealStartup(0, rtmfp.AppendIHello(nil, rtmfp.IHello{EPD: PeerID{}.EPD(), Tag: data}))
}

// SealStartup makes a datagram of a chunk of session startup, for a session ID or 0.
func SealStartup(session uint32, chunk []byte) []byte {
	plain := append(rtmfp.AppendHeader(nil, rtmfp.Header{Mode: rtmfp.ModeStartup}), chunk...)
	b := newDefaultCipher().Seal(make([]byte, 4, len(plain)+24), plain)
	rtmfp.PutSessionID(b, session)
	return b
}

// OpenHello returns what SealHello was given. It reports false for what SealHello has not made.
func OpenHello(datagram []byte) (data []byte, ok bool) {
	if id, ok := rtmfp.SessionID(datagram); !ok || id != 0 {
		return nil, false
	}
	plain, err := newDefaultCipher().Open(append([]byte(nil), datagram[4:]...))
	if err != nil {
		return nil, false
	}
	h, chunks, err := rtmfp.ParseHeader(plain)
	if err != nil || h.Mode != rtmfp.ModeStartup {
		return nil, false
	}
	for t, payload := range rtmfp.Chunks(chunks) {
		hello, err := rtmfp.ParseIHello(payload)
		if t != rtmfp.ChunkIHello || err != nil || string(hello.EPD) != string(PeerID{}.EPD()) {
			return nil, false
		}
		return hello.Tag, true
	}
	return nil, false
}

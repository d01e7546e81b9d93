package rtmfp

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"
)

// A cookie proves that its holder received an RHello at an address not long ago, and costs the responder no memory
// (§3.5.1.1.2). The first MAC tells a cookie of ours for another address from a foreign one (§3.5.1.2).
//
//	clock:32 mac(clock)[28] mac(clock, address)[32]
const (
	cookieOwn     = 4
	cookieAddress = 32
)

type cookieVerdict uint8

const (
	cookieForeign cookieVerdict = iota // not ours, or expired
	cookieMoved                        // ours, for another address
	cookieValid
)

func (e *Endpoint) cookieMAC(kind byte, stamp []byte, addr netip.AddrPort) [32]byte {
	mac := hmac.New(sha256.New, e.cfg.CookieKey[:])
	var buf [32]byte
	b := append(append(buf[:0], kind), stamp...)
	if kind == 'A' {
		ip := addr.Addr().As16()
		b = binary.BigEndian.AppendUint16(append(b, ip[:]...), addr.Port())
	}
	mac.Write(b)
	var sum [32]byte
	mac.Sum(sum[:0])
	return sum
}

func (e *Endpoint) appendCookie(b []byte, addr netip.AddrPort) []byte {
	var stamp [4]byte
	binary.BigEndian.PutUint32(stamp[:], e.cookieClock())
	own, bound := e.cookieMAC('C', stamp[:], addr), e.cookieMAC('A', stamp[:], addr)
	b = append(append(b, stamp[:]...), own[:cookieAddress-cookieOwn]...)
	return append(b, bound[:]...)
}

// cookieTick is the unit of a cookie's clock: fine enough to tell a packet that was late from a peer that has restarted, and
// coarse enough for 32 bits to wrap in more than a year.
const cookieTick = 10 * time.Millisecond

// cookieClock counts from the epoch of the calendar, so that endpoints that share a key agree.
func (e *Endpoint) cookieClock() uint32 {
	return uint32(e.epoch.Add(time.Duration(e.now)).UnixMilli() / cookieTick.Milliseconds())
}

// cookieStamp is when a cookie of ours was made.
func cookieStamp(cookie []byte) uint32 { return binary.BigEndian.Uint32(cookie) }

func (e *Endpoint) checkCookie(cookie []byte, addr netip.AddrPort) cookieVerdict {
	if len(cookie) != cookieSize {
		return cookieForeign
	}
	stamp := cookie[:cookieOwn]
	// Unsigned: a cookie from the future is very old.
	if age := e.cookieClock() - cookieStamp(stamp); time.Duration(age)*cookieTick > cookieLifetime {
		return cookieForeign
	}
	if own := e.cookieMAC('C', stamp, addr); !hmac.Equal(own[:cookieAddress-cookieOwn], cookie[cookieOwn:cookieAddress]) {
		return cookieForeign
	}
	if bound := e.cookieMAC('A', stamp, addr); !hmac.Equal(bound[:], cookie[cookieAddress:]) {
		return cookieMoved
	}
	return cookieValid
}

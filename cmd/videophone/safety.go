package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
)

// A short code that both people read to each other proves that nobody sits between them: it is made of the session's nonces, which no one in the
// middle can make equal on both sides. A short code alone could be searched for: whoever sits in the middle tries keys until two codes agree.
// So each side adds a random number, and the caller commits to its own before it learns the other:
//
//	caller                               callee
//	onVerify1(SHA-256(own number)) ────▶
//	                               ◀──── onVerify2(own number)
//	onVerify3(own number) ─────────────▶
//
// After that a man in the middle has one try in a million, and a failed try shows.
const (
	onVerify1 = "onVerify1"
	onVerify2 = "onVerify2"
	onVerify3 = "onVerify3"

	safetyLabel = "stile videophone safety code 1"
	numberSize  = 16
)

// safety is one side of the exchange, for one call. It performs no I/O.
type safety struct {
	caller    bool
	near, far []byte // the session's nonces
	own       [numberSize]byte
	commit    []byte // the caller's, as received
	stage     int    // messages sent and received that counted
	code      string // when both sides have it
	failed    bool   // a message that cannot be right: somebody interferes
}

// newSafety begins. rand gives the random number.
func newSafety(caller bool, near, far []byte, rand io.Reader) (*safety, error) {
	s := &safety{caller: caller, near: near, far: far}
	_, err := io.ReadFull(rand, s.own[:])
	return s, err
}

// begin returns what the caller sends first; ok is false for the callee.
func (s *safety) begin() (function, arg string, ok bool) {
	if !s.caller || s.stage != 0 {
		return "", "", false
	}
	s.stage = 1
	sum := sha256.Sum256(s.own[:])
	return onVerify1, hex.EncodeToString(sum[:]), true
}

// message takes a step, and returns what to answer; ok is false when there is nothing to say.
func (s *safety) message(function, arg string) (answer, value string, ok bool) {
	b, err := hex.DecodeString(arg)
	want := map[string]struct {
		caller      bool
		stage, size int
	}{onVerify1: {false, 0, sha256.Size}, onVerify2: {true, 1, numberSize}, onVerify3: {false, 1, numberSize}}[function]
	if s.failed || want.size == 0 || want.caller != s.caller || want.stage != s.stage {
		return "", "", false // late, repeated or for the other side: it changes nothing
	}
	if err != nil || len(b) != want.size {
		s.failed = true
		return "", "", false
	}
	switch function {
	case onVerify1:
		s.commit, s.stage = b, 1
		return onVerify2, hex.EncodeToString(s.own[:]), true
	case onVerify2:
		s.stage, s.code = 2, safetyCode(s.near, s.far, s.own[:], b)
		return onVerify3, hex.EncodeToString(s.own[:]), true
	default:
		if sum := sha256.Sum256(b); !hmac.Equal(sum[:], s.commit) {
			s.failed = true
			return "", "", false
		}
		s.stage, s.code = 2, safetyCode(s.far, s.near, b, s.own[:])
		return "", "", false
	}
}

// safetyCode is six digits in two groups. The nonces are the caller's near and far one.
func safetyCode(near, far, callers, callees []byte) string {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(safetyLabel), near, far, callers, callees} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	n := binary.BigEndian.Uint64(h.Sum(nil)) % 1_000_000
	return fmt.Sprintf("%03d %03d", n/1000, n%1000)
}

package nattest

import (
	"math"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

func TestSilenceIsFishersExactTest(t *testing.T) {
	for n := range 12 {
		for k := range 30 {
			for f := range k + 1 {
				want := 1.0
				if n > 0 && k > 0 && f < k {
					q := new(big.Rat).SetFrac(new(big.Int).Binomial(int64(k), int64(f)), new(big.Int).Binomial(int64(n+k), int64(n+f)))
					want, _ = q.Float64()
				}
				if got := silence(n, k, f); math.Abs(got-want) > 1e-9*want {
					t.Fatalf("silence(%d, %d, %d) is %v, want %v", n, k, f, got, want)
				}
			}
		}
	}
}

// random is a source of random numbers that is the same in each run.
type random struct{ *rand.Rand }

func (r random) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return len(b), nil
}

func newTestSession() *session {
	server := ServerSeen{Name: "s", Addr: netip.MustParseAddrPort("198.51.100.1:3478")}
	plan := NewPlan(PlanConfig{Servers: 1, Ports: []uint16{3479}, Relay: true})
	return newSession(plan, []ServerSeen{server}, DefaultPackets, 0, random{rand.New(rand.NewPCG(1, 2))})
}

func TestFirstRoundHasTheFilteringProbesAndGoesToNoOtherAddress(t *testing.T) {
	s := newTestSession()
	now := time.Unix(0, 0)
	s.start(now)
	sent := make(map[int]bool)
	for _, o := range s.out {
		sent[o.socket] = true
		if o.to != s.primary {
			t.Errorf("socket %d sends to %v at once", o.socket, o.to)
		}
	}
	if !sent[socketBoth] || !sent[socketPort] {
		t.Errorf("the first round is from %v", sent)
	}
}

func TestSessionThatHearsNothingEnds(t *testing.T) {
	s := newTestSession()
	start := time.Unix(0, 0)
	now := start
	s.start(now)
	for !s.done(now) {
		next := s.tick(now)
		if !next.After(now) {
			next = now.Add(time.Millisecond)
		}
		now = next
	}
	if d := now.Sub(start); d != DefaultTimeout || s.sent > DefaultPackets {
		t.Errorf("after %v, %d packets", d, s.sent)
	}
}

// The parser of replies: whatever comes, with the right transaction ID or not, the session neither panics nor sends too much.
func FuzzReplies(f *testing.F) {
	reply := func(change func(*stun.Builder)) []byte {
		b := stun.Begin(nil, 0x0101, stun.TransactionID{})
		change(&b)
		return b.Bytes()
	}
	f.Add(reply(func(b *stun.Builder) { b.XORAddress(stun.AttrXORMappedAddress, netip.MustParseAddrPort("1.2.3.4:5")) }), uint8(0))
	f.Add(reply(func(b *stun.Builder) { b.Address(stun.AttrOtherAddress, netip.MustParseAddrPort("198.51.100.2:3479")) }), uint8(1))
	f.Add(reply(func(b *stun.Builder) { b.ErrorCode(420, "") }), uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, which uint8) {
		s := newTestSession()
		now := time.Unix(0, 0)
		s.start(now)
		sources := []netip.AddrPort{s.primary, netip.MustParseAddrPort("198.51.100.1:3479"), netip.MustParseAddrPort("198.51.100.2:3479"), {}}
		for round := range 20 {
			for _, o := range s.out {
				x := append([]byte(nil), b...)
				if len(x) >= stun.HeaderSize { // answer what was asked
					copy(x[8:stun.HeaderSize], o.bytes[8:stun.HeaderSize])
				}
				s.handle(now, o.socket, sources[(int(which)+round)%len(sources)], x)
			}
			s.out = s.out[:0]
			now = now.Add(20 * time.Millisecond)
			s.tick(now)
			if s.done(now) {
				break
			}
		}
		if s.sent > DefaultPackets {
			t.Errorf("%d packets", s.sent)
		}
		Classify(s.observations(now, nil, func(int) netip.AddrPort { return netip.AddrPort{} }))
	})
}

package main

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"

	"github.com/stilenet/stile/stun"
)

var testPeer = netip.MustParseAddrPort("192.0.2.210:18200")

// reply builds a response to what the allocation waits for.
func reply(a *allocation, class stun.Class, add func(b *stun.Builder)) stun.Message {
	method := map[step]stun.Method{stepAllocate: stun.Allocate, stepBind: stun.ChannelBind, stepPermit: stun.CreatePermission, stepRelease: stun.Refresh}[a.step]
	b := stun.Begin(nil, stun.NewType(method, class), a.id)
	if add != nil {
		add(&b)
	}
	m, err := stun.Parse(b.Bytes())
	if err != nil {
		panic(err)
	}
	return m
}

func TestAllocateWithoutCredentialsIsTheDraftsMinimum(t *testing.T) {
	a := allocation{}
	a.begin(stepAllocate)
	a.id = stun.TransactionID(bytes.Repeat([]byte{0x11}, 12))
	want, _ := hex.DecodeString("000300102112a442111111111111111111111111" + "0019000411000000" + "000d000400000e10")
	if got := a.request(nil, credentials{}); !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

func TestAnAllocationTakesTheStepsOfItsMode(t *testing.T) {
	relay := netip.MustParseAddrPort("203.0.113.1:50000")
	success := func(b *stun.Builder) { b.XORAddress(stun.AttrXORRelayedAddress, relay) }
	challenge := func(code int) func(b *stun.Builder) {
		return func(b *stun.Builder) {
			b.ErrorCode(code, "no")
			b.String(stun.AttrRealm, "example.org")
			b.String(stun.AttrNonce, "nonce")
		}
	}
	cases := []struct {
		name  string
		mode  Mode
		cred  credentials
		reply []func(a *allocation) stun.Message
		want  []step
	}{
		{"channel", Channel, credentials{}, []func(a *allocation) stun.Message{
			func(a *allocation) stun.Message { return reply(a, stun.Success, success) },
			func(a *allocation) stun.Message { return reply(a, stun.Success, nil) },
		}, []step{stepBind, stepReady}},
		{"indication", Indication, credentials{}, []func(a *allocation) stun.Message{
			func(a *allocation) stun.Message { return reply(a, stun.Success, success) },
		}, []step{stepReady}},
		{"indication with credentials", Indication, credentials{"u", "p"}, []func(a *allocation) stun.Message{
			func(a *allocation) stun.Message { return reply(a, stun.Error, challenge(401)) },
			func(a *allocation) stun.Message { return reply(a, stun.Success, success) },
			func(a *allocation) stun.Message { return reply(a, stun.Success, nil) },
		}, []step{stepAllocate, stepPermit, stepReady}},
		{"wrong credentials are asked for once", Channel, credentials{"u", "p"}, []func(a *allocation) stun.Message{
			func(a *allocation) stun.Message { return reply(a, stun.Error, challenge(401)) },
			func(a *allocation) stun.Message { return reply(a, stun.Error, challenge(401)) },
		}, []step{stepAllocate, stepFailed}},
		{"credentials wanted and not given", Channel, credentials{}, []func(a *allocation) stun.Message{
			func(a *allocation) stun.Message { return reply(a, stun.Error, challenge(401)) },
		}, []step{stepFailed}},
		{"quota", Channel, credentials{}, []func(a *allocation) stun.Message{
			func(a *allocation) stun.Message {
				return reply(a, stun.Error, func(b *stun.Builder) { b.ErrorCode(486, "full") })
			},
		}, []step{stepFailed}},
		{"success without an address", Channel, credentials{}, []func(a *allocation) stun.Message{
			func(a *allocation) stun.Message { return reply(a, stun.Success, nil) },
		}, []step{stepFailed}},
	}
	for _, c := range cases {
		a := allocation{peer: testPeer, channel: 0x4000}
		a.begin(stepAllocate)
		var got []step
		for _, r := range c.reply {
			m := r(&a)
			if !a.response(m, c.mode, c.cred) {
				t.Errorf("%s: an answer was not taken", c.name)
			}
			got = append(got, a.step)
			if a.waiting() {
				if req := a.request(nil, c.cred); a.nonce != nil {
					rm, err := stun.Parse(req)
					if err != nil || !stun.NewMac(stun.LongTermKey("u", "example.org", "p")).Check(rm) {
						t.Errorf("%s: the request after a challenge is not signed (%v)", c.name, err)
					}
				}
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: steps %v, want %v (%s)", c.name, got, c.want, a.err)
		}
	}
}

func TestAnAnswerToAnotherTransactionIsIgnored(t *testing.T) {
	a := allocation{}
	a.begin(stepAllocate)
	other := a
	other.newTransaction()
	if a.response(reply(&other, stun.Success, nil), Channel, credentials{}) || a.step != stepAllocate {
		t.Error("a strange answer moved the allocation")
	}
}

func TestWhatIsWrappedHasTheProbeWhereItIsSaidToBe(t *testing.T) {
	payload := bytes.Repeat([]byte{7}, 100)
	putProbe(payload, probe{tag: 1, alloc: 2, sent: 3, seq: 4})
	for _, mode := range []Mode{Channel, Indication} {
		for _, peer := range []string{"192.0.2.210:18200", "[2001:db8::1]:18200"} {
			a := allocation{peer: netip.MustParseAddrPort(peer), channel: 0x4000}
			b := a.wrap(nil, mode, payload)
			if p, _ := parseProbe(b[a.offset(mode):]); p != (probe{1, 2, 3, 4}) {
				t.Errorf("%s to %s: the probe is not at %d", mode, peer, a.offset(mode))
			}
			if a.offset(mode)%2 != 0 {
				t.Errorf("%s to %s: odd offset %d", mode, peer, a.offset(mode))
			}
		}
	}
}

func TestUnwrapFindsDataInBothFormsEvenWhenCutOff(t *testing.T) {
	payload := bytes.Repeat([]byte{7}, 1200)
	putProbe(payload, probe{tag: 9})
	cd := append([]byte{0x40, 1, 1200 >> 8, 1200 & 0xFF}, payload...)
	b := stun.Begin(nil, stun.NewType(stun.Data, stun.Indication), stun.TransactionID{1})
	b.XORAddress(stun.AttrXORPeerAddress, testPeer)
	b.String(stun.AttrSoftware, "seven!!") // is padded
	b.Attr(stun.AttrData, payload)
	for name, whole := range map[string][]byte{"ChannelData": cd, "Data": b.Bytes()} {
		for _, keep := range []int{len(whole), 128, 98} {
			head, size, ok := unwrap(whole[:keep], len(whole))
			if p, found := parseProbe(head); !ok || size != 1200 || !found || p.tag != 9 {
				t.Errorf("%s, %d bytes kept: %d bytes, %v, %v", name, keep, size, ok, found)
			}
		}
		for keep := range whole {
			unwrap(whole[:keep], len(whole)) // must not panic
		}
	}
	if _, _, ok := unwrap(cd[:128], 64); ok {
		t.Error("ChannelData longer than its datagram is taken")
	}
	if _, _, ok := unwrap(b.Bytes()[:24], 24); ok {
		t.Error("a Data indication without DATA is taken")
	}
}

func TestCommandsAreSplitLikeAShellDoes(t *testing.T) {
	got, err := expand(`srv -a {ip}:{port} 'two words' "{dir}/x"  --y=''`, map[string]string{"ip": "10.0.0.1", "port": "3478", "dir": "/tmp/d"})
	want := []string{"srv", "-a", "10.0.0.1:3478", "two words", "/tmp/d/x", "--y="}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "  ", "srv 'open"} {
		if args, err := splitCommand(bad); err == nil {
			t.Errorf("%q became %q", bad, args)
		}
	}
	for _, bad := range []string{"", "nobody", "=x", "a b=x", "a="} {
		if s, err := parseServerSpec(bad); err == nil {
			t.Errorf("%q became %+v", bad, s)
		}
	}
}

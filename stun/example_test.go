package stun_test

import (
	"encoding/hex"
	"fmt"
	"net/netip"

	"github.com/stilenet/stile/stun"
)

// A server looks at a Send indication of TURN.
func ExampleParse() {
	datagram, _ := hex.DecodeString("001600182112a442222222222222222222222222" + "001200080001660ae112a690" + "0013000568656c6c6f000000")
	m, err := stun.Parse(datagram)
	if err != nil || m.CheckFingerprint() == stun.FingerprintInvalid {
		return // dropped and counted
	}
	if m.Type() == stun.NewType(stun.Send, stun.Indication) {
		peer, _ := m.GetXORAddress(stun.AttrXORPeerAddress)
		data, _ := m.Get(stun.AttrData)
		fmt.Printf("%q to %v\n", data, peer)
	}
	// Output: "hello" to 192.0.2.210:18200
}

// The whole Binding server: what is read is answered to where it came from, or not at all.
func ExampleRespond() {
	b := stun.Begin(nil, stun.NewType(stun.Binding, stun.Request), stun.TransactionID{1, 2, 3})
	request := b.Bytes()
	local, remote := netip.MustParseAddrPort("198.51.100.1:3478"), netip.MustParseAddrPort("192.0.2.1:32853")

	buf := make([]byte, 0, 64) // kept by the loop that reads
	if reply := stun.Respond(buf[:0], request, local, remote); len(reply) > 0 {
		m, _ := stun.Parse(reply)
		mapped, _ := m.GetXORAddress(stun.AttrXORMappedAddress)
		fmt.Println(len(request), "bytes are answered with", len(reply), "bytes:", mapped)
	}
	// Output: 20 bytes are answered with 32 bytes: 192.0.2.1:32853
}

// A client repeats its Refresh request with long-term credentials, and the server checks them.
func ExampleBuilder() {
	key := stun.LongTermKey("alice", "example.org", "secret")

	b := stun.Begin(nil, stun.NewType(stun.Refresh, stun.Request), stun.TransactionID{1, 2, 3}) // random in a program
	b.Uint32(stun.AttrLifetime, 600)
	b.String(stun.AttrUsername, "alice")
	b.String(stun.AttrRealm, "example.org")
	b.String(stun.AttrNonce, "from the 401")
	b.Integrity(stun.NewMac(key))
	b.Fingerprint()

	m, err := stun.Parse(b.Bytes())
	fmt.Println(b.Len(), err, stun.NewMac(key).Check(m), stun.NewMac([]byte("guess")).Check(m))
	// Output: 104 <nil> true false
}

package turn

import (
	"bytes"
	"testing"

	"github.com/stilenet/stile/stun"
)

// The vectors are generated; their XOR-ed addresses are checked against those of RFC 5769. The server relays from 192.0.2.15:50000 only,
// and the client is 192.0.2.1:7000.
func vectorServer(t *testing.T) *client {
	return newServer(t, setup{ports: PortRange{50000, 50000}}).client("192.0.2.1:7000")
}

const (
	vectorAllocate = "00030008 2112a442 11111111 11111111 11111111 00190004 11000000"
	vectorSuccess  = "01030020 2112a442 11111111 11111111 11111111 " +
		"00160008 0001e242 e112a64d 000d0004 00000258 00200008 00013a4a e112a643"
	vectorSend = "00160018 2112a442 22222222 22222222 22222222 00120008 0001660a e112a690 00130005 68656c6c 6f000000"
	vectorBind = "00090014 2112a442 44444444 44444444 44444444 000c0004 40010000 00120008 0001660a e112a690"
)

// answers fails unless the message gets exactly this answer; "" is none.
func (c *client) answers(message, answer string) {
	c.t.Helper()
	var got []byte
	if out := c.give(unhex(c.t, message)); len(out) == 1 && out[0].Kind == ToClient {
		got = out[0].Data
	} else if len(out) != 0 {
		c.t.Fatalf("%s: %+v", message, out)
	}
	if w := unhex(c.t, answer); !bytes.Equal(got, w) {
		c.t.Errorf("%s\n got %x\nwant %x", message, got, w)
	}
}

func TestVectorAllocateSuccess(t *testing.T) {
	c := vectorServer(t)
	c.answers(vectorAllocate, vectorSuccess)
	c.answers(vectorAllocate, vectorSuccess) // a retransmission
}

func TestVectorAllocateMismatch(t *testing.T) {
	c := vectorServer(t)
	c.answers(vectorAllocate, vectorSuccess)
	c.answers("00030008 2112a442 66666666 66666666 66666666 00190004 11000000",
		"0113001c 2112a442 66666666 66666666 66666666 00090018 00000425 416c6c6f 63617469 6f6e204d 69736d61 7463682e")
}

func TestVectorAllocateWithFingerprintIsAnsweredWithOne(t *testing.T) {
	c := vectorServer(t)
	_, answer := c.ask(unhex(t, "00030010 2112a442 11111111 11111111 11111111 00190004 11000000 80280004 73ca7932"))
	same(t, "FINGERPRINT", answer.CheckFingerprint(), stun.FingerprintValid)
	same(t, "bytes", len(answer.Raw()), len(unhex(t, vectorSuccess))+8)
}

func TestVectorAllocateEvenAndReserve(t *testing.T) {
	s := newServer(t, setup{ports: PortRange{50000, 50001}})
	c := s.client("192.0.2.1:7000")
	code, answer := c.ask(unhex(t, "00030010 2112a442 12121212 12121212 12121212 00190004 11000000 00180004 c0000000"))
	same(t, "code", code, 0)
	same(t, "port", c.relayed.Port(), 50000)
	same(t, "token", len(c.token), 8)
	same(t, "bytes", len(answer.Raw()), len(unhex(t, vectorSuccess))+12)
	same(t, "reserved", s.ledger.Ports().Reserved, 1)
}

func TestVectorSendIsRelayedAndOpensThePermission(t *testing.T) {
	c := vectorServer(t)
	c.answers(vectorAllocate, vectorSuccess)
	c.relayed = endpointOf("192.0.2.15:50000")
	same(t, "before", c.hears("192.0.2.210:18200"), "")
	same(t, "Send", toPeer(c.give(unhex(t, vectorSend))), "2->192.0.2.210:18200 hello")
	same(t, "after", c.hears("192.0.2.210:18200"), "data")
	same(t, "another port", c.hears("192.0.2.210:1"), "data")
	same(t, "another address", c.hears("192.0.2.211:18200"), "")
}

func TestVectorSendWithoutDataOpensThePermissionOnly(t *testing.T) {
	c := vectorServer(t)
	c.answers(vectorAllocate, vectorSuccess)
	c.relayed = endpointOf("192.0.2.15:50000")
	out := c.expect(PermissionOnly, func() []Output {
		return c.give(unhex(t, "0016000c 2112a442 23232323 23232323 23232323 00120008 00012112 e112a690"))
	})
	same(t, "outputs", len(out), 0)
	same(t, "after", c.hears("192.0.2.210:18200"), "data")
}

func TestVectorData(t *testing.T) {
	c := vectorServer(t)
	c.answers(vectorAllocate, vectorSuccess)
	c.give(unhex(t, vectorSend))
	out := c.peer(endpointOf("192.0.2.15:50000"), "192.0.2.210:18200", []byte("world!!!"))
	w := unhex(t, "00170018 2112a442 33333333 33333333 33333333 00120008 0001660a e112a690 00130008 776f726c 64212121")
	if len(out) != 1 || len(out[0].Data) != len(w) {
		t.Fatalf("%+v", out)
	}
	copy(out[0].Data[8:20], w[8:20]) // the transaction ID is a random one
	if !bytes.Equal(out[0].Data, w) {
		t.Errorf(" got %x\nwant %x", out[0].Data, w)
	}
}

func TestVectorChannels(t *testing.T) {
	c := vectorServer(t)
	c.answers(vectorAllocate, vectorSuccess)
	c.relayed = endpointOf("192.0.2.15:50000")
	c.answers(vectorBind, "01090000 2112a442 44444444 44444444 44444444")
	c.answers("00090014 2112a442 45454545 45454545 45454545 000c0004 fffe0000 00120008 0001660a e112a691",
		"01090000 2112a442 45454545 45454545 45454545")
	for _, data := range []string{"40010005 68656c6c 6f", "40010005 68656c6c 6f000000", "40010005 68656c6c 6fff"} { // padded or not
		same(t, data, toPeer(c.give(unhex(t, data))), "2->192.0.2.210:18200 hello")
	}
	same(t, "0xFFFE", toPeer(c.give(unhex(t, "fffe0005 68656c6c 6f"))), "2->192.0.2.211:18200 hello")
	same(t, "an empty one", toPeer(c.give(unhex(t, "40010000"))), "2->192.0.2.210:18200 ")
	out := c.peer(c.relayed, "192.0.2.210:18200", []byte("hello"))
	if len(out) != 1 || !bytes.Equal(out[0].Data, unhex(t, "40010005 68656c6c 6f")) {
		t.Errorf("%+v", out)
	}
	same(t, "another port of the peer", c.hears("192.0.2.210:18201"), "data")
}

func TestVectorChannelDataOnAStreamIsPadded(t *testing.T) {
	c := newServer(t, setup{ports: PortRange{50000, 50000}}).stream("192.0.2.1:7000", 7)
	c.answers(vectorAllocate, vectorSuccess)
	c.answers(vectorBind, "01090000 2112a442 44444444 44444444 44444444")
	same(t, "up", toPeer(c.give(unhex(t, "40010005 68656c6c 6f000000"))), "2->192.0.2.210:18200 hello")
	out := c.peer(endpointOf("192.0.2.15:50000"), "192.0.2.210:18200", []byte("hello"))
	if len(out) != 1 || !bytes.Equal(out[0].Data, unhex(t, "40010005 68656c6c 6f000000")) {
		t.Errorf("%+v", out)
	}
}

func TestVectorRelease(t *testing.T) {
	c := vectorServer(t)
	const release, released = "00040008 2112a442 55555555 55555555 55555555 000d0004 00000000", "01040008 2112a442 55555555 55555555 55555555 000d0004 00000000"
	c.answers(vectorAllocate, vectorSuccess)
	c.give(unhex(t, vectorSend))
	c.answers(release, released)
	same(t, "allocations", c.stats().Allocations, 0)
	c.answers(release, released)             // a retransmission
	c.answers(vectorAllocate, vectorSuccess) // a late one
	same(t, "allocations after retransmissions", c.stats().Allocations, 0)
}

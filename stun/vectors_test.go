package stun_test

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stilenet/stile/stun"
)

// A vector is one whole datagram.
type vector struct {
	name string
	hex  string
	typ  stun.Type
	at   []attr // what Attrs must show
}

type attr struct {
	typ   stun.AttrType
	value string // bytes in hexadecimal
}

// turn08 are messages of draft-ietf-behave-turn-08. Provenance: generated for this project from the figures of the draft; the XOR
// of addresses agrees with RFC 5769 §2.2, the FINGERPRINT with an independent CRC-32.
var turn08 = []vector{
	{"allocate", "00030008 2112a442 11111111 11111111 11111111 00190004 11000000",
		0x0003, []attr{{0x0019, "11000000"}}},
	{"allocate-success", "01030020 2112a442 11111111 11111111 11111111" +
		"00160008 0001e242 e112a64d 000d0004 00000258 00200008 00013a4a e112a643",
		0x0103, []attr{{0x0016, "0001e242e112a64d"}, {0x000d, "00000258"}, {0x0020, "00013a4ae112a643"}}},
	{"allocate-requested-props", "00030010 2112a442 12121212 12121212 12121212 00190004 11000000 00180004 c0000000",
		0x0003, []attr{{0x0019, "11000000"}, {0x0018, "c0000000"}}},
	{"send", "00160018 2112a442 22222222 22222222 22222222 00120008 0001660a e112a690 00130005 68656c6c 6f000000",
		0x0016, []attr{{0x0012, "0001660ae112a690"}, {0x0013, "68656c6c6f"}}},
	{"send-without-data", "0016000c 2112a442 23232323 23232323 23232323 00120008 00012112 e112a690",
		0x0016, []attr{{0x0012, "00012112e112a690"}}},
	{"data", "00170018 2112a442 33333333 33333333 33333333 00120008 0001660a e112a690 00130008 776f726c 64212121",
		0x0017, []attr{{0x0012, "0001660ae112a690"}, {0x0013, "776f726c64212121"}}},
	{"channelbind", "00090014 2112a442 44444444 44444444 44444444 000c0004 40010000 00120008 0001660a e112a690",
		0x0009, []attr{{0x000c, "40010000"}, {0x0012, "0001660ae112a690"}}},
	{"channelbind-highest", "00090014 2112a442 45454545 45454545 45454545 000c0004 fffe0000 00120008 0001660a e112a691",
		0x0009, []attr{{0x000c, "fffe0000"}, {0x0012, "0001660ae112a691"}}},
	{"channelbind-success", "01090000 2112a442 44444444 44444444 44444444", 0x0109, nil},
	{"refresh", "00040008 2112a442 55555555 55555555 55555555 000d0004 00000000", 0x0004, []attr{{0x000d, "00000000"}}},
	{"refresh-success", "01040008 2112a442 55555555 55555555 55555555 000d0004 00000000", 0x0104, []attr{{0x000d, "00000000"}}},
	{"allocate-437", "0113001c 2112a442 66666666 66666666 66666666" +
		"00090018 00000425 416c6c6f 63617469 6f6e204d 69736d61 7463682e",
		0x0113, []attr{{0x0009, "00000425416c6c6f636174696f6e204d69736d617463682e"}}},
	{"allocate-fingerprint", "00030010 2112a442 11111111 11111111 11111111 00190004 11000000 80280004 73ca7932",
		0x0003, []attr{{0x0019, "11000000"}, {0x8028, "73ca7932"}}},
}

// rfc5769 are the messages of RFC 5769, April 2010. Their padding is not zero on purpose. Each has a MESSAGE-INTEGRITY, so that
// Attrs does not show the FINGERPRINT behind it.
var rfc5769 = []vector{
	{"rfc5769-2.1-request", "00010058 2112a442 b7e7a701 bc34d686 fa87dfae" +
		"80220010 5354554e 20746573 7420636c 69656e74" +
		"00240004 6e0001ff 80290008 932ff9b1 51263b36" +
		"00060009 6576746a 3a683676 59202020" +
		"00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2 80280004 e57a3bcf",
		0x0001, []attr{{0x8022, hex.EncodeToString([]byte("STUN test client"))}, {0x0024, "6e0001ff"}, {0x8029, "932ff9b151263b36"},
			{0x0006, hex.EncodeToString([]byte("evtj:h6vY"))}, {0x0008, "9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"}}},
	{"rfc5769-2.2-ipv4-response", "0101003c 2112a442 b7e7a701 bc34d686 fa87dfae" +
		"8022000b 74657374 20766563 746f7220 00200008 0001a147 e112a643" +
		"00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7 80280004 c07d4c96",
		0x0101, []attr{{0x8022, hex.EncodeToString([]byte("test vector"))}, {0x0020, "0001a147e112a643"},
			{0x0008, "2b91f599fd9e90c38c7489f92af9ba53f06be7d7"}}},
	{"rfc5769-2.3-ipv6-response", "01010048 2112a442 b7e7a701 bc34d686 fa87dfae" +
		"8022000b 74657374 20766563 746f7220" +
		"00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9" +
		"00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41 80280004 c8fb0b4c",
		0x0101, []attr{{0x8022, hex.EncodeToString([]byte("test vector"))}, {0x0020, "0002a1470113a9faa5d3f179bc25f4b5bed2b9d9"},
			{0x0008, "a382954e4be67bf11784c97c8292c275bfe3ed41"}}},
	{"rfc5769-2.4-long-term", "00010060 2112a442 78ad3433 c6ad72c0 29da412e" +
		"00060012 e3839ee3 8388e383 aae38383 e382afe3 82b90000" +
		"0015001c 662f2f34 39396b39 35346436 4f4c3334 6f4c3946 53547679 36347341" +
		"0014000b 6578616d 706c652e 6f726700" +
		"00080014 f6702465 6dd64a3e 02b8e071 2e85c9a2 8ca89666",
		0x0001, []attr{{0x0006, hex.EncodeToString([]byte("マトリックス"))}, {0x0015, hex.EncodeToString([]byte("f//499k954d6OL34oL9FSTvy64sA"))},
			{0x0014, hex.EncodeToString([]byte("example.org"))}, {0x0008, "f67024656dd64a3e02b8e0712e85c9a28ca89666"}}},
}

var (
	rfc5769ShortTerm = []byte("VOkJxbRl1RmTxUk/WvJxBt")                       // the password of §2.1 to §2.3
	rfc5769LongTerm  = stun.LongTermKey("マトリックス", "example.org", "TheMatrIX") // of §2.4, the password after SASLprep
)

var vectors = append(append([]vector{}, turn08...), rfc5769...)

// unhex reads hexadecimal digits with spaces between them.
func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b[:len(b):len(b)] // a parser that reads past the end fails
}

// message gives body a header: a Binding request with a fixed transaction ID and the length of body.
func message(body string) []byte {
	b := append(unhex("00010000 2112a442 01020304 05060708 090a0b0c"), unhex(body)...)
	return withLength(b)
}

// withLength makes the length field that of b.
func withLength(b []byte) []byte {
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-stun.HeaderSize))
	return b[:len(b):len(b)]
}

func mustParse(t testing.TB, b []byte) stun.Message {
	t.Helper()
	m, err := stun.Parse(b)
	if err != nil {
		t.Fatalf("Parse(%x): %v", b, err)
	}
	return m
}

// attrs is the walk of the message as a list.
func attrs(m stun.Message) (list []attr) {
	for it := m.Attrs(); it.Next(); {
		list = append(list, attr{it.Type, hex.EncodeToString(it.Value)})
	}
	return list
}

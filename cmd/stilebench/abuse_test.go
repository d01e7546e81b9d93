package main

import (
	"bytes"
	"encoding/binary"
	mathrand "math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/stilenet/stile/stun"
)

const repoRoot = "../.."

func TestMoreThanABoundIsASuccessOfTheAttack(t *testing.T) {
	var a AbuseTrial
	a.bounded("at the bound", 20, "packets", 20)
	a.none("nothing", 0, "")
	a.figure("a number", 1e9, "")
	a.limit("known")
	if a.Success() {
		t.Errorf("%+v", a.Successes)
	}
	a.bounded("above", 20.5, "packets", 20)
	a.none("something", 1, "hosts")
	if len(a.Successes) != 2 || a.Successes[0] != "above: 20.5 packets, more than 20 packets" || a.Successes[1] != "something: 1 hosts" {
		t.Errorf("%q", a.Successes)
	}
	rep := &AbuseReport{Server: "s", Trials: []AbuseTrial{{Name: "one", Question: "Does it?"}, a}}
	if rep.Succeeded() != 1 {
		t.Error(rep.Succeeded())
	}
	var out bytes.Buffer
	if err := writeAbuse(&out, rep); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one: no success", "SUCCESS", "! above: 20.5", "~ by design: known", "1 of 2 trials succeeded"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
}

func TestCorpusHasWhatEveryServerMustRefuse(t *testing.T) {
	list, err := readDisguises(repoRoot)
	if err != nil {
		t.Fatal(err)
	}
	has := map[netip.Addr]bool{}
	for _, d := range list {
		if has[d.peer] {
			t.Errorf("%v twice", d.peer)
		}
		has[d.peer] = true
	}
	for _, must := range []string{"127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "169.254.169.254", "fd00:ec2::254", "255.255.255.255", "10.2.0.5"} {
		if !has[netip.MustParseAddr(must)] {
			t.Errorf("%s is not there", must)
		}
	}
	for _, not := range []string{"93.184.216.34", "8.8.4.4", "203.0.113.5"} {
		if has[netip.MustParseAddr(not)] {
			t.Errorf("%s is there, and not every server must refuse it", not)
		}
	}
	if _, err := readDisguises(t.TempDir()); err == nil || !strings.Contains(err.Error(), "--repo") {
		t.Error(err)
	}
}

func TestFuzzInputsAreRead(t *testing.T) {
	got, err := parseFuzzInput([]byte("go test fuzz v1\n[]byte(\"\\x00\\x03a\")\nbyte('\\x02')\n"))
	if err != nil || !bytes.Equal(got, []byte{0, 3, 'a'}) {
		t.Errorf("%x, %v", got, err)
	}
	for _, bad := range []string{"", "go test fuzz v1", "go test fuzz v1\nint(3)\n", "[]byte(\"a\")\n[]byte(\"a\")", "go test fuzz v1\n[]byte(\"a)"} {
		if _, err := parseFuzzInput([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	list, err := readFuzzCorpora(repoRoot)
	if err != nil || len(list) < 50 {
		t.Errorf("%d inputs, %v", len(list), err)
	}
}

func TestPeersAreNamedInExactlyTheirForm(t *testing.T) {
	for _, text := range []string{"127.0.0.1:40000", "[::ffff:127.0.0.1]:40000", "[64:ff9b::7f00:1]:1"} {
		at := netip.MustParseAddrPort(text)
		m, err := stun.Parse(request(stun.ChannelBind, peerAttr(at)))
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := m.GetXORAddress(stun.AttrXORPeerAddress); !ok || got != at {
			t.Errorf("%v became %v", at, got)
		}
	}
}

func TestSmuggledMessageBeginsWhereTheRequestLineEndsAsChannelData(t *testing.T) {
	msg := request(stun.Allocate, udpTransport)
	b := smuggled("10.2.0.5:3478", msg)
	at := 4 + int(binary.BigEndian.Uint16(b[2:]))
	if !bytes.HasPrefix(b, []byte("POST ")) || !bytes.HasPrefix(b[at:], msg) {
		t.Errorf("%q at %d", b[at:at+8], at)
	}
	if _, body, _ := bytes.Cut(b, []byte("\r\n\r\n")); len(body) != 30000 {
		t.Errorf("a body of %d bytes", len(body))
	}
}

func TestMutantsFitADatagramAndAreOfEveryKind(t *testing.T) {
	seeds := [][]byte{request(stun.Allocate, udpTransport), {}, {0}}
	var malformed, whole int
	for _, m := range mutants(mathrand.New(mathrand.NewPCG(1, 2)), seeds, 2000) {
		if len(m) > 65507 {
			t.Fatalf("%d bytes", len(m))
		}
		if _, err := stun.Parse(m); err != nil {
			malformed++
		} else {
			whole++
		}
	}
	if malformed < 500 || whole < 10 {
		t.Errorf("%d malformed, %d not", malformed, whole)
	}
}

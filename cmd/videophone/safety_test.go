package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func safetyPair(t *testing.T, callerNear, callerFar, calleeNear, calleeFar string) (caller, callee *safety) {
	t.Helper()
	caller, err := newSafety(true, []byte(callerNear), []byte(callerFar), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	callee, err = newSafety(false, []byte(calleeNear), []byte(calleeFar), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return caller, callee
}

// exchange passes messages until both are silent.
func exchange(caller, callee *safety) {
	f, v, ok := caller.begin()
	to, from := callee, caller
	for ok {
		f, v, ok = to.message(f, v)
		to, from = from, to
	}
}

func TestBothSidesGetTheSameCode(t *testing.T) {
	codes := map[string]bool{}
	for range 50 {
		caller, callee := safetyPair(t, "near", "far", "far", "near")
		exchange(caller, callee)
		if caller.code == "" || caller.code != callee.code || len(caller.code) != 7 {
			t.Fatalf("%q and %q", caller.code, callee.code)
		}
		codes[caller.code] = true
	}
	if len(codes) < 45 {
		t.Errorf("%d codes of 50 calls", len(codes))
	}
}

func TestManInTheMiddleGetsAnotherCodeAtEachEnd(t *testing.T) {
	same := 0
	for range 50 {
		caller, toCallee := safetyPair(t, "a", "m", "m", "a") // the middle answers the caller in its own session
		fromCaller := toCallee
		toB, callee := safetyPair(t, "m2", "b", "b", "m2")
		exchange(caller, fromCaller)
		exchange(toB, callee)
		if caller.code == callee.code {
			same++
		}
	}
	if same > 1 {
		t.Errorf("%d of 50 codes agree", same)
	}
}

func TestNumberThatIsNotTheCommittedOneFails(t *testing.T) {
	_, callee := safetyPair(t, "near", "far", "far", "near")
	sum := sha256.Sum256([]byte("0123456789abcdef"))
	if f, _, ok := callee.message(onVerify1, hex.EncodeToString(sum[:])); !ok || f != onVerify2 {
		t.Fatal("no answer")
	}
	callee.message(onVerify3, hex.EncodeToString([]byte("fedcba9876543210")))
	if !callee.failed || callee.code != "" {
		t.Errorf("%+v", callee)
	}
}

func TestSafetyMessagesOutOfOrderChangeNothing(t *testing.T) {
	caller, callee := safetyPair(t, "near", "far", "far", "near")
	for _, f := range []string{onVerify3, onVerify2, "onIm"} {
		if _, _, ok := callee.message(f, strings.Repeat("00", numberSize)); ok || callee.failed || callee.stage != 0 {
			t.Errorf("%s: %+v", f, callee)
		}
	}
	caller.message(onVerify2, strings.Repeat("00", numberSize)) // before begin: the caller has committed to nothing
	if caller.code != "" {
		t.Error("the caller has a code before it has committed itself")
	}
	exchange(caller, callee)
	code := callee.code
	callee.message(onVerify1, strings.Repeat("00", sha256.Size))
	if callee.code != code || code == "" {
		t.Error("a repeated message changed the code")
	}
}

func TestProofHoldsForItsSessionOnly(t *testing.T) {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	public, signature := proof(key, []byte("near"), []byte("far"), "signer", "checker")
	if _, ok := checkProof(public, signature, []byte("far"), []byte("near"), "checker", "signer"); !ok {
		t.Error("a good proof is refused")
	}
	for _, c := range []struct{ public, signature, near, far, self, peer string }{
		{public, signature, "far", "other", "checker", "signer"},
		{public, signature, "near", "far", "checker", "signer"},
		{public, signature, "far", "near", "other", "signer"},
		{public, signature, "far", "near", "checker", "other"},
		{strings.Repeat("00", 32), signature, "far", "near", "checker", "signer"},
		{public, "", "far", "near", "checker", "signer"},
		{"", signature, "far", "near", "checker", "signer"},
	} {
		if _, ok := checkProof(c.public, c.signature, []byte(c.near), []byte(c.far), c.self, c.peer); ok {
			t.Errorf("%+v is accepted", c)
		}
	}
}

func TestKeyBookRemembersFriendsAndShowsAChangedKey(t *testing.T) {
	dir := t.TempDir()
	b, err := openKeyBook(dir)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := b.own("me", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		key  string
		want standing
	}{{"k1", standingNew}, {"k1", standingKnown}, {"k2", standingChanged}, {"k1", standingKnown}} {
		if got, err := b.meet("ann", step.key); got != step.want || err != nil {
			t.Errorf("%s: %q, %v, want %q", step.key, got, err, step.want)
		}
	}
	if err := b.trust("ann", "k2"); err != nil {
		t.Fatal(err)
	}
	again, err := openKeyBook(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := again.meet("ann", "k2"); got != standingVerified {
		t.Errorf("after a restart: %q", got)
	}
	if key, _ := again.own("me", rand.Reader); !bytes.Equal(key, mine) {
		t.Error("our own key changed with a restart")
	}
	if other, _ := again.own("another name", rand.Reader); bytes.Equal(other, mine) {
		t.Error("two names have one key")
	}
	if info, err := os.Stat(filepath.Join(dir, "keys.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for _, text := range []string{"{", `{"version":2}`} {
		os.WriteFile(filepath.Join(dir, "keys.json"), []byte(text), 0o600)
		if _, err := openKeyBook(dir); err == nil || !strings.Contains(err.Error(), "keys.json") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

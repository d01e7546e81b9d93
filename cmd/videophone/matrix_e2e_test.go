//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stilenet/stile/internal/netns"
	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/rtmfp/flash"
)

var stileBinary, phoneBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "videophone-e2e")
	if err != nil {
		panic(err)
	}
	stileBinary, phoneBinary = filepath.Join(dir, "stile"), filepath.Join(dir, "videophone")
	for binary, pkg := range map[string]string{stileBinary: "../stile", phoneBinary: "."} {
		if out, err := exec.Command("go", "build", "-o", binary, pkg).CombinedOutput(); err != nil {
			panic(string(out))
		}
	}
	// Pairs of the matrix mostly wait.
	flag.Parse()
	_ = flag.Set("test.parallel", "8")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

const (
	service = "203.0.113.1" // stile serve: rendezvous, directory, STUN, and the proxy of everybody but the offices
	oneWay  = 20 * time.Millisecond

	setupDirect  = 2 * time.Second
	setupRelayed = 4 * time.Second
)

// place is where a phone of the matrix stands.
type place struct {
	kind  string
	host  *netns.Host
	proxy string
}

// world is one laboratory for the whole matrix: two places of each kind, so that each pair has one of its own at each end.
type world struct {
	t           *testing.T
	lab         *netns.Lab
	inet        *netns.Internet
	left, right map[string]place
	oneNAT      [2]place
	services    []*netns.Cmd
}

var slow = netns.UserLinkConfig{Delay: oneWay}

// kinds are the places in the order of the issue.
var kinds = []string{"open", "full-cone", "restricted", "port-restricted", "symmetric", "blocked-dmz", "blocked-tcp", "cgn"}

func newWorld(t *testing.T) *world {
	w := &world{t: t, lab: netns.New(t), left: map[string]place{}, right: map[string]place{}}
	w.inet = w.lab.Internet()
	center := w.inet.Host("service", service, "203.0.113.2")
	for i, side := range []map[string]place{w.left, w.right} {
		for k, kind := range kinds {
			side[kind] = w.place(kind, i*len(kinds)+k)
		}
	}
	home := w.inet.Site(netns.SiteConfig{Name: "one-nat", NAT: netns.Masquerade, Public: "192.0.2.200", LAN: "10.200.0.0/24", Access: &slow})
	for i := range w.oneNAT {
		w.oneNAT[i] = place{"one-nat", home.Host(fmt.Sprintf("one-nat-%d", i)), service}
	}
	w.serve(center, "--turn.clients=10.0.0.0/8,100.64.0.0/10,192.0.2.0/24,198.51.100.0/24", "--stun.alternate.address=203.0.113.2")
	return w
}

// place builds the nth place of the world.
func (w *world) place(kind string, n int) place {
	name, public, lan := fmt.Sprintf("%s-%d", kind, n), fmt.Sprintf("192.0.2.%d", 10+n), fmt.Sprintf("10.%d.0.0/24", 10+n)
	site := func(nat netns.NATKind) place {
		s := w.inet.Site(netns.SiteConfig{Name: name, NAT: nat, Public: public, LAN: lan, Access: &slow})
		return place{kind, s.Host(name + "-phone"), service}
	}
	switch kind {
	case "open":
		h := w.lab.Host(name + "-phone")
		w.inet.AttachSlow(h.At(public+"/32").Named("wan"), slow)
		return place{kind, h, service}
	case "full-cone":
		return site(netns.FullCone)
	case "restricted":
		return site(netns.AddressRestricted)
	case "port-restricted":
		return site(netns.Masquerade)
	case "symmetric":
		return site(netns.FullyRandom)
	case "blocked-tcp":
		return site(netns.OnlyTCP(netip.MustParseAddrPort(service + ":3478")))
	case "cgn":
		carrier := w.inet.Site(netns.SiteConfig{Name: name + "-carrier", NAT: netns.Masquerade, Public: public, LAN: fmt.Sprintf("100.64.%d.0/24", n), Access: &slow})
		s := carrier.Site(netns.SiteConfig{Name: name, NAT: netns.Masquerade, Public: fmt.Sprintf("100.64.%d.2", n), LAN: lan})
		return place{kind, s.Host(name + "-phone"), service}
	case "blocked-dmz":
		return w.office(kind, name, public, n)
	}
	w.t.Fatal("no such place: " + kind)
	return place{}
}

// office is a LAN whose firewall lets no UDP to the internet, and a proxy in its DMZ, which may send.
func (w *world) office(kind, name, public string, n int) place {
	firewall, proxy, desk := w.lab.Router(name+"-fw"), w.lab.Host(name+"-proxy"), w.lab.Host(name+"-phone")
	w.inet.AttachSlow(firewall.At(public+"/32").Named("wan"), slow)
	dmz := fmt.Sprintf("198.51.100.%d", 8*(n+1))
	first := netip.MustParseAddr(dmz).Next()
	w.inet.Router.Route(dmz+"/29", public)
	w.lab.Link(firewall.At(first.String()+"/29").Named("dmz"), proxy.At(first.Next().String()+"/29"))
	proxy.Route("default", first.String())
	w.lab.Link(firewall.At(fmt.Sprintf("10.%d.0.1/24", 10+n)).Named("lan"), desk.At(fmt.Sprintf("10.%d.0.2/24", 10+n)))
	desk.Route("default", fmt.Sprintf("10.%d.0.1", 10+n))
	firewall.NFT(w.t.Context(), `
table inet fw {
	chain forward {
		type filter hook forward priority 0
		policy drop
		ct state established,related accept
		iifname "lan" oifname "dmz" meta l4proto { tcp, udp } th dport 3478 accept
		iifname "dmz" oifname "wan" meta l4proto udp accept
		iifname "wan" oifname "dmz" udp dport 49152-65535 accept
		iifname "lan" oifname "wan" meta l4proto tcp accept
	}
	chain postrouting {
		type nat hook postrouting priority 100
		iifname "lan" oifname "wan" masquerade
	}
}
`)
	w.serve(proxy, "--turn.clients=10.0.0.0/8", "--rendezvous.listen=", "--rendezvous.directory.listen=")
	return place{kind, desk, first.Next().String()}
}

func (w *world) serve(h *netns.Host, args ...string) {
	w.t.Helper()
	cmd := h.Command(w.t.Context(), stileBinary, append([]string{"serve", "--state.dir=" + w.t.TempDir(), "--log.level=info"}, args...)...)
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go cmd.Wait()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	if err := cmd.WaitLog(ctx, "RTMFPTURNProxy="); err != nil {
		w.t.Fatalf("%v\n%s", err, cmd.Log())
	}
	w.services = append(w.services, cmd)
}

// phoneRun is a videophone process.
type phoneRun struct {
	cmd            *netns.Cmd
	record, report string
	done           chan error
}

// phone starts a videophone at a place.
func (w *world) phone(t *testing.T, at place, name, publish string, args ...string) *phoneRun {
	t.Helper()
	dir := t.TempDir()
	mms := filepath.Join(dir, "mms.cfg")
	if err := os.WriteFile(mms, []byte("RTMFPTURNProxy="+at.proxy+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &phoneRun{record: filepath.Join(dir, "record.flv"), report: filepath.Join(dir, "report.json"), done: make(chan error, 1)}
	r.cmd = at.host.Command(t.Context(), phoneBinary, append([]string{
		"--server", "rtmfp://" + service + "/", "--name", name, "--mms-config", mms, "--publish", publish, "--record", r.record, "--report", r.report}, args...)...)
	r.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.done <- r.cmd.Wait() }()
	return r
}

// id waits until the phone is online.
func (r *phoneRun) id(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := r.cmd.WaitLog(ctx, "\nid "); err != nil {
		t.Fatalf("%v\n%s", err, r.cmd.Log())
	}
	for !strings.Contains(after(r.cmd.Log(), "\nid "), "\n") {
		time.Sleep(10 * time.Millisecond)
	}
	id, _, _ := strings.Cut(after(r.cmd.Log(), "\nid "), "\n")
	return id
}

func after(s, sep string) string {
	_, a, _ := strings.Cut(s, sep)
	return a
}

func (r *phoneRun) result(t *testing.T) report {
	t.Helper()
	var got report
	b, err := os.ReadFile(r.report)
	if err == nil {
		err = json.Unmarshal(b, &got)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, r.cmd.Log())
	}
	return got
}

// writeFilm writes an FLV of a second: metadata, a configuration, 25 pictures and 50 sounds.
func writeFilm(t *testing.T, seed uint64) (path string, tags []flash.Message) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 5))
	noise := func(head string, n int) []byte {
		b := []byte(head)
		for range n {
			b = append(b, byte(rng.Uint32()))
		}
		return b
	}
	meta, err := flash.AppendData(nil, flash.AMF0, 0, flash.Data{Handler: "onMetaData", Arguments: []any{fmt.Sprint("film ", seed)}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := flash.ParseMessage(meta)
	if err != nil {
		t.Fatal(err)
	}
	// The timestamps begin where 24 bits end.
	const begin = 1<<24 - 300
	m.Timestamp = begin
	tags = append(tags, m, flash.Message{Type: flash.MessageVideo, Timestamp: begin, Payload: noise("\x17\x00\x00\x00\x00", 40)})
	for i := range uint32(50) {
		tags = append(tags, flash.Message{Type: flash.MessageAudio, Timestamp: begin + 20*i, Payload: noise("\xb2", 60)})
		if i%2 == 0 {
			head, size := "\x27\x01\x00\x00\x00", 1500
			if i == 0 {
				head, size = "\x17\x01\x00\x00\x00", 9000
			}
			tags = append(tags, flash.Message{Type: flash.MessageVideo, Timestamp: begin + 20*i, Payload: noise(head, size)})
		}
	}
	path = filepath.Join(t.TempDir(), "film.flv")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := flash.NewFLVWriter(f, true, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		if err := w.WriteTag(tag); err != nil {
			t.Fatal(err)
		}
	}
	return path, tags
}

// sameFilm compares tag by tag. Sound, pictures and data travel on flows of their own, so that only within each the order is kept.
func sameFilm(path string, want []flash.Message) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got := map[flash.MessageType][]flash.Message{}
	for r := flash.NewFLVReader(f); ; {
		m, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		m.Payload = bytes.Clone(m.Payload)
		got[m.Type] = append(got[m.Type], m)
	}
	for _, m := range want {
		if len(got[m.Type]) == 0 {
			return fmt.Errorf("the %v message at %d ms and what follows is missing", m.Type, m.Timestamp)
		}
		g := got[m.Type][0]
		got[m.Type] = got[m.Type][1:]
		if g.Timestamp != m.Timestamp || !bytes.Equal(g.Payload, m.Payload) {
			return fmt.Errorf("%v at %d ms, %d bytes came where %d ms, %d bytes was sent", m.Type, g.Timestamp, len(g.Payload), m.Timestamp, len(m.Payload))
		}
	}
	for kind, rest := range got {
		if len(rest) > 0 {
			return fmt.Errorf("%d more %v messages came than were sent", len(rest), kind)
		}
	}
	return nil
}

// outcome is a cell of the matrix.
type outcome struct {
	pair           string
	predicted, got string
	setup          int64
	wrong          string
}

// pair lets two phones talk. Films must arrive whole; a path or a set-up time that is not as it should be is in the outcome's wrong.
func (w *world) pair(t *testing.T, a, b place) outcome {
	filmA, tagsA := writeFilm(t, 1)
	filmB, tagsB := writeFilm(t, 2)
	callee := w.phone(t, b, "callee "+a.kind+"/"+b.kind, filmB, "--accept", "auto")
	caller := w.phone(t, a, "caller "+a.kind+"/"+b.kind, filmA, "--call", callee.id(t))
	select {
	case err := <-caller.done:
		if err != nil {
			t.Fatalf("caller: %v\n%s\ncallee:\n%s", err, caller.cmd.Log(), callee.cmd.Log())
		}
	case <-time.After(90 * time.Second):
		t.Fatalf("the call does not end\n%s\ncallee:\n%s", caller.cmd.Log(), callee.cmd.Log())
	}
	_ = callee.cmd.Stop()
	<-callee.done
	if err := sameFilm(callee.record, tagsA); err != nil {
		t.Errorf("the caller's film: %v", err)
	}
	if err := sameFilm(caller.record, tagsB); err != nil {
		t.Errorf("the callee's film: %v", err)
	}
	ra, rb := caller.result(t), callee.result(t)
	if ra.Nat == nil || rb.Nat == nil {
		t.Fatalf("no verdict\n%s", caller.cmd.Log())
	}
	predicted := nattest.Predict(*ra.Nat, *rb.Nat)
	// A phone tells its private addresses, so that technique is its everyday; it does not open 256 sockets.
	want := "direct"
	if predicted.Path == nattest.PathRelay || slices.Contains(predicted.Techniques, nattest.Birthday) {
		want = "relay"
	}
	got := "direct"
	if ra.Path == "relay" || rb.Path == "relay" {
		got = "relay"
	}
	var wrong string
	if got != want || predicted.Path == nattest.PathUnknown {
		wrong = fmt.Sprintf("predicted %v (%v), but the caller says %q (%s) and the callee %q (%s)", predicted.Path, predicted.Why, ra.Path, ra.Candidate, rb.Path, rb.Candidate)
	}
	limit := setupDirect
	if got == "relay" {
		limit = setupRelayed
	}
	if took := time.Duration(ra.SetupMS) * time.Millisecond; took > limit || took == 0 {
		wrong += fmt.Sprintf(" set-up took %v, %s; at most %v", took, got, limit)
	}
	if t.Failed() || wrong != "" {
		t.Logf("%s\ncaller:\n%s\ncallee:\n%s", wrong, caller.cmd.Log(), callee.cmd.Log())
	}
	return outcome{a.kind + " → " + b.kind, predicted.Path.String(), got, ra.SetupMS, wrong}
}

func TestEveryPairOfPlacesTalksAsPredicted(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var table []outcome
	t.Run("pairs", func(t *testing.T) {
		cell := func(a, b place) {
			t.Run(a.kind+"/"+b.kind, func(t *testing.T) {
				t.Parallel()
				// The direct path and the relay race each other in real time, and a machine that does other things beside may hold one up
				// for long enough. Twice in a row it is not the machine.
				o := w.pair(t, a, b)
				if o.wrong != "" {
					o = w.pair(t, a, b)
				}
				if o.wrong != "" {
					t.Error(o.wrong)
				}
				mu.Lock()
				table = append(table, o)
				mu.Unlock()
			})
		}
		cell(w.oneNAT[0], w.oneNAT[1])
		for i, a := range kinds {
			for _, b := range kinds[i:] {
				cell(w.left[a], w.right[b])
			}
		}
	})
	for _, o := range table {
		t.Logf("%-36s predicted %-9s got %-6s set-up %4d ms", o.pair, o.predicted, o.got, o.setup)
	}
}

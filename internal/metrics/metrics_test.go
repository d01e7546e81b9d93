package metrics

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/dataplane"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write testdata/exposition.txt anew")

// source is a server with these counters.
type source struct {
	stats  dataplane.Stats
	err    error
	ledger *turn.Ledger
}

func (s *source) Stats(context.Context) (dataplane.Stats, error) { return s.stats, s.err }
func (s *source) Ledger() *turn.Ledger                           { return s.ledger }
func (s *source) Offload() dataplane.OffloadState {
	return dataplane.OffloadState{
		Interfaces: []dataplane.OffloadInterface{{Name: "eth0", Native: true}, {Name: "eth1", Why: "its driver has no XDP"}},
		Flows:      71, MaxFlows: 72, Refused: 73, Passed: map[string]uint64{"no_route": 74, "too_long": 75},
	}
}
func (s *source) Engine() (dataplane.Kind, int, string) { return dataplane.Socket, 4, "why" }

var (
	loopback  = netip.MustParseAddr("127.0.0.1")
	relays    = []turn.RelayAddress{{Public: loopback, Local: loopback}}
	portRange = turn.PortRange{First: 20000, Last: 20099}
)

func newSource() *source {
	return &source{ledger: turn.NewLedger(relays, portRange, turn.DefaultLimits(), [32]byte{1})}
}

// full has another number in each counter, so that two that are exchanged show.
func full() *source {
	s := newSource()
	for i := range s.stats.Packets {
		s.stats.Packets[i] = 1000 + uint64(i)
		s.stats.Read += s.stats.Packets[i]
	}
	for i := range s.stats.Ended {
		s.stats.Ended[i] = 2000 + uint64(i)
	}
	s.stats.Refused[turn.RulePrivate] = 3000
	s.stats.Refused[int(turn.RuleLoopback)+turn.RuleCount/2] = 3001
	n := uint64(100)
	next := func() uint64 { n++; return n }
	s.stats.Errors = map[int]uint64{stun.CodeForbidden: next(), stun.CodeInsufficientPorts: next()}
	s.stats.BytesToPeers, s.stats.BytesToClients = next(), next()
	s.stats.Allocations, s.stats.Unconfirmed = int(next()), 7
	s.stats.Flows, s.stats.Offloaded = 71, 76
	s.stats.Permissions, s.stats.Channels = int(next()), int(next())
	s.stats.Allocated, s.stats.Recycled, s.stats.Evicted = next(), next(), next()
	s.stats.ModernRefused, s.stats.OpenFailed = next(), next()
	s.stats.Streams, s.stats.StreamsRefused, s.stats.StreamsBroken = int(next()), next(), next()
	s.stats.SendErrors, s.stats.StreamDrops, s.stats.HairpinDrops, s.stats.ReceiveDrops, s.stats.Panics = next(), next(), next(), next(), next()
	return s
}

func config(s Source) Config {
	return Config{
		Server: s, Version: "v1.2.3", Revision: "abcdef",
		LogDropped: func() uint64 { return 99 }, Draining: func() bool { return true },
	}
}

// scrape is the exposition.
func scrape(t *testing.T, r *prometheus.Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(r).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	b, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != http.StatusOK {
		t.Fatal(w.Code, err)
	}
	return string(b)
}

// ours is the part of an exposition that differs neither between machines nor between versions of Go.
func ours(exposition string) string {
	var b strings.Builder
	for line := range strings.Lines(exposition) {
		name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE ")
		if strings.HasPrefix(name, "stile_") && !strings.HasPrefix(line, "stile_build_info") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestExpositionIsTheGoldenOne(t *testing.T) {
	const file = "testdata/exposition.txt"
	all := scrape(t, New(config(full())))
	got := ours(all)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal([]byte(got), want) {
		t.Errorf("the exposition differs from %s (go test -update writes it anew):\n%s", file, got)
	}
	for _, name := range []string{`stile_build_info{go_version="go`, `revision="abcdef",version="v1.2.3"} 1`, "go_goroutines ", "process_"} {
		if !strings.Contains(all, name) {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestNamesKeepTheConventions(t *testing.T) {
	for _, s := range []*source{full(), newSource(), {err: errors.New("stuck")}} {
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(&collector{config(s)})
		problems, err := testutil.GatherAndLint(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// sum adds the samples of a family.
func sum(t *testing.T, r *prometheus.Registry, family string) (total float64) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range families {
		if f.GetName() != family {
			continue
		}
		found = true
		for _, m := range f.GetMetric() {
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	if !found {
		t.Fatalf("no %s", family)
	}
	return total
}

func TestDispositionsSumToThePacketsRead(t *testing.T) {
	s := newSource()
	policy, err := turn.NewPolicy(turn.PolicyConfig{Profile: turn.ProfileLab, Relays: relays, RelayPorts: portRange})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	core := turn.NewCore(now, turn.Config{
		Ledger: s.ledger, Relays: relays, Rules: &turn.Rules{Policy: policy, Limits: turn.DefaultLimits(), ModernWithoutCredentials: true}, Opener: opener{}, Seed: [32]byte{2},
	})
	rng := rand.New(rand.NewPCG(1, 2))
	const packets = 3000
	src := turn.Source{Client: netip.MustParseAddrPort("127.0.0.1:4000"), Server: netip.MustParseAddrPort("127.0.0.1:3478")}
	for i := range packets {
		buf := make([]byte, 256)
		at := 64
		var data []byte
		switch i % 3 {
		case 0:
			b := stun.Begin(nil, stun.NewType(stun.Method(rng.IntN(12)), stun.Request), stun.TransactionID{byte(i)})
			b.Attr(stun.AttrRequestedTransport, []byte{17, 0, 0, 0})
			data = b.Bytes()
		case 1:
			b := stun.Begin(nil, stun.NewType(stun.Send, stun.Indication), stun.TransactionID{byte(i)})
			b.XORAddress(stun.AttrXORPeerAddress, netip.AddrPortFrom(loopback, uint16(rng.IntN(65536))))
			b.Attr(stun.AttrData, []byte("payload"))
			data = b.Bytes()
		default:
			data = make([]byte, rng.IntN(40))
			for j := range data {
				data[j] = byte(rng.Uint32())
			}
		}
		copy(buf[at:], data)
		core.FromClient(now, &src, turn.Packet{Buf: buf, At: at, Len: len(data)})
		core.Reset()
	}
	s.stats.Stats = core.Stats()
	r := New(config(s))
	read, counted := sum(t, r, "stile_turn_packets_read_total"), sum(t, r, "stile_turn_packets_total")
	if read < packets || read != counted {
		t.Errorf("read %v, counted %v, sent %d", read, counted, packets)
	}
	if s.stats.Allocated == 0 || s.stats.BytesToPeers == 0 {
		t.Errorf("the traffic is not what the test means: %+v", s.stats)
	}
	if got := sum(t, r, "stile_turn_relay_ports"); got != float64(portRange.Size()) {
		t.Errorf("the states of ports sum to %v of %d", got, portRange.Size())
	}
}

type opener struct{}

func (opener) OpenRelay(uint32, netip.AddrPort) error { return nil }
func (opener) CloseRelay(uint32)                      {}
func (opener) CloseStream(uint32)                     {}

func TestAStuckServerIsSaidAndNotZero(t *testing.T) {
	s := full()
	s.err = context.DeadlineExceeded
	got := scrape(t, New(config(s)))
	if !strings.Contains(got, "\nstile_turn_up 0\n") || !strings.Contains(got, "\nstile_log_events_dropped_total 99\n") {
		t.Errorf("stile_turn_up is not 0:\n%s", ours(got))
	}
	if strings.Contains(got, "stile_turn_packets") {
		t.Error("counters of a server that does not answer are shown")
	}
}

func TestRegistriesShareNothing(t *testing.T) {
	a, b := New(config(full())), New(config(newSource())) // would panic
	if x, y := sum(t, a, "stile_turn_packets_read_total"), sum(t, b, "stile_turn_packets_read_total"); x == y {
		t.Errorf("both have read %v", x)
	}
}

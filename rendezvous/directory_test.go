package rendezvous

import (
	"context"
	"encoding/xml"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// exchange is a directory with the live sessions of a table.
func exchange(live map[PeerID][]netip.Addr) *Directory {
	return &Directory{
		Names:     newNames(),
		Addresses: func(_ context.Context, id PeerID) []netip.Addr { return live[id] },
		Allowed:   func(netip.Addr) bool { return true },
	}
}

func get(d *Directory, method, from, target string) (int, string) {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr = from
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

const declaration = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n"

func TestTheExchangeAnswersAsTheSampleExpects(t *testing.T) {
	ann, bob := PeerID{1}, PeerID{2}
	here := netip.MustParseAddr("192.0.2.1")
	live := map[PeerID][]netip.Addr{ann: {here}, bob: {netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("10.0.0.2")}}
	d := exchange(live)
	const yes, no = declaration + "<result><update>true</update></result>\n", declaration + "<result><update>false</update></result>\n"
	for _, c := range []struct{ name, from, target, want string }{
		{"nobody", "192.0.2.1:5", "/?friends=ann", declaration + "<result><friend><user>ann</user></friend></result>\n"},
		{"registers", "192.0.2.1:5", "/?username=ann&identity=" + ann.String(), yes},
		{"again", "192.0.2.1:5", "/?username=ann&identity=" + strings.ToUpper(ann.String()) + "&time=123", yes},
		{"the first holder keeps it", "192.0.2.2:5", "/?username=ann&identity=" + bob.String(), no},
		{"from elsewhere", "192.0.2.9:5", "/?username=bob&identity=" + bob.String(), no},
		{"from a reported address, IPv4 in IPv6", "[::ffff:10.0.0.2]:5", "/?username=bob&identity=" + bob.String(), yes},
		{"not connected", "192.0.2.1:5", "/?username=carl&identity=" + PeerID{3}.String(), no},
		{"no ID", "192.0.2.1:5", "/?username=carl&identity=abc", no},
		{"found", "198.51.100.1:5", "/?friends=ann&time=1", declaration + "<result><friend><user>ann</user><identity>" + ann.String() + "</identity></friend></result>\n"},
		{"several", "198.51.100.1:5", "/?friends=ann&friends=carl", declaration + "<result><friend><user>ann</user><identity>" + ann.String() +
			"</identity></friend><friend><user>carl</user></friend></result>\n"},
		{"released by another", "192.0.2.2:5", "/?username=ann&identity=0", no},
		{"released", "192.0.2.1:5", "/?username=ann&identity=0", yes},
		{"and gone", "192.0.2.1:5", "/?friends=ann", declaration + "<result><friend><user>ann</user></friend></result>\n"},
	} {
		code, body := get(d, http.MethodGet, c.from, "http://x"+c.target)
		if code != http.StatusOK || body != c.want {
			t.Errorf("%s: %d %s", c.name, code, body)
		}
	}
	d.Names.leave(bob)
	if _, body := get(d, http.MethodGet, "192.0.2.1:5", "http://x/?friends=bob"); strings.Contains(body, "identity") {
		t.Error("bob has left and is found")
	}
	if code, body := get(d, http.MethodGet, "192.0.2.1:5", "http://x/crossdomain.xml"); code != 200 || !strings.Contains(body, `<allow-access-from domain="*"/>`) {
		t.Errorf("%d %s", code, body)
	}
}

func TestTheExchangeSpeaksJSON(t *testing.T) {
	ann := PeerID{1}
	d := exchange(map[PeerID][]netip.Addr{ann: {netip.MustParseAddr("192.0.2.1")}})
	const at = "http://x/api/v1/peers/ann%20b"
	for _, c := range []struct {
		method, from, target string
		code                 int
		want                 string
	}{
		{"GET", "192.0.2.1:5", at, 404, `{"version":1,"name":"ann b","error":"nobody has this name now"}`},
		{"PUT", "192.0.2.2:5", at + "?identity=" + ann.String(), 403, `{"version":1,"name":"ann b","updated":false,"error":"the identity is not connected from this address"}`},
		{"PUT", "192.0.2.1:5", at + "?identity=x", 400, `{"version":1,"name":"ann b","updated":false,"error":"identity must be a peer ID, 64 hexadecimal digits"}`},
		{"PUT", "192.0.2.1:5", at + "?identity=" + ann.String(), 200, `{"version":1,"name":"ann b","updated":true}`},
		{"GET", "192.0.2.7:5", at, 200, `{"version":1,"name":"ann b","identity":"` + ann.String() + `"}`},
		{"DELETE", "192.0.2.2:5", at, 403, `{"version":1,"name":"ann b","updated":false,"error":"the identity is not connected from this address"}`},
		{"DELETE", "192.0.2.1:5", at, 200, `{"version":1,"name":"ann b","updated":true}`},
		{"POST", "192.0.2.1:5", at, 405, `{"version":1,"name":"ann b","error":"this takes GET, PUT and DELETE"}`},
	} {
		code, body := get(d, c.method, c.from, c.target)
		if code != c.code || body != c.want+"\n" {
			t.Errorf("%s %s: %d %s", c.method, c.target, code, body)
		}
	}
}

func TestHostileRequestsAreRefusedAndCountedOnce(t *testing.T) {
	ann := PeerID{1}
	live := map[PeerID][]netip.Addr{ann: {netip.MustParseAddr("192.0.2.1")}}
	d := exchange(live)
	requests := uint64(0)
	for _, target := range []string{
		"/", "/?", "/?friends=", "/?friends=" + strings.Repeat("a", 129), "/?friends=a%00b", "/?friends=%ff", "/?friends=a%0ab",
		"/?" + strings.Repeat("friends=a&", 17), "/?friends=%zz", "/other", "/api/v1/peers/", "/api/v1/peers/%00", "/?identity=0", "/?username=a",
	} {
		requests++
		if code, _ := get(d, http.MethodGet, "192.0.2.1:5", "http://x"+target); code < 400 {
			t.Errorf("%s: %d", target, code)
		}
	}
	for i, name := range []string{"<b>", "a&b", "]]>", "\"'", "a", "a"} {
		requests++
		r := httptest.NewRequest(http.MethodGet, "http://x/", nil)
		r.RemoteAddr = "192.0.2.1:5"
		q := r.URL.Query()
		q.Set("username", name)
		q.Set("identity", ann.String())
		r.URL.RawQuery = q.Encode()
		w := httptest.NewRecorder()
		d.ServeHTTP(w, r)
		if took := strings.Contains(w.Body.String(), "true"); took != (i < maxNamesPerPeer) {
			t.Errorf("name %d: %s", i, w.Body)
		}
	}
	if code, _ := get(d, http.MethodPost, "192.0.2.1:5", "http://x/?friends=a"); code != http.StatusMethodNotAllowed {
		t.Error(code)
	}
	if code, _ := get(d, http.MethodGet, "nonsense", "http://x/?friends=a"); code != http.StatusBadRequest {
		t.Error(code)
	}
	d.Allowed = func(netip.Addr) bool { return false }
	if code, _ := get(d, http.MethodGet, "192.0.2.1:5", "http://x/?friends=a"); code != http.StatusTooManyRequests {
		t.Error(code)
	}
	requests += 3
	var sum uint64
	for o, n := range d.Counts() {
		sum += n
		if DirectoryOutcome(o) == DirectoryUnknown && n > 0 {
			t.Error("an outcome that is none")
		}
	}
	if sum != requests {
		t.Errorf("%d requests, %d counted", requests, sum)
	}
}

func TestTheBudgetOfAPrefixBoundsRequests(t *testing.T) {
	limits := DefaultLimits()
	limits.DirectoryPerPrefix = 5
	now := time.Unix(1e9, 0)
	reg, err := NewRegistry(now, zeros{}, Rules{Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	allowed := 0
	for i := range 100 {
		if reg.AllowDirectory(now, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})) {
			allowed++
		}
	}
	if allowed != 10 {
		t.Errorf("%d of a prefix at once, want 10", allowed)
	}
	if !reg.AllowDirectory(now.Add(200*time.Millisecond), netip.MustParseAddr("192.0.2.1")) || reg.AllowDirectory(now.Add(200*time.Millisecond), netip.MustParseAddr("192.0.2.1")) {
		t.Error("the budget does not come back evenly")
	}
}

// FuzzDirectory proves that whatever is asked, the answer is well formed and gives no name away.
func FuzzDirectory(f *testing.F) {
	f.Add("/?friends=a", "GET")
	f.Add("/?username=%3C&identity="+PeerID{1}.String(), "GET")
	f.Add("/api/v1/peers/a?identity="+PeerID{1}.String(), "PUT")
	f.Fuzz(func(t *testing.T, target, method string) {
		r, err := http.NewRequest(method, "http://x"+target, nil)
		if err != nil {
			t.Skip()
		}
		r.RemoteAddr = "192.0.2.1:5"
		d := exchange(map[PeerID][]netip.Addr{{1}: {netip.MustParseAddr("192.0.2.1")}})
		w := httptest.NewRecorder()
		d.ServeHTTP(w, r)
		if strings.Contains(w.Header().Get("Content-Type"), "xml") {
			var v any
			if err := xml.Unmarshal(w.Body.Bytes(), &v); err != nil && err.Error() != "EOF" {
				t.Errorf("%q is no XML: %v", w.Body, err)
			}
		}
		var sum uint64
		for _, n := range d.Counts() {
			sum += n
		}
		if sum != 1 || d.Counts()[DirectoryUnknown] != 0 {
			t.Errorf("counted %v", d.Counts())
		}
	})
}

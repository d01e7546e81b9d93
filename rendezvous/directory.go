package rendezvous

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stilenet/stile/rtmfp/flash"
)

// Directory is the exchange of peer IDs over HTTP that Adobe's VideoPhone sample used, with the same as JSON:
//
//	GET /?username=NAME&identity=ID      takes a name, or with identity=0 gives it back
//	GET /?friends=NAME                   finds who has it; up to 16 times
//	GET, PUT ?identity=ID, DELETE        the same, as /api/v1/peers/NAME
//	GET /crossdomain.xml                 lets Flash ask from any page
//
// It authenticates nobody. A name can be taken only for an identity that is connected, and only from an address of that
// session: the one it is observed at, or one that its client has reported.
type Directory struct {
	Names *Names
	// Addresses returns the addresses of an identity's live session, none if it has none.
	Addresses func(ctx context.Context, id PeerID) []netip.Addr
	// Allowed takes a request from the budget of its source.
	Allowed func(source netip.Addr) bool

	counts [directoryOutcomeCount]atomic.Uint64
}

// DirectoryOutcome says what became of a request to the Directory. Each is counted once.
type DirectoryOutcome uint8

// The outcomes.
const (
	DirectoryUnknown    DirectoryOutcome = iota
	DirectoryRegistered                  // a name was taken or refreshed
	DirectoryReleased                    // a name was given back
	DirectoryTaken                       // somebody else has the name, or a limit is reached
	DirectoryForeign                     // the request came from elsewhere than the identity's session, or there is none
	DirectoryFound
	DirectoryNotFound
	DirectoryPolicy // crossdomain.xml
	DirectoryBad    // the request makes no sense
	DirectoryRate   // over the budget of its source
	directoryOutcomeCount
)

func (o DirectoryOutcome) String() string {
	return [...]string{"unknown", "registered", "released", "taken", "foreign", "found", "not_found", "policy", "bad_request", "rate"}[o]
}

// Counts returns how many requests had each outcome.
func (d *Directory) Counts() (counts [directoryOutcomeCount]uint64) {
	for i := range counts {
		counts[i] = d.counts[i].Load()
	}
	return counts
}

// maxFriends bounds the names of one request.
const maxFriends = 16

const crossDomain = `<?xml version="1.0"?>
<cross-domain-policy>
<site-control permitted-cross-domain-policies="master-only"/>
<allow-access-from domain="*"/>
</cross-domain-policy>
`

const directoryUsage = "this is the exchange of peer IDs: /?username=NAME&identity=PEERID, /?friends=NAME, /api/v1/peers/NAME\n"

// ServeHTTP implements http.Handler.
func (d *Directory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.counts[d.serve(w, r)].Add(1)
}

func (d *Directory) serve(w http.ResponseWriter, r *http.Request) DirectoryOutcome {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Access-Control-Allow-Origin", "*")
	if r.ContentLength != 0 {
		h.Set("Connection", "close") // nothing here takes a body, and nothing waits for one
	}
	source, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return answerText(w, http.StatusBadRequest, "no source address\n", DirectoryBad)
	}
	from := source.Addr().WithZone("").Unmap()
	if !d.Allowed(from) {
		h.Set("Retry-After", "1")
		return answerText(w, http.StatusTooManyRequests, "too many requests from your network: ask again later\n", DirectoryRate)
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return answerText(w, http.StatusBadRequest, directoryUsage, DirectoryBad)
	}
	if name, ok := strings.CutPrefix(r.URL.Path, "/api/v1/peers/"); ok {
		return d.servePeer(w, r, from, name, query.Get("identity"))
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		return answerText(w, http.StatusMethodNotAllowed, directoryUsage, DirectoryBad)
	}
	switch r.URL.Path {
	case "/crossdomain.xml":
		h.Set("Content-Type", "text/x-cross-domain-policy")
		_, _ = w.Write([]byte(crossDomain)) // an error is the reader's going
		return DirectoryPolicy
	case "/":
		return d.serveSample(w, r, from, query)
	}
	return answerText(w, http.StatusNotFound, directoryUsage, DirectoryBad)
}

// serveSample answers as the sample's web service did: 200 and XML, whatever the outcome. Parameters that it does not know are
// ignored, because the sample adds the time to defeat caches.
func (d *Directory) serveSample(w http.ResponseWriter, r *http.Request, from netip.Addr, query url.Values) DirectoryOutcome {
	var b strings.Builder
	b.WriteString("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<result>")
	outcome := DirectoryBad
	friends := query["friends"]
	switch {
	case query.Has("username") && query.Has("identity"):
		outcome = d.register(r.Context(), query.Get("username"), query.Get("identity"), from)
		b.WriteString("<update>" + strconv.FormatBool(outcome == DirectoryRegistered || outcome == DirectoryReleased) + "</update>")
	case len(friends) > 0 && len(friends) <= maxFriends:
		outcome = DirectoryNotFound
		for _, name := range friends {
			if !validName(name) {
				return answerText(w, http.StatusBadRequest, "a name has 1 to 128 bytes of printable UTF-8\n", DirectoryBad)
			}
			b.WriteString("<friend><user>")
			_ = xml.EscapeText(&b, []byte(name)) // a strings.Builder takes everything
			b.WriteString("</user>")
			if id, ok := d.Names.holder(name); ok {
				outcome = DirectoryFound
				b.WriteString("<identity>" + id.String() + "</identity>")
			}
			b.WriteString("</friend>")
		}
	default:
		return answerText(w, http.StatusBadRequest, directoryUsage, outcome)
	}
	b.WriteString("</result>\n")
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	_, _ = w.Write([]byte(b.String()))
	return outcome
}

// register takes or gives back a name. The identity "0" stands for whatever has the name now.
func (d *Directory) register(ctx context.Context, name, identity string, from netip.Addr) DirectoryOutcome {
	if !validName(name) {
		return DirectoryBad
	}
	if identity == "0" {
		id, ok := d.Names.holder(name)
		switch {
		case !ok:
			return DirectoryReleased
		case !d.owns(ctx, id, from):
			return DirectoryForeign
		}
		d.Names.release(name, id)
		return DirectoryReleased
	}
	id, err := flash.ParsePeerID(identity)
	switch {
	case err != nil:
		return DirectoryBad
	case !d.owns(ctx, id, from):
		return DirectoryForeign
	case !d.Names.take(name, id):
		return DirectoryTaken
	}
	// A session that has ended since it was asked for has left nothing behind to free the name.
	if !d.owns(ctx, id, from) {
		d.Names.leave(id)
		return DirectoryForeign
	}
	return DirectoryRegistered
}

func (d *Directory) owns(ctx context.Context, id PeerID, from netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, directoryWait)
	defer cancel()
	for _, a := range d.Addresses(ctx, id) {
		if a == from {
			return true
		}
	}
	return false
}

// directoryWait bounds the question for a session's addresses: a shard answers between two packets.
const directoryWait = 2 * time.Second

// peerAnswer is a name as JSON.
type peerAnswer struct {
	Version  int    `json:"version"`
	Name     string `json:"name"`
	Identity string `json:"identity,omitempty"`
	Updated  *bool  `json:"updated,omitempty"`
	Error    string `json:"error,omitempty"`
}

func (d *Directory) servePeer(w http.ResponseWriter, r *http.Request, from netip.Addr, name, identity string) DirectoryOutcome {
	v := peerAnswer{Version: 1, Name: name}
	if !validName(name) {
		v.Name, v.Error = "", "a name has 1 to 128 bytes of printable UTF-8"
		return answerJSON(w, http.StatusBadRequest, v, DirectoryBad)
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		id, ok := d.Names.holder(name)
		if !ok {
			v.Error = "nobody has this name now"
			return answerJSON(w, http.StatusNotFound, v, DirectoryNotFound)
		}
		v.Identity = id.String()
		return answerJSON(w, http.StatusOK, v, DirectoryFound)
	case http.MethodPut, http.MethodDelete:
		if r.Method == http.MethodDelete {
			identity = "0"
		}
		outcome := d.register(r.Context(), name, identity, from)
		updated := outcome == DirectoryRegistered || outcome == DirectoryReleased
		v.Updated = &updated
		code := http.StatusOK
		switch outcome {
		case DirectoryBad:
			code, v.Error = http.StatusBadRequest, "identity must be a peer ID, 64 hexadecimal digits"
		case DirectoryTaken:
			code, v.Error = http.StatusConflict, "another peer has the name, or this one has as many as it may"
		case DirectoryForeign:
			code, v.Error = http.StatusForbidden, "the identity is not connected from this address"
		}
		return answerJSON(w, code, v, outcome)
	}
	w.Header().Set("Allow", "GET, HEAD, PUT, DELETE")
	v.Error = "this takes GET, PUT and DELETE"
	return answerJSON(w, http.StatusMethodNotAllowed, v, DirectoryBad)
}

func answerJSON(w http.ResponseWriter, code int, v peerAnswer, o DirectoryOutcome) DirectoryOutcome {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: rendezvous: a name does not marshal: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n'))
	return o
}

func answerText(w http.ResponseWriter, code int, text string, o DirectoryOutcome) DirectoryOutcome {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text))
	return o
}

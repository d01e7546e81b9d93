package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/stilenet/stile/rendezvous"
	"github.com/stilenet/stile/rtmfp"
)

// Rendezvous is what a server that hosts one offers besides, all of it required.
type Rendezvous struct {
	Sessions func(ctx context.Context) ([]rendezvous.Session, error)
	Kill     func(ctx context.Context, id rendezvous.SessionID) (found bool, err error)
	Keys     func() []rendezvous.KeyUse
	// AddKey returns the key, which is shown this once.
	AddKey    func(ctx context.Context, k rendezvous.Key) (text string, err error)
	RevokeKey func(ctx context.Context, name string) error
}

// RendezvousStatus is the rendezvous at a glance. Counts are since the start, but for Sessions, Peers, Names and Keys.
type RendezvousStatus struct {
	Listeners     []string          `json:"listeners"`
	Addresses     []string          `json:"addresses,omitempty"` // of the connectivity check
	Directory     string            `json:"directory,omitempty"` // where the ID exchange listens
	KeysRequired  bool              `json:"keys_required"`
	Keys          int               `json:"keys"`
	Shards        int               `json:"shards"`
	Sessions      int               `json:"sessions"`
	Peers         int               `json:"peers"` // of them, can be introduced
	Most          int               `json:"most"`  // sessions that the limit allows
	Names         int               `json:"names"`
	Opened        uint64            `json:"opened"`
	Connected     uint64            `json:"connected"`
	Checks        uint64            `json:"connectivity_checks"`
	PacketsRead   uint64            `json:"packets_read"`
	PacketsSent   uint64            `json:"packets_sent"`
	Introductions map[string]uint64 `json:"introductions"`      // by outcome; only those above 0
	Refused       map[string]uint64 `json:"refused"`            // clients, by reason; only those above 0
	Ended         map[string]uint64 `json:"ended"`              // sessions, by reason; only those above 0
	Packets       map[string]uint64 `json:"packets"`            // by disposition; only those above 0
	DirectoryUse  map[string]uint64 `json:"directory_requests"` // by outcome; only those above 0
}

// Fill takes the counters over.
func (r *RendezvousStatus) Fill(s *rendezvous.Stats, directory []uint64) {
	r.Sessions, r.Opened, r.Connected, r.Checks = s.Sessions, s.Opened, s.Connected, s.Checks
	r.PacketsRead, r.PacketsSent = s.Read, s.Endpoint.Sent
	r.Introductions = nonzero(s.Introductions[:], func(i int) string { return rendezvous.Introduction(i).String() })
	r.Refused = nonzero(s.Refused[:], func(i int) string { return rendezvous.Refusal(i).String() })
	r.Ended = nonzero(s.Ended[:], func(i int) string { return rtmfp.Reason(i).String() })
	r.Packets = nonzero(s.Endpoint.Packets[:], func(i int) string { return rtmfp.Disposition(i).String() })
	for name, n := range map[string]uint64{"source_rate": s.Limited, "long": s.Long, "busy": s.Busy} {
		if n > 0 {
			r.Packets[name] = n
		}
	}
	r.DirectoryUse = nonzero(directory, func(i int) string { return rendezvous.DirectoryOutcome(i).String() })
}

func nonzero(counts []uint64, name func(int) string) map[string]uint64 {
	m := map[string]uint64{}
	for i, n := range counts {
		if n > 0 {
			m[name(i)] = n
		}
	}
	return m
}

// RTMFPSession is one client of the rendezvous.
type RTMFPSession struct {
	Session    string    `json:"session"` // the ID
	Client     string    `json:"client"`
	PeerID     string    `json:"peer_id"`
	Key        string    `json:"key,omitempty"` // name
	State      string    `json:"state"`
	Started    time.Time `json:"started"`
	Heard      time.Time `json:"heard"` // the last packet
	RTT        float64   `json:"rtt_seconds"`
	Reported   []string  `json:"reported,omitempty"` // addresses
	Names      []string  `json:"names,omitempty"`
	Introduced uint32    `json:"introduced"`
	Asked      uint32    `json:"asked"`
}

// RTMFPSessionOf writes a session as the API does.
func RTMFPSessionOf(s *rendezvous.Session) RTMFPSession {
	v := RTMFPSession{
		Session: s.ID.String(), Client: s.Client.String(), PeerID: s.Peer.String(), Key: s.Key, State: s.State,
		Started: s.Opened.UTC(), Heard: s.Heard.UTC(), RTT: s.RTT.Seconds(), Names: s.Names, Introduced: s.Introduced, Asked: s.Asked,
	}
	for _, a := range s.Reported {
		v.Reported = append(v.Reported, a.String())
	}
	return v
}

// RTMFPSessionList is one page of clients of the rendezvous, in the order of their IDs.
type RTMFPSessionList struct {
	Version  int            `json:"version"`
	Total    int            `json:"total"` // that the filter passes, on all pages
	Sessions []RTMFPSession `json:"sessions"`
	Next     string         `json:"next,omitempty"` // give it as after for the next page
}

// KeyList is all developer keys, by name. None of them is in it.
type KeyList struct {
	Version int                 `json:"version"`
	Keys    []rendezvous.KeyUse `json:"keys"`
}

// AddedKey answers the making of a key: the only time that it is shown.
type AddedKey struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	Key     string `json:"key"`
}

func noRendezvous() *Error {
	return &Error{http.StatusNotFound, "this server has no rendezvous", "add udp://:1935 to rendezvous.listen"}
}

func (s *Server) rtmfpSessions(w http.ResponseWriter, r *http.Request) error {
	service := s.cfg.Service.Rendezvous
	if service == nil {
		return noRendezvous()
	}
	q, err := query(r, "client", "limit", "after")
	if err != nil {
		return err
	}
	clients, err := ParseClients(q.Get("client"))
	if err != nil {
		return err
	}
	limit, err := number(q, "limit", defaultSessions, maxSessions)
	if err != nil {
		return err
	}
	var after rendezvous.SessionID
	if text := q.Get("after"); text != "" {
		if after, err = rendezvous.ParseSessionID(text); err != nil {
			return &Error{http.StatusBadRequest, fmt.Sprintf("after: %q is no session's ID", text), "take next of the page before"}
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.call)
	defer cancel()
	all, err := service.Sessions(ctx)
	if err != nil {
		return err
	}
	if clients.IsValid() {
		all = slices.DeleteFunc(all, func(v rendezvous.Session) bool { return !clients.Contains(v.Client.Addr()) })
	}
	slices.SortFunc(all, func(a, b rendezvous.Session) int {
		switch {
		case a.ID < b.ID:
			return -1
		case a.ID > b.ID:
			return 1
		}
		return 0
	})
	list := RTMFPSessionList{Version: FormatVersion, Total: len(all), Sessions: []RTMFPSession{}}
	for i := range all {
		if all[i].ID <= after {
			continue
		}
		if len(list.Sessions) == limit {
			list.Next = list.Sessions[limit-1].Session
			break
		}
		list.Sessions = append(list.Sessions, RTMFPSessionOf(&all[i]))
	}
	return reply(w, http.StatusOK, list)
}

// killRTMFP ends a session of the rendezvous, whose ID is told from an allocation's by its form.
func (s *Server) killRTMFP(w http.ResponseWriter, r *http.Request, id rendezvous.SessionID) error {
	service := s.cfg.Service.Rendezvous
	if service == nil {
		return noRendezvous()
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.call)
	defer cancel()
	found, err := service.Kill(ctx, id)
	switch {
	case err != nil:
		return err
	case !found:
		return &Error{http.StatusNotFound, fmt.Sprintf("there is no session %s", id), "see `stile sessions`; it may have ended"}
	}
	return reply(w, http.StatusOK, Done{Version: FormatVersion, Session: id.String(), Killed: true})
}

func (s *Server) keys(w http.ResponseWriter, r *http.Request) error {
	service := s.cfg.Service.Rendezvous
	if service == nil {
		return noRendezvous()
	}
	if _, err := query(r); err != nil {
		return err
	}
	list := KeyList{Version: FormatVersion, Keys: service.Keys()}
	if list.Keys == nil {
		list.Keys = []rendezvous.KeyUse{}
	}
	return reply(w, http.StatusOK, list)
}

func (s *Server) addKey(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() { s.audit("add key", r, err) }()
	service := s.cfg.Service.Rendezvous
	if service == nil {
		return noRendezvous()
	}
	q, err := query(r, "name", "sessions", "introductions", "expires")
	if err != nil {
		return err
	}
	k := rendezvous.Key{Name: q.Get("name")}
	for name, to := range map[string]*int{"sessions": &k.Sessions, "introductions": &k.Introductions} {
		if text := q.Get(name); text != "" {
			if *to, err = strconv.Atoi(text); err != nil {
				return &Error{http.StatusBadRequest, fmt.Sprintf("%s: %q is no number", name, text), "write one; 0 is no limit"}
			}
		}
	}
	if text := q.Get("expires"); text != "" {
		if k.Expires, err = time.Parse(time.RFC3339, text); err != nil {
			return &Error{http.StatusBadRequest, fmt.Sprintf("expires: %q is no time", text), "write one such as 2027-01-31T00:00:00Z"}
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.call)
	defer cancel()
	text, err := service.AddKey(ctx, k)
	if err != nil {
		return KeyError(err)
	}
	return reply(w, http.StatusCreated, AddedKey{Version: FormatVersion, Name: k.Name, Key: text})
}

func (s *Server) revokeKey(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() { s.audit("revoke key", r, err) }()
	service := s.cfg.Service.Rendezvous
	if service == nil {
		return noRendezvous()
	}
	if _, err := query(r); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.call)
	defer cancel()
	if err := service.RevokeKey(ctx, r.PathValue("name")); err != nil {
		return KeyError(err)
	}
	return reply(w, http.StatusOK, Done{Version: FormatVersion, Revoked: r.PathValue("name")})
}

// KeyError adds the remedy to what can be wrong with a change of keys.
func KeyError(err error) error {
	switch {
	case errors.Is(err, rendezvous.ErrKeyName):
		return &Error{http.StatusBadRequest, err.Error(), "write one such as phone-app"}
	case errors.Is(err, rendezvous.ErrKeyQuota):
		return &Error{http.StatusBadRequest, err.Error(), "write one in this range"}
	case errors.Is(err, rendezvous.ErrKeyPast):
		return &Error{http.StatusBadRequest, err.Error(), "write a time that is to come"}
	case errors.Is(err, rendezvous.ErrKeyExists):
		return &Error{http.StatusConflict, err.Error(), "choose another name, or revoke that key first"}
	case errors.Is(err, rendezvous.ErrNoKey):
		return &Error{http.StatusNotFound, err.Error(), "see `stile keys list`"}
	case errors.Is(err, rendezvous.ErrTooMany):
		return &Error{http.StatusConflict, err.Error(), "revoke some"}
	}
	return err
}

// RTMFPSessions is one page of clients of the rendezvous.
func (c *Client) RTMFPSessions(ctx context.Context, q SessionQuery) (*RTMFPSessionList, error) {
	v := new(RTMFPSessionList)
	return v, c.do(ctx, request{method: http.MethodGet, path: "/api/v1/rendezvous/sessions", query: q.values()}, v)
}

// AllRTMFPSessions is all pages; none if the server has no rendezvous.
func (c *Client) AllRTMFPSessions(ctx context.Context, client netip.Prefix) ([]RTMFPSession, error) {
	var all []RTMFPSession
	q := SessionQuery{Client: client, Limit: maxSessions}
	for {
		page, err := c.RTMFPSessions(ctx, q)
		if err != nil {
			var e *Error
			if errors.As(err, &e) && e.Code == http.StatusNotFound {
				return nil, nil
			}
			return nil, err
		}
		all = append(all, page.Sessions...)
		if page.Next == "" {
			return all, nil
		}
		q.After = page.Next
	}
}

// Keys lists the developer keys.
func (c *Client) Keys(ctx context.Context) ([]rendezvous.KeyUse, error) {
	v := new(KeyList)
	err := c.do(ctx, request{method: http.MethodGet, path: "/api/v1/rendezvous/keys"}, v)
	return v.Keys, err
}

// AddKey makes a developer key and returns it.
func (c *Client) AddKey(ctx context.Context, k rendezvous.Key) (string, error) {
	q := url.Values{"name": {k.Name}, "sessions": {strconv.Itoa(k.Sessions)}, "introductions": {strconv.Itoa(k.Introductions)}}
	if !k.Expires.IsZero() {
		q.Set("expires", k.Expires.UTC().Format(time.RFC3339))
	}
	v := new(AddedKey)
	err := c.do(ctx, request{method: http.MethodPost, path: "/api/v1/rendezvous/keys", query: q, token: true}, v)
	return v.Key, err
}

// RevokeKey ends a developer key.
func (c *Client) RevokeKey(ctx context.Context, name string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: "/api/v1/rendezvous/keys/" + url.PathEscape(name), token: true}, new(Done))
}

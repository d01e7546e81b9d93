package admin

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// foreign says what is wrong with where a request says it goes to and comes from; nil when nothing is.
//
// A browser sends requests for any web page, and to 127.0.0.1 if the page's author points a name there. It says so in headers that a page
// cannot set.
func (s *Server) foreign(r *http.Request) *Error {
	if !s.ownHost(r) {
		return &Error{
			http.StatusForbidden, "the Host header names another server",
			"use the address of admin.listen, or localhost",
		}
	}
	if origins, ok := r.Header["Origin"]; ok {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		if len(origins) != 1 || !strings.EqualFold(origins[0], scheme+"://"+r.Host) {
			return &Error{http.StatusForbidden, "the request comes from a web page of another server", "use the control commands of stile"}
		}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default: // A link that somebody follows only shows something to that somebody.
		if r.Header.Get("Sec-Fetch-Mode") != "navigate" || !reads(r.Method) {
			return &Error{http.StatusForbidden, "the request comes from a web page of another server", "use the control commands of stile"}
		}
	}
	return nil
}

func reads(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// ownHost reports whether the Host header names this server in a way that nobody else can point here. The port is not looked at: it
// differs behind a forwarded port.
func (s *Server) ownHost(r *http.Request) bool {
	u, err := url.Parse("//" + r.Host)
	if err != nil || u.Host != r.Host || r.Host == "" {
		return false
	}
	host := u.Hostname()
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return s.certificate != nil && s.certificate.names(host) // no other page has a certificate for the name
	}
	a = a.Unmap()
	if a.IsLoopback() || a == s.addr.Addr() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && a == local.AddrPort().Addr().Unmap().WithZone("") // a listener on all addresses
}

// bearer is the token that a request has, or nothing.
func bearer(r *http.Request) string {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimLeft(token, " ")
}

// authorized says what is missing; nil when nothing is.
func (s *Server) authorized(r *http.Request) *Error {
	token := bearer(r)
	switch {
	case token == "":
		return &Error{
			http.StatusUnauthorized, "this needs the administrator's token",
			"send \"Authorization: Bearer TOKEN\" with the content of admin.token_file, or use the control commands of stile as the server's user",
		}
	case !s.secret.is(token):
		return &Error{
			http.StatusUnauthorized, "the token is wrong",
			"read it from admin.token_file again; a new file is in effect after a restart of the server",
		}
	}
	return nil
}

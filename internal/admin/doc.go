// Package admin is the administrator's HTTP interface: probes, metrics and a JSON API on one listener, and the client that the
// control commands use.
//
//	GET    /healthz                        200: the process answers
//	GET    /readyz                         200, or 503 with the reasons
//	GET    /metrics                        for Prometheus
//	GET    /api/v1/status                  [Status]
//	GET    /api/v1/sessions                [SessionList]; ?client=ADDRESS|PREFIX &limit=N &after=ID
//	DELETE /api/v1/sessions/{id}           ends a session
//	POST   /api/v1/sessions/{id}/trace     a transcript, until the session ends or the reader goes
//	POST   /api/v1/trace                   the same for the next sessions of clients; ?client=ADDRESS|PREFIX &count=N
//	POST   /api/v1/drain                   no new sessions from now on
//	POST   /api/v1/reload                  [Reloaded]
//
// Errors are {"version":1,"error":…,"remedy":…}. Fields have the names of the log's.
//
// Who may: on a loopback address without TLS, reading is open to every user of the host, and what changes something or shows what clients say
// (a trace) needs the token, a file that only the server's user can read. With TLS everything but the two probes needs it, and a probe without it
// gives no reasons. A listener beyond loopback without TLS is refused. A web page in the administrator's browser can do neither: Host must be a
// loopback name or the address itself, since a name may be one that the page's author points here (DNS rebinding), and Origin must be
// absent or the same.
//
// # Limitations
//
// Over plain HTTP the client cannot tell the server from another program that took the port while no server ran; it sends the token only
// where it is needed. On Windows the token file's protection is that of its directory: mode bits are not looked at.
package admin

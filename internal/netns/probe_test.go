//go:build e2e && linux

package netns

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// world is an internet with one server that has two addresses and two ports, as RFC 5780 wants.
type world struct {
	t    *testing.T
	inet *Internet
	// sockets of the server by address; each answers with the source it saw
	sockets map[string]net.PacketConn
}

const (
	s1, s1b = "203.0.113.1:3478", "203.0.113.1:3479"
	s2, s2b = "203.0.113.2:3478", "203.0.113.2:3479"
)

func newWorld(t *testing.T) *world {
	w := &world{t: t, inet: New(t).Internet(), sockets: make(map[string]net.PacketConn)}
	server := w.inet.Host("server", "203.0.113.1", "203.0.113.2")
	for _, a := range []string{s1, s1b, s2, s2b} {
		conn := listen(t, server, a)
		w.sockets[a] = conn
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				if n == 1 {
					conn.WriteTo([]byte(from.String()), from)
				}
			}
		}()
	}
	return w
}

// socket opens a fresh socket on a host.
func (w *world) socket(h *Host) net.PacketConn {
	w.t.Helper()
	return listen(w.t, h, netip.AddrPortFrom(h.IPs()[0], 0).String())
}

// mapping classifies by asking three server sockets from one fresh socket.
func (w *world) mapping(h *Host) Mapping {
	conn := w.socket(h)
	a, b, c := ask(w.t, conn, s1, silence), ask(w.t, conn, s1b, silence), ask(w.t, conn, s2, silence)
	switch {
	case a == "" && b == "" && c == "":
		return MappingBlocked
	case a == "" || b == "" || c == "":
		return MappingUnknown
	case a == conn.LocalAddr().String() && a == b && b == c:
		return NoMapping
	case a == b && b == c:
		return EIM
	case a == b:
		return ADM
	default:
		return APDM
	}
}

// filtering classifies by having the server's other sockets send to a mapping that they have not heard from.
func (w *world) filtering(h *Host) Filtering {
	conn := w.socket(h)
	public := ask(w.t, conn, s1, silence)
	if public == "" {
		return FilteringBlocked
	}
	heard := w.knock(conn, public, s1b, s2b)
	switch {
	case heard[s2b]:
		return EIF
	case heard[s1b]:
		return ADF
	default:
		return APDF
	}
}

// knock sends from server sockets to a public endpoint and reports whose datagrams arrive at conn.
func (w *world) knock(conn net.PacketConn, public string, from ...string) map[string]bool {
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(public))
	for _, s := range from {
		w.sockets[s].WriteTo([]byte("knock"), to)
	}
	heard := make(map[string]bool)
	conn.SetReadDeadline(time.Now().Add(silence))
	buf := make([]byte, 64)
	for len(heard) < len(from) {
		_, src, err := conn.ReadFrom(buf)
		if err != nil {
			break
		}
		heard[src.String()] = true
	}
	return heard
}

// openBefore reports whether a host is reached by who was never asked, without any mapping.
func (w *world) openBefore(h *Host) bool {
	conn := w.socket(h)
	return w.knock(conn, conn.LocalAddr().String(), s1)[s1]
}

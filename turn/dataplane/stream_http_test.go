package dataplane

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

// httpRequest is what a web page can have a browser send: text of HTTP's first, then what the page likes. Its first four bytes are the head
// of ChannelData; body begins where that ends.
func httpRequest(method string, body []byte) []byte {
	head := method + " / HTTP/1.1\r\nHost: proxy\r\nContent-Type: text/plain\r\nContent-Length: 30000\r\n\r\n"
	size := int(head[2])<<8 | int(head[3])
	b := append([]byte(head), bytes.Repeat([]byte("A"), channelEnd(size)-len(head))...)
	return append(b, body...)
}

func channelEnd(size int) int { return 4 + (size+3)&^3 }

// testHTTP checks that nothing behind HTTP is read as TURN, and that the stream ends.
func testHTTP(t *testing.T, s *Server, address string) {
	t.Helper()
	body := request(stun.Allocate, stun.Request, 1, nil)
	for _, method := range []string{"POST", "PUT", "GET", "OPTIONS"} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		b := httpRequest(method, body)
		go conn.Write(b)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		got, err := io.ReadAll(conn)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) || len(got) > 0 {
			t.Errorf("%s: got %d bytes and %v, want an end", method, len(got), err)
		}
	}
	stats, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if stats.Allocated != 0 || stats.StreamsBroken != 4 {
		t.Errorf("%d allocations made and %d streams broken, want 0 and 4", stats.Allocated, stats.StreamsBroken)
	}
}

func TestPlainTakesNoHTTPForChannelData(t *testing.T) {
	s := startPlain(t, nil)
	testHTTP(t, s, s.plainTCP())
}

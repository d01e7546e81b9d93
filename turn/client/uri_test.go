package client

import (
	"errors"
	"strings"
	"testing"
)

func TestServersAreParsed(t *testing.T) {
	for in, want := range map[string]Server{
		"turn.example.com":                      {"turn.example.com", 3478, ""},
		"turn.example.com:19302":                {"turn.example.com", 19302, ""},
		"192.0.2.1":                             {"192.0.2.1", 3478, ""},
		"192.0.2.1:1":                           {"192.0.2.1", 1, ""},
		"2001:db8::1":                           {"2001:db8::1", 3478, ""},
		"[2001:db8::1]":                         {"2001:db8::1", 3478, ""},
		"[2001:db8::1]:65535":                   {"2001:db8::1", 65535, ""},
		"[fe80::1%25eth0]:3478":                 {"fe80::1%eth0", 3478, ""},
		"[fe80::1%eth0]:3478":                   {"fe80::1%eth0", 3478, ""},
		"turn:example.com":                      {"example.com", 3478, ""},
		"turn:example.com:3479":                 {"example.com", 3479, ""},
		"TURN:example.com?transport=UDP":        {"example.com", 3478, "udp"},
		"turn:example.com:3479?transport=tcp":   {"example.com", 3479, "tcp"},
		"turn:[2001:db8::1]:3479?transport=tcp": {"2001:db8::1", 3479, "tcp"},
		"turn":                                  {"turn", 3478, ""},
		"turnproxy:3478":                        {"turnproxy", 3478, ""},
	} {
		got, err := ParseServer(in)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", in, got, err, want)
		}
		again, err := ParseServer(got.String())
		if err != nil || again != got {
			t.Errorf("%q: its name %q gives %+v, %v", in, got, again, err)
		}
	}
}

func TestBadServersAreRefusedWithTheReason(t *testing.T) {
	for in, want := range map[string]string{
		"":                                "want a host",
		"turn:":                           "want a host",
		"turn://example.com":              "no //",
		"turns:example.com":               "TLS is not built",
		"stun:example.com":                "STUN server",
		"example.com:":                    "want a port",
		"example.com:0":                   "between 1 and 65535",
		"example.com:65536":               "between 1 and 65535",
		"example.com:x":                   "between 1 and 65535",
		"example.com:1:2":                 "between 1 and 65535",
		"exa mple.com":                    "does not belong",
		"user@example.com":                "does not belong",
		"example.com?transport=udp":       "want turn:",
		"turn:example.com?transport=sctp": "not built",
		"turn:example.com?x=y":            "want turn:",
		"[2001:db8::1":                    "missing ]",
		"[192.0.2.1]:1":                   "not an IPv6",
		"[2001:db8::1]x":                  "want :port",
		strings.Repeat("a", 254):          "want a host",
	} {
		_, err := ParseServer(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
		if strings.HasPrefix(in, "turns:") && !errors.Is(err, ErrTLS) {
			t.Errorf("%q: %v is not ErrTLS", in, err)
		}
	}
}

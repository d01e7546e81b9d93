package nattest

import (
	"net/netip"
	"net/url"
	"testing"
)

func TestAnswersOfGatewaysSendUsNowhereElse(t *testing.T) {
	from := netip.MustParseAddr("192.168.1.1")
	for text, ok := range map[string]bool{
		"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1:5000/x.xml\r\n\r\n":        true,
		"HTTP/1.1 200 OK\r\nlocation:http://192.168.1.1/x\r\n\r\n":                  true,
		"HTTP/1.1 200 OK\r\nLOCATION: http://198.51.100.1/x.xml\r\n\r\n":            false,
		"HTTP/1.1 200 OK\r\nLOCATION: http://gateway.example/x.xml\r\n\r\n":         false,
		"HTTP/1.1 200 OK\r\nLOCATION: https://192.168.1.1/x.xml\r\n\r\n":            false,
		"HTTP/1.1 200 OK\r\nLOCATION: http://a:b@192.168.1.1/x.xml\r\n\r\n":         false,
		"HTTP/1.1 200 OK\r\nLOCATION: file:///etc/passwd\r\n\r\n":                   false,
		"HTTP/1.1 404 Not Found\r\nLOCATION: http://192.168.1.1:5000/x.xml\r\n\r\n": false,
		"NOTIFY * HTTP/1.1\r\nLOCATION: http://192.168.1.1:5000/x.xml\r\n\r\n":      false,
		"": false,
	} {
		if u, err := parseSSDP([]byte(text), from); (err == nil) != ok {
			t.Errorf("%q: %v, %v", text, u, err)
		}
	}
	at, _ := url.Parse("http://192.168.1.1:5000/desc.xml")
	service := func(typ, control string) string {
		return "<root><service><serviceType>" + typ + "</serviceType><controlURL>" + control + "</controlURL></service></root>"
	}
	for text, want := range map[string]string{
		service("urn:schemas-upnp-org:service:WANIPConnection:1", "/ctl"):                    "http://192.168.1.1:5000/ctl",
		service("urn:schemas-upnp-org:service:WANPPPConnection:1", "ctl/ppp"):                "http://192.168.1.1:5000/ctl/ppp",
		service("urn:schemas-upnp-org:service:WANIPConnection:2", "http://198.51.100.1/ctl"): "",
		service("urn:schemas-upnp-org:service:WANIPConnection:1", "//198.51.100.1/ctl"):      "",
		service("urn:schemas-upnp-org:service:WANIPConnection:1&#34; x=&#34;", "/ctl"):       "",
		service("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/ctl"):                   "",
		"<root><service><controlURL>/ctl</controlURL></service></root>":                      "",
		"not XML":                              "",
		"<root><service><serviceType>urn:sche": "",
	} {
		_, u, err := parseDescription([]byte(text), at)
		if got := ""; err == nil {
			got = u.String()
			if got != want {
				t.Errorf("%q: %q, want %q", text, got, want)
			}
		} else if want != "" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTruncatedAnswersOfMappersAreRefused(t *testing.T) {
	pmp, pcp := []byte{0, 128, 0, 0, 0, 0, 0, 9, 203, 0, 113, 1}, make([]byte, pcpBytes)
	pcp[0], pcp[1] = 2, 0x80
	for _, whole := range [][]byte{pmp, pcp} {
		if m, err := parseMapper(whole); err != nil || m.Error != "" {
			t.Errorf("%x: %+v, %v", whole, m, err)
		}
		for n := range whole {
			if m, err := parseMapper(whole[:n]); err == nil {
				t.Errorf("%x: %+v", whole[:n], m)
			}
		}
	}
	if m, err := parseMapper([]byte{0, 128, 0, 3, 0, 0, 0, 9, 0, 0, 0, 0}); err != nil || m.Error == "" || m.External.IsValid() {
		t.Errorf("network failure: %+v, %v", m, err)
	}
}

func FuzzAnswersOfGateways(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1:5000/x.xml\r\n\r\n"))
	f.Add([]byte("<root><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/c</controlURL></service></root>"))
	f.Add([]byte("<a><NewExternalIPAddress>203.0.113.1</NewExternalIPAddress></a>"))
	f.Add([]byte{0, 128, 0, 0, 0, 0, 0, 9, 203, 0, 113, 1})
	at, _ := url.Parse("http://192.168.1.1:5000/desc.xml")
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, err := parseSSDP(b, netip.MustParseAddr("192.168.1.1")); err == nil && u.Hostname() != "192.168.1.1" {
			t.Errorf("%v", u)
		}
		if _, u, err := parseDescription(b, at); err == nil && u.Host != at.Host {
			t.Errorf("%v", u)
		}
		parseExternal(b)
		parseMapper(b)
	})
}

package nattest

import (
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// The questions of this file ask a gateway whether it would map ports, and for its external address. None makes a mapping.

// From the specifications.
const (
	mapperPort     = 5351              // NAT-PMP and PCP: RFC 6886 §3.1, RFC 6887 §19
	natpmpExternal = 0                 // RFC 6886 §3.2
	pcpVersion     = 2                 // RFC 6887 §7.1
	pcpAnnounce    = 0                 // RFC 6887 §14.1
	mapperResponse = 0x80              // both
	pcpBytes       = 24                // a message without opcode data
	natpmpBytes    = 12                // an answer
	ssdpPort       = 1900              // UPnP Device Architecture 1.1 §1
	ssdpGroup      = "239.255.255.250" //
	gatewayDevice  = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
	ipConnection   = "urn:schemas-upnp-org:service:WANIPConnection:"
	pppConnection  = "urn:schemas-upnp-org:service:WANPPPConnection:"
)

// Ours to tune.
const (
	maxDescription = 128 << 10 // bytes of XML; gateways send 3 to 20 KiB
	maxServices    = 64        // in it
)

var errMapper = errors.New("nattest: not an answer of a gateway")

// A Mapper is a protocol by which a gateway would map ports.
type Mapper struct {
	Protocol string         `json:"protocol"` // "nat-pmp", "pcp" or "upnp"
	At       netip.AddrPort `json:"at"`       // who answered
	External netip.Addr     `json:"external"` // its external address; unset if it did not say
	Error    string         `json:"error,omitempty"`
}

// pcpQuestion is a PCP ANNOUNCE request: it asks for nothing.
func pcpQuestion(client netip.Addr) []byte {
	b := make([]byte, pcpBytes)
	b[0], b[1] = pcpVersion, pcpAnnounce
	a := client.As16()
	copy(b[8:], a[:])
	return b
}

// parseMapper reads an answer of port 5351.
func parseMapper(b []byte) (m Mapper, err error) {
	switch {
	case len(b) >= natpmpBytes && b[0] == 0 && b[1] == mapperResponse|natpmpExternal:
		m.Protocol = "nat-pmp"
		if result := binary.BigEndian.Uint16(b[2:]); result != 0 {
			m.Error = fmt.Sprintf("result %d", result)
		} else {
			m.External = netip.AddrFrom4([4]byte(b[8:12]))
		}
	case len(b) >= pcpBytes && b[0] == pcpVersion && b[1] == mapperResponse|pcpAnnounce:
		m.Protocol = "pcp"
		if b[3] != 0 {
			m.Error = fmt.Sprintf("result %d", b[3])
		}
	default:
		return m, errMapper
	}
	return m, nil
}

// ssdpQuestion searches for a gateway.
func ssdpQuestion(host string) []byte {
	return fmt.Appendf(nil, "M-SEARCH * HTTP/1.1\r\nHOST: %s:%d\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: %s\r\n\r\n", host, ssdpPort, gatewayDevice)
}

// parseSSDP reads the place of a description from an answer. It must be an HTTP URL at the address that answered: an answer must not
// send us elsewhere.
func parseSSDP(b []byte, from netip.Addr) (*url.URL, error) {
	lines := strings.Split(string(b), "\r\n")
	if !strings.HasPrefix(lines[0], "HTTP/1.") || !strings.Contains(lines[0], " 200") {
		return nil, errMapper
	}
	for _, l := range lines[1:] {
		name, value, _ := strings.Cut(l, ":")
		if !strings.EqualFold(strings.TrimSpace(name), "LOCATION") {
			continue
		}
		u, err := url.Parse(strings.TrimSpace(value))
		if err != nil || u.Scheme != "http" || u.User != nil {
			return nil, errMapper
		}
		if at, err := netip.ParseAddr(u.Hostname()); err != nil || at.Unmap() != from {
			return nil, errMapper
		}
		return u, nil
	}
	return nil, errMapper
}

// parseDescription finds the control URL of the service that knows the external address. It is at the address of the description.
func parseDescription(b []byte, at *url.URL) (service string, where *url.URL, err error) {
	d := xml.NewDecoder(strings.NewReader(string(b)))
	d.Strict = false
	var typ, control string
	for n := 0; n < maxServices; {
		t, err := d.Token()
		if err != nil {
			return "", nil, errMapper
		}
		s, ok := t.(xml.StartElement)
		if !ok {
			continue
		}
		switch s.Name.Local {
		case "service":
			typ, control = "", ""
			n++
		case "serviceType", "controlURL":
			var text string
			if d.DecodeElement(&text, &s) != nil {
				return "", nil, errMapper
			}
			if text = strings.TrimSpace(text); s.Name.Local == "serviceType" {
				typ = text
			} else {
				control = text
			}
		}
		if control == "" || !strings.HasPrefix(typ, ipConnection) && !strings.HasPrefix(typ, pppConnection) || strings.ContainsAny(typ, "\r\n\"<>") {
			continue
		}
		u, err := at.Parse(control)
		if err != nil || u.Scheme != "http" || u.Host != at.Host {
			return "", nil, errMapper
		}
		return typ, u, nil
	}
	return "", nil, errMapper
}

// externalQuestion is the body of GetExternalIPAddress.
func externalQuestion(service string) string {
	return `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">` +
		`<s:Body><u:GetExternalIPAddress xmlns:u="` + service + `"/></s:Body></s:Envelope>`
}

// parseExternal reads its answer.
func parseExternal(b []byte) (netip.Addr, error) {
	d := xml.NewDecoder(strings.NewReader(string(b)))
	for {
		t, err := d.Token()
		if err != nil {
			return netip.Addr{}, errMapper
		}
		if s, ok := t.(xml.StartElement); ok && s.Name.Local == "NewExternalIPAddress" {
			var text string
			if d.DecodeElement(&text, &s) != nil {
				return netip.Addr{}, errMapper
			}
			a, err := netip.ParseAddr(strings.TrimSpace(text))
			if err != nil || !a.Is4() {
				return netip.Addr{}, errMapper
			}
			return a, nil
		}
	}
}

// hostPort is the endpoint of an HTTP URL with a literal address.
func hostPort(u *url.URL) string {
	if port := u.Port(); port != "" {
		return net.JoinHostPort(u.Hostname(), port)
	}
	return net.JoinHostPort(u.Hostname(), "80")
}

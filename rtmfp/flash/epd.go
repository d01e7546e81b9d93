package flash

import (
	"bytes"

	"github.com/stilenet/stile/rtmfp"
)

// The options of an Endpoint Discriminator (§4.4.2).
const (
	epdHostname    = 0x00
	epdAncillary   = 0x0a
	epdFingerprint = 0x0f
)

// EPD is an Endpoint Discriminator: who a session is wanted with (§4.4).
//
//	zero or more options: 00 hostname | 0a ancillaryData | 0f fingerprint[32]
type EPD struct {
	Hostname    []byte  // nil if absent
	Ancillary   []byte  // nil if absent: the URI of the server that a client connects to
	Fingerprint *PeerID // nil if absent; if present, it decides alone
}

// AppendEPD appends e.
func AppendEPD(b []byte, e EPD) []byte {
	if e.Hostname != nil {
		b = rtmfp.AppendOption(b, rtmfp.Option{Type: epdHostname, Value: e.Hostname})
	}
	if e.Ancillary != nil {
		b = rtmfp.AppendOption(b, rtmfp.Option{Type: epdAncillary, Value: e.Ancillary})
	}
	if e.Fingerprint != nil {
		b = append(b, e.Fingerprint.EPD()...)
	}
	return b
}

// ServerEPD is the discriminator by which a client finds the server of a URI (§5.3.1).
func ServerEPD(uri string) []byte { return AppendEPD(nil, EPD{Ancillary: []byte(uri)}) }

// ParseEPD parses an Endpoint Discriminator. Hostname and Ancillary alias b. Options of unknown types are passed over, and
// so are markers. Errors: rtmfp.ErrTruncated, rtmfp.ErrRange, ErrRepeated, ErrFingerprint.
func ParseEPD(b []byte) (e EPD, err error) {
	for len(b) > 0 {
		var o rtmfp.Option
		var marker bool
		if o, marker, b, err = rtmfp.ParseOption(b); err != nil {
			return EPD{}, err
		}
		if marker {
			continue
		}
		switch o.Type {
		case epdHostname:
			if e.Hostname != nil {
				return EPD{}, ErrRepeated
			}
			e.Hostname = o.Value
		case epdAncillary:
			if e.Ancillary != nil {
				return EPD{}, ErrRepeated
			}
			e.Ancillary = o.Value
		case epdFingerprint:
			if e.Fingerprint != nil {
				return EPD{}, ErrRepeated
			}
			if len(o.Value) != len(PeerID{}) {
				return EPD{}, ErrFingerprint
			}
			id := PeerID(o.Value)
			e.Fingerprint = &id
		}
	}
	return e, nil
}

// selects is Figure 1 of §4.4.3.
func (e EPD) selects(c Certificate, fingerprint PeerID) bool {
	if e.Fingerprint != nil {
		return *e.Fingerprint == fingerprint
	}
	if e.Hostname != nil && (c.Hostname == nil || !bytes.Equal(c.Hostname, e.Hostname)) {
		return false
	}
	if e.Ancillary != nil {
		return c.AcceptsAncillary
	}
	return e.Hostname != nil
}

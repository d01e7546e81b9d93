package rtmfp

import "encoding/binary"

// In this file every AppendX appends a whole chunk, header included, and every ParseX takes the payload of one. Parsed
// byte slices alias the payload. Errors are ErrTruncated and ErrRange, unless said otherwise.

// Fragment carries a part of a plain packet that is longer than the path takes (§2.3.1, §3.4).
//
//	more:1 reserved:7 packetID:vlu fragmentNum:vlu packetFragment[...]
type Fragment struct {
	More     bool   // another fragment follows
	PacketID uint64 // the same in all fragments of a packet
	Number   uint64 // from 0, consecutive
	Data     []byte // not empty
}

// AppendFragment appends f.
func AppendFragment(b []byte, f Fragment) []byte {
	b, at := beginChunk(b, ChunkFragment)
	var flags byte
	if f.More {
		flags = 0x80
	}
	b = append(b, flags)
	b = AppendVLU(b, f.PacketID)
	b = AppendVLU(b, f.Number)
	return endChunk(append(b, f.Data...), at)
}

// ParseFragment parses a Fragment. Also: ErrEmptyFragment.
func ParseFragment(b []byte) (f Fragment, err error) {
	if len(b) == 0 {
		return Fragment{}, ErrTruncated
	}
	f.More = b[0]&0x80 != 0
	if f.PacketID, b, err = ParseVLU(b[1:]); err != nil {
		return Fragment{}, err
	}
	if f.Number, f.Data, err = ParseVLU(b); err != nil {
		return Fragment{}, err
	}
	if len(f.Data) == 0 {
		return Fragment{}, ErrEmptyFragment
	}
	return f, nil
}

// IHello begins the startup of a session (§2.3.2).
//
//	epdLength:vlu epd[epdLength] tag[...]
type IHello struct {
	EPD []byte // names the identity that the initiator wants
	Tag []byte // comes back in RHello and Redirect
}

// AppendIHello appends h.
func AppendIHello(b []byte, h IHello) []byte {
	b, at := beginChunk(b, ChunkIHello)
	return endChunk(append(appendBytesVLU(b, h.EPD), h.Tag...), at)
}

// ParseIHello parses an IHello.
func ParseIHello(b []byte) (h IHello, err error) {
	h.EPD, h.Tag, err = parseBytesVLU(b)
	return h, err
}

// FIHello tells the far end of a session that somebody looks for it (§2.3.3).
//
//	epdLength:vlu epd[epdLength] replyAddress tag[...]
type FIHello struct {
	EPD          []byte
	ReplyAddress Address // of the initiator, as the forwarder saw it
	Tag          []byte
}

// AppendFIHello appends h.
func AppendFIHello(b []byte, h FIHello) []byte {
	b, at := beginChunk(b, ChunkFIHello)
	b = AppendAddress(appendBytesVLU(b, h.EPD), h.ReplyAddress)
	return endChunk(append(b, h.Tag...), at)
}

// ParseFIHello parses an FIHello.
func ParseFIHello(b []byte) (h FIHello, err error) {
	if h.EPD, b, err = parseBytesVLU(b); err != nil {
		return FIHello{}, err
	}
	if h.ReplyAddress, h.Tag, err = ParseAddress(b); err != nil {
		return FIHello{}, err
	}
	return h, nil
}

// RHello answers an IHello (§2.3.4).
//
//	tagLength:vlu tagEcho[tagLength] cookieLength:vlu cookie[cookieLength] certificate[...]
type RHello struct {
	TagEcho     []byte // copied from the IHello
	Cookie      []byte // opaque to the initiator, echoed in its IIKeying
	Certificate []byte // of the responder
}

// AppendRHello appends h.
func AppendRHello(b []byte, h RHello) []byte {
	b, at := beginChunk(b, ChunkRHello)
	b = appendBytesVLU(appendBytesVLU(b, h.TagEcho), h.Cookie)
	return endChunk(append(b, h.Certificate...), at)
}

// ParseRHello parses an RHello.
func ParseRHello(b []byte) (h RHello, err error) {
	if h.TagEcho, b, err = parseBytesVLU(b); err != nil {
		return RHello{}, err
	}
	if h.Cookie, h.Certificate, err = parseBytesVLU(b); err != nil {
		return RHello{}, err
	}
	return h, nil
}

// Redirect names addresses at which the wanted identity may be reached (§2.3.5). Without any it is an Implied Redirect,
// and the address is the one that the packet came from.
//
//	tagLength:vlu tagEcho[tagLength] redirectDestination...
type Redirect struct {
	TagEcho      []byte
	Destinations []Address
}

// AppendRedirect appends r.
func AppendRedirect(b []byte, r Redirect) []byte {
	b, at := beginChunk(b, ChunkRedirect)
	b = appendBytesVLU(b, r.TagEcho)
	for _, a := range r.Destinations {
		b = AppendAddress(b, a)
	}
	return endChunk(b, at)
}

// ParseRedirect parses a Redirect. Destinations is newly allocated.
func ParseRedirect(b []byte) (r Redirect, err error) {
	if r.TagEcho, b, err = parseBytesVLU(b); err != nil {
		return Redirect{}, err
	}
	for len(b) > 0 {
		var a Address
		if a, b, err = ParseAddress(b); err != nil {
			return Redirect{}, err
		}
		r.Destinations = append(r.Destinations, a)
	}
	return r, nil
}

// CookieChange asks an initiator to repeat its IIKeying with another cookie (§2.3.6).
//
//	oldCookieLen:vlu oldCookie[oldCookieLen] newCookie[...]
type CookieChange struct {
	OldCookie, NewCookie []byte
}

// AppendCookieChange appends c.
func AppendCookieChange(b []byte, c CookieChange) []byte {
	b, at := beginChunk(b, ChunkCookieChange)
	return endChunk(append(appendBytesVLU(b, c.OldCookie), c.NewCookie...), at)
}

// ParseCookieChange parses a CookieChange.
func ParseCookieChange(b []byte) (c CookieChange, err error) {
	c.OldCookie, c.NewCookie, err = parseBytesVLU(b)
	return c, err
}

// IIKeying asks a responder to establish a session (§2.3.7).
//
//	{ initiatorSessionID:32 cookieLength:vlu cookieEcho[cookieLength] certLength:vlu certificate[certLength]
//	  skicLength:vlu sessionKeyInitiatorComponent[skicLength] } signature[...]
type IIKeying struct {
	SessionID   uint32 // for packets to the initiator
	CookieEcho  []byte
	Certificate []byte // of the initiator
	Component   []byte // the sessionKeyInitiatorComponent (SKIC)
	Signature   []byte // over the parameters before it
}

// AppendSignedParameters appends what the signature of k covers: everything before it.
func (k IIKeying) AppendSignedParameters(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, k.SessionID)
	b = appendBytesVLU(b, k.CookieEcho)
	b = appendBytesVLU(b, k.Certificate)
	return appendBytesVLU(b, k.Component)
}

// AppendIIKeying appends k.
func AppendIIKeying(b []byte, k IIKeying) []byte {
	b, at := beginChunk(b, ChunkIIKeying)
	return endChunk(append(k.AppendSignedParameters(b), k.Signature...), at)
}

// ParseIIKeying parses an IIKeying. signed is what the signature covers, and aliases b: the received bytes themselves,
// because a VLU need not be in its shortest form.
func ParseIIKeying(b []byte) (k IIKeying, signed []byte, err error) {
	whole := b
	if len(b) < 4 {
		return IIKeying{}, nil, ErrTruncated
	}
	k.SessionID = binary.BigEndian.Uint32(b)
	b = b[4:]
	for _, field := range []*[]byte{&k.CookieEcho, &k.Certificate, &k.Component} {
		if *field, b, err = parseBytesVLU(b); err != nil {
			return IIKeying{}, nil, err
		}
	}
	k.Signature = b
	return k, whole[:len(whole)-len(b)], nil
}

// RIKeying answers an IIKeying; with it the session is open at the responder (§2.3.8).
//
//	{ responderSessionID:32 skrcLength:vlu sessionKeyResponderComponent[skrcLength] } signature[...]
type RIKeying struct {
	SessionID uint32 // for packets to the responder
	Component []byte // the sessionKeyResponderComponent (SKRC)
	Signature []byte // over the parameters before it, then the SKIC
}

// AppendSignedPortion appends the responderSignedParametersPortion of k. The SKIC, which the signature also covers, is
// appended by the caller.
func (k RIKeying) AppendSignedPortion(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, k.SessionID)
	return appendBytesVLU(b, k.Component)
}

// AppendRIKeying appends k.
func AppendRIKeying(b []byte, k RIKeying) []byte {
	b, at := beginChunk(b, ChunkRIKeying)
	return endChunk(append(k.AppendSignedPortion(b), k.Signature...), at)
}

// ParseRIKeying parses an RIKeying. portion is the responderSignedParametersPortion as received, and aliases b.
func ParseRIKeying(b []byte) (k RIKeying, portion []byte, err error) {
	if len(b) < 4 {
		return RIKeying{}, nil, ErrTruncated
	}
	k.SessionID = binary.BigEndian.Uint32(b)
	if k.Component, k.Signature, err = parseBytesVLU(b[4:]); err != nil {
		return RIKeying{}, nil, err
	}
	return k, b[:len(b)-len(k.Signature)], nil
}

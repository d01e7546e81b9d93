package flash

import (
	"encoding/binary"
	"math"
	"reflect"
	"time"
)

// The types of AMF0 (its specification §2.1).
const (
	amf0Number      = 0x00
	amf0Boolean     = 0x01
	amf0String      = 0x02
	amf0Object      = 0x03
	amf0Null        = 0x05
	amf0Undefined   = 0x06
	amf0Reference   = 0x07
	amf0ECMAArray   = 0x08
	amf0ObjectEnd   = 0x09
	amf0StrictArray = 0x0A
	amf0Date        = 0x0B
	amf0LongString  = 0x0C
	amf0Unsupported = 0x0D
	amf0XML         = 0x0F
	amf0TypedObject = 0x10
	amf0AVMPlus     = 0x11 // an AMF3 value follows
)

// ParseAMF0 parses the value that b begins with. The value does not alias b; rest does. References reach back to the
// beginning of this value only, as the players write them in messages. Error: an AMFError.
func ParseAMF0(b []byte) (v any, rest []byte, err error) {
	p := amfParser{b: b}
	v, _ = p.amf0(0)
	if p.err != nil {
		return nil, nil, p.err
	}
	return v, p.b, nil
}

func (p *amfParser) amf0(depth int) (v any, height int) {
	if !p.enter(depth) {
		return nil, 0
	}
	marker := p.take(1)
	if marker == nil {
		return nil, 0
	}
	switch marker[0] {
	case amf0Number:
		return p.double(), 0
	case amf0Boolean:
		return p.byte() != 0, 0
	case amf0String:
		return p.text16(), 0
	case amf0LongString:
		return string(p.take32()), 0
	case amf0XML:
		return XML(p.take32()), 0
	case amf0Null:
		return nil, 0
	case amf0Undefined, amf0Unsupported:
		return Undefined{}, 0
	case amf0Date:
		t, ok := dateOf(p.double())
		p.take(2) // the time zone is reserved
		if !ok {
			p.fail(ErrAMFNumber)
		}
		return t, 0
	case amf0Reference:
		if n := p.take(2); n != nil {
			return p.refer(p.objects0, int(binary.BigEndian.Uint16(n)), depth)
		}
	case amf0Object:
		o := &Object{}
		return p.complex0(o, func() (h int) { o.Properties, h = p.properties0(depth); return h })
	case amf0TypedObject:
		o := &Object{Class: p.text16()}
		return p.complex0(o, func() (h int) { o.Properties, h = p.properties0(depth); return h })
	case amf0ECMAArray:
		p.take(4) // the count is a hint, which Flash and others get wrong
		a := &Array{}
		return p.complex0(a, func() (h int) { a.Named, h = p.properties0(depth); return h })
	case amf0StrictArray:
		return p.strictArray(depth)
	case amf0AVMPlus:
		p.amf3 = amf3Tables{}
		p.values-- // the same value
		return p.amf3Value(depth)
	default:
		p.fail(ErrAMFMarker)
	}
	return nil, 0
}

// complex0 enters a value into the table of references, which become valid when it is read.
func (p *amfParser) complex0(v any, read func() (height int)) (any, int) {
	i, before := len(p.objects0), p.values
	p.objects0 = append(p.objects0, amfReference{v: v})
	h := read()
	p.objects0[i] = amfReference{v: v, values: p.values - before + 1, height: h, done: true}
	return v, h
}

func (p *amfParser) strictArray(depth int) (any, int) {
	i, before := len(p.objects0), p.values
	p.objects0 = append(p.objects0, amfReference{})
	n := p.take(4)
	if n == nil {
		return nil, 0
	}
	count, height := binary.BigEndian.Uint32(n), 0
	if uint64(count) > uint64(len(p.b)) { // a value has at least one byte
		p.fail(ErrAMFTruncated)
		return nil, 0
	}
	if count > MaxAMFValues {
		p.fail(ErrAMFValues)
		return nil, 0
	}
	list := make([]any, 0, count)
	for range count {
		v, h := p.amf0(depth + 1)
		if p.err != nil {
			return nil, 0
		}
		list, height = append(list, v), max(height, h+1)
	}
	p.objects0[i] = amfReference{v: list, values: p.values - before + 1, height: height, done: true}
	return list, height
}

func (p *amfParser) properties0(depth int) (list []Property, height int) {
	for {
		name := p.text16()
		if p.err != nil {
			return nil, 0
		}
		if name == "" && len(p.b) > 0 && p.b[0] == amf0ObjectEnd {
			p.byte()
			return list, height
		}
		v, h := p.amf0(depth + 1)
		list, height = append(list, Property{name, v}), max(height, h+1)
	}
}

func (p *amfParser) double() float64 {
	if n := p.take(8); n != nil {
		return math.Float64frombits(binary.BigEndian.Uint64(n))
	}
	return 0
}

func (p *amfParser) text16() string {
	if n := p.take(2); n != nil {
		return string(p.take(int(binary.BigEndian.Uint16(n))))
	}
	return ""
}

func (p *amfParser) take32() []byte {
	n := p.take(4)
	if n == nil {
		return nil
	}
	count := binary.BigEndian.Uint32(n)
	if uint64(count) > uint64(len(p.b)) {
		p.fail(ErrAMFTruncated)
		return nil
	}
	return p.take(int(count))
}

// AppendAMF0 appends a value. Types that only AMF3 has are written in AMF3, as AMF0 provides. It writes no references: what
// is shared is written twice. Unlike the other Append functions of this package it can fail, because v may be anything: an
// AMFError, and then b is returned as it was.
func AppendAMF0(b []byte, v any) ([]byte, error) {
	a := amfAppender{b: b}
	a.amf0(v, 0)
	if a.err != nil {
		return b, a.err
	}
	return a.b, nil
}

// amfAppender writes one top-level value. The first error ends it.
type amfAppender struct {
	b      []byte
	err    error
	values int
}

func (a *amfAppender) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

func (a *amfAppender) enter(depth int) bool {
	if a.values++; a.values > MaxAMFValues {
		a.fail(ErrAMFValues)
	}
	if depth > MaxAMFDepth {
		a.fail(ErrAMFDepth)
	}
	return a.err == nil
}

func (a *amfAppender) amf0(v any, depth int) {
	if !a.enter(depth) {
		return
	}
	switch v := v.(type) {
	case nil:
		a.b = append(a.b, amf0Null)
	case Undefined:
		a.b = append(a.b, amf0Undefined)
	case bool:
		a.b = append(a.b, amf0Boolean, boolByte(v))
	case XML:
		a.b = append(a.b, amf0XML)
		a.text32(string(v))
	case time.Time:
		a.b = append(a.b, amf0Date)
		a.double(float64(v.UnixMilli()))
		a.b = append(a.b, 0, 0)
	case *Object:
		switch {
		case v == nil:
			a.b = append(a.b, amf0Null)
			return
		case v.Class == "":
			a.b = append(a.b, amf0Object)
		default:
			a.b = append(a.b, amf0TypedObject)
			a.text16(v.Class)
		}
		a.properties0(v.Properties, depth)
	case *Array:
		if v == nil {
			a.b = append(a.b, amf0Null)
			return
		}
		if len(v.Dense) > 0 {
			a.avmPlus(v, depth)
			return
		}
		a.b = append(a.b, amf0ECMAArray)
		a.b = binary.BigEndian.AppendUint32(a.b, uint32(len(v.Named)))
		a.properties0(v.Named, depth)
	case []any:
		a.b = append(a.b, amf0StrictArray)
		a.b = binary.BigEndian.AppendUint32(a.b, uint32(len(v)))
		for _, e := range v {
			a.amf0(e, depth+1)
		}
	case []string:
		a.b = append(a.b, amf0StrictArray)
		a.b = binary.BigEndian.AppendUint32(a.b, uint32(len(v)))
		for _, e := range v {
			a.amf0(e, depth+1)
		}
	case []byte, []int32, []uint32, []float64, *Dictionary:
		a.avmPlus(v, depth)
	default:
		a.scalar0(v)
	}
}

func (a *amfAppender) scalar0(v any) {
	f, s, kind := scalarOf(v)
	switch kind {
	case scalarNumber:
		a.b = append(a.b, amf0Number)
		a.double(f)
	case scalarString:
		if len(s) > math.MaxUint16 {
			a.b = append(a.b, amf0LongString)
			a.text32(s)
			return
		}
		a.b = append(a.b, amf0String)
		a.text16(s)
	default:
		a.fail(ErrAMFType)
	}
}

type scalarKind uint8

const (
	scalarNone scalarKind = iota
	scalarNumber
	scalarString
)

// scalarOf converts all types of numbers and strings. Integers above 2^53 lose their last bits.
func scalarOf(v any) (f float64, s string, kind scalarKind) {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Float64, reflect.Float32:
		return r.Float(), "", scalarNumber
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return float64(r.Int()), "", scalarNumber
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return float64(r.Uint()), "", scalarNumber
	case reflect.String:
		return 0, r.String(), scalarString
	default:
		return 0, "", scalarNone
	}
}

func (a *amfAppender) avmPlus(v any, depth int) {
	a.b = append(a.b, amf0AVMPlus)
	a.values--
	a.amf3(v, depth)
}

func (a *amfAppender) properties0(list []Property, depth int) {
	for _, p := range list {
		a.text16(p.Name)
		a.amf0(p.Value, depth+1)
		if a.err != nil {
			return
		}
	}
	a.b = append(a.b, 0, 0, amf0ObjectEnd)
}

func (a *amfAppender) double(f float64) {
	a.b = binary.BigEndian.AppendUint64(a.b, math.Float64bits(f))
}

func (a *amfAppender) text16(s string) {
	if len(s) > math.MaxUint16 {
		a.fail(ErrAMFLength)
		return
	}
	a.b = append(binary.BigEndian.AppendUint16(a.b, uint16(len(s))), s...)
}

func (a *amfAppender) text32(s string) {
	if uint64(len(s)) > math.MaxUint32 {
		a.fail(ErrAMFLength)
		return
	}
	a.b = append(binary.BigEndian.AppendUint32(a.b, uint32(len(s))), s...)
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

package flash

import (
	"encoding/binary"
	"math"
	"time"
)

// The types of AMF3 (its specification §3.1).
const (
	amf3Undefined    = 0x00
	amf3Null         = 0x01
	amf3False        = 0x02
	amf3True         = 0x03
	amf3Integer      = 0x04
	amf3Double       = 0x05
	amf3String       = 0x06
	amf3XMLDoc       = 0x07
	amf3Date         = 0x08
	amf3Array        = 0x09
	amf3Object       = 0x0A
	amf3XML          = 0x0B
	amf3ByteArray    = 0x0C
	amf3VectorInt    = 0x0D
	amf3VectorUint   = 0x0E
	amf3VectorDouble = 0x0F
	amf3VectorObject = 0x10
	amf3Dictionary   = 0x11
)

// maxAMF3Length is the longest string, array or byte array: a U29 with a bit for references.
const maxAMF3Length = 1<<28 - 1

// amf3Tables are what references refer to.
type amf3Tables struct {
	strings []string
	objects []amfReference
	traits  []amf3Traits
}

type amf3Traits struct {
	class          string
	names          []string
	dynamic        bool
	externalizable bool
}

// ParseAMF3 parses the value that b begins with. The value does not alias b; rest does. Error: an AMFError.
func ParseAMF3(b []byte) (v any, rest []byte, err error) {
	p := amfParser{b: b}
	v, _ = p.amf3Value(0)
	if p.err != nil {
		return nil, nil, p.err
	}
	return v, p.b, nil
}

func (p *amfParser) amf3Value(depth int) (v any, height int) {
	if !p.enter(depth) {
		return nil, 0
	}
	marker := p.take(1)
	if marker == nil {
		return nil, 0
	}
	switch marker[0] {
	case amf3Undefined:
		return Undefined{}, 0
	case amf3Null:
		return nil, 0
	case amf3False:
		return false, 0
	case amf3True:
		return true, 0
	case amf3Integer:
		return float64(int32(p.u29()<<3) >> 3), 0
	case amf3Double:
		return p.double(), 0
	case amf3String:
		return p.text3(), 0
	}
	n, inline := p.header()
	if p.err != nil {
		return nil, 0
	}
	if !inline {
		return p.refer(p.amf3.objects, n, depth)
	}
	i, before := len(p.amf3.objects), p.values
	p.amf3.objects = append(p.amf3.objects, amfReference{})
	switch marker[0] {
	case amf3XMLDoc, amf3XML:
		v = XML(p.take(n))
	case amf3ByteArray:
		v = append([]byte{}, p.take(n)...)
	case amf3Date:
		t, ok := dateOf(p.double())
		if !ok {
			p.fail(ErrAMFNumber)
		}
		v = t
	case amf3Array:
		v, height = p.array3(n, depth)
	case amf3Object:
		v, height = p.object3(n, depth)
	case amf3VectorInt:
		v = vector(p, n, 4, func(b []byte) int32 { return int32(binary.BigEndian.Uint32(b)) })
	case amf3VectorUint:
		v = vector(p, n, 4, binary.BigEndian.Uint32)
	case amf3VectorDouble:
		v = vector(p, n, 8, func(b []byte) float64 { return math.Float64frombits(binary.BigEndian.Uint64(b)) })
	case amf3VectorObject:
		p.byte()  // whether its length is fixed
		p.text3() // the type of its values
		v, height = p.list3(n, depth)
	case amf3Dictionary:
		v, height = p.dictionary3(n, depth)
	default:
		p.fail(ErrAMFMarker)
	}
	p.amf3.objects[i] = amfReference{v: v, values: p.values - before + 1, height: height, done: true}
	return v, height
}

// u29 reads a number of up to 29 bits (its specification §1.3.1).
func (p *amfParser) u29() (n uint32) {
	for range 3 {
		c := p.byte()
		n = n<<7 | uint32(c&0x7f)
		if c < 0x80 {
			return n
		}
	}
	return n<<8 | uint32(p.byte())
}

// header reads a number whose last bit says whether the value follows.
func (p *amfParser) header() (n int, inline bool) {
	u := p.u29()
	return int(u >> 1), u&1 != 0
}

func (p *amfParser) text3() string {
	n, inline := p.header()
	if !inline {
		if n >= len(p.amf3.strings) {
			p.fail(ErrAMFReference)
			return ""
		}
		return p.amf3.strings[n]
	}
	s := string(p.take(n))
	if s != "" {
		p.amf3.strings = append(p.amf3.strings, s)
	}
	return s
}

// names reads named values up to an empty name.
func (p *amfParser) names(depth int) (list []Property, height int) {
	for {
		name := p.text3()
		if name == "" || p.err != nil {
			return list, height
		}
		v, h := p.amf3Value(depth + 1)
		list, height = append(list, Property{name, v}), max(height, h+1)
	}
}

func (p *amfParser) list3(n, depth int) (list []any, height int) {
	if n > len(p.b) { // a value has at least one byte
		p.fail(ErrAMFTruncated)
		return nil, 0
	}
	if n > MaxAMFValues {
		p.fail(ErrAMFValues)
		return nil, 0
	}
	list = make([]any, 0, n)
	for range n {
		v, h := p.amf3Value(depth + 1)
		if p.err != nil {
			return nil, 0
		}
		list, height = append(list, v), max(height, h+1)
	}
	return list, height
}

func (p *amfParser) array3(n, depth int) (any, int) {
	named, height := p.names(depth)
	dense, h := p.list3(n, depth)
	if len(named) == 0 {
		return dense, h
	}
	if len(dense) == 0 {
		dense = nil
	}
	return &Array{Named: named, Dense: dense}, max(height, h)
}

func (p *amfParser) object3(flags, depth int) (any, int) {
	t := p.traits3(flags)
	if t.externalizable {
		p.fail(ErrAMFExternalizable)
	}
	o := &Object{Class: t.class}
	height := 0
	for _, name := range t.names {
		v, h := p.amf3Value(depth + 1)
		if p.err != nil {
			return nil, 0
		}
		o.Properties, height = append(o.Properties, Property{name, v}), max(height, h+1)
	}
	if t.dynamic {
		list, h := p.names(depth)
		o.Properties, height = append(o.Properties, list...), max(height, h)
	}
	return o, height
}

func (p *amfParser) traits3(flags int) amf3Traits {
	if flags&1 == 0 {
		if flags>>1 >= len(p.amf3.traits) {
			p.fail(ErrAMFReference)
			return amf3Traits{}
		}
		return p.amf3.traits[flags>>1]
	}
	t := amf3Traits{class: p.text3(), externalizable: flags&2 != 0, dynamic: flags&4 != 0}
	n := flags >> 3
	if t.externalizable {
		n = 0
	}
	if n > len(p.b) {
		p.fail(ErrAMFTruncated)
		return amf3Traits{}
	}
	for range n {
		t.names = append(t.names, p.text3())
		// Names count, because a reference makes them of two bytes.
		if p.values++; p.values > MaxAMFValues {
			p.fail(ErrAMFValues)
		}
		if p.err != nil {
			return amf3Traits{}
		}
	}
	p.amf3.traits = append(p.amf3.traits, t)
	return t
}

func (p *amfParser) dictionary3(n, depth int) (any, int) {
	d, height := &Dictionary{WeakKeys: p.byte() != 0}, 0
	for range n {
		k, h1 := p.amf3Value(depth + 1)
		v, h2 := p.amf3Value(depth + 1)
		if p.err != nil {
			return nil, 0
		}
		d.Entries, height = append(d.Entries, Entry{k, v}), max(height, h1+1, h2+1)
	}
	return d, height
}

func vector[T any](p *amfParser, n, size int, read func([]byte) T) []T {
	p.byte() // whether its length is fixed
	b := p.take(n * size)
	if p.err != nil {
		return nil
	}
	list := make([]T, n)
	for i := range list {
		list[i] = read(b[i*size:])
	}
	return list
}

// AppendAMF3 appends a value. It writes no references: what is shared is written twice. An Object with a Class is written
// with sealed members, one without is dynamic. Like AppendAMF0 it can fail: an AMFError, and then b is returned as it was.
func AppendAMF3(b []byte, v any) ([]byte, error) {
	a := amfAppender{b: b}
	a.amf3(v, 0)
	if a.err != nil {
		return b, a.err
	}
	return a.b, nil
}

func (a *amfAppender) amf3(v any, depth int) {
	if !a.enter(depth) {
		return
	}
	switch v := v.(type) {
	case nil:
		a.b = append(a.b, amf3Null)
	case Undefined:
		a.b = append(a.b, amf3Undefined)
	case bool:
		a.b = append(a.b, amf3False+boolByte(v))
	case XML:
		a.b = append(a.b, amf3XML)
		a.bytes3(string(v))
	case []byte:
		a.b = append(a.b, amf3ByteArray)
		a.bytes3(string(v))
	case time.Time:
		a.b = append(a.b, amf3Date, 1)
		a.double(float64(v.UnixMilli()))
	case *Object:
		a.object3(v, depth)
	case *Array:
		if v == nil {
			a.b = append(a.b, amf3Null)
			return
		}
		a.array3(v.Named, v.Dense, depth)
	case []any:
		a.array3(nil, v, depth)
	case []string:
		list := make([]any, len(v))
		for i, s := range v {
			list[i] = s
		}
		a.array3(nil, list, depth)
	case []int32:
		a.vectorHeader(amf3VectorInt, len(v))
		for _, e := range v {
			a.b = binary.BigEndian.AppendUint32(a.b, uint32(e))
		}
	case []uint32:
		a.vectorHeader(amf3VectorUint, len(v))
		for _, e := range v {
			a.b = binary.BigEndian.AppendUint32(a.b, e)
		}
	case []float64:
		a.vectorHeader(amf3VectorDouble, len(v))
		for _, e := range v {
			a.double(e)
		}
	case *Dictionary:
		a.dictionary3(v, depth)
	default:
		a.scalar3(v)
	}
}

func (a *amfAppender) scalar3(v any) {
	f, s, kind := scalarOf(v)
	switch kind {
	case scalarNumber:
		if i := int32(f); float64(i) == f && i >= -1<<28 && i < 1<<28 && !(i == 0 && math.Signbit(f)) {
			a.b = append(a.b, amf3Integer)
			a.u29(uint32(i) & (1<<29 - 1))
			return
		}
		a.b = append(a.b, amf3Double)
		a.double(f)
	case scalarString:
		a.b = append(a.b, amf3String)
		a.bytes3(s)
	default:
		a.fail(ErrAMFType)
	}
}

func (a *amfAppender) u29(n uint32) {
	switch {
	case n < 1<<7:
		a.b = append(a.b, byte(n))
	case n < 1<<14:
		a.b = append(a.b, byte(n>>7)|0x80, byte(n&0x7f))
	case n < 1<<21:
		a.b = append(a.b, byte(n>>14)|0x80, byte(n>>7)|0x80, byte(n&0x7f))
	default:
		a.b = append(a.b, byte(n>>22)|0x80, byte(n>>15)|0x80, byte(n>>8)|0x80, byte(n))
	}
}

// header appends a length, as of a value that follows.
func (a *amfAppender) header(n int) {
	if n > maxAMF3Length {
		a.fail(ErrAMFLength)
		return
	}
	a.u29(uint32(n)<<1 | 1)
}

func (a *amfAppender) bytes3(s string) {
	if a.header(len(s)); a.err == nil {
		a.b = append(a.b, s...)
	}
}

func (a *amfAppender) vectorHeader(marker byte, n int) {
	a.b = append(a.b, marker)
	a.header(n)
	a.b = append(a.b, 0)
}

// names appends named values and the empty name that ends them. A value whose name is empty cannot be written.
func (a *amfAppender) names(list []Property, depth int) {
	for _, p := range list {
		if p.Name == "" {
			a.fail(ErrAMFLength)
		}
		if a.bytes3(p.Name); a.err != nil {
			return
		}
		a.amf3(p.Value, depth+1)
	}
	a.b = append(a.b, 1)
}

func (a *amfAppender) array3(named []Property, dense []any, depth int) {
	a.b = append(a.b, amf3Array)
	a.header(len(dense))
	a.names(named, depth)
	for _, e := range dense {
		a.amf3(e, depth+1)
	}
}

func (a *amfAppender) object3(o *Object, depth int) {
	if o == nil {
		a.b = append(a.b, amf3Null)
		return
	}
	a.b = append(a.b, amf3Object)
	if o.Class == "" {
		a.b = append(a.b, 0x0b, 1) // dynamic, without sealed members, of no class
		a.names(o.Properties, depth)
		return
	}
	if len(o.Properties) > maxAMF3Length>>3 {
		a.fail(ErrAMFLength)
		return
	}
	a.u29(uint32(len(o.Properties))<<4 | 3)
	a.bytes3(o.Class)
	for _, p := range o.Properties {
		a.bytes3(p.Name)
	}
	for _, p := range o.Properties {
		a.values++ // as it is parsed, where names count
		a.amf3(p.Value, depth+1)
	}
}

func (a *amfAppender) dictionary3(d *Dictionary, depth int) {
	if d == nil {
		a.b = append(a.b, amf3Null)
		return
	}
	a.b = append(a.b, amf3Dictionary)
	a.header(len(d.Entries))
	a.b = append(a.b, boolByte(d.WeakKeys))
	for _, e := range d.Entries {
		a.amf3(e.Key, depth+1)
		a.amf3(e.Value, depth+1)
	}
}

package flash

import (
	"fmt"
	"time"
)

// Ours to tune.
const (
	// MaxAMFDepth bounds how deep values lie in each other. What NetConnection and applications send is a few levels deep.
	MaxAMFDepth = 64
	// MaxAMFValues bounds the values in one top-level value, as often as references repeat them, so that whoever walks it
	// takes no longer than for so many. At 32 bytes for a property it is 2 MiB.
	MaxAMFValues = 1 << 16
)

// A value of the Action Message Format is one of these in Go. Numbers of both formats, AMF3's integers too, are parsed as
// float64, as ActionScript's Number.
//
//	Go               ActionScript            to append also
//	nil              null
//	Undefined        undefined
//	bool             Boolean
//	float64          Number, int, uint       every other integer and float type
//	string           String                  a type whose kind is string
//	time.Time        Date                    UTC, milliseconds
//	*Object          Object, typed object
//	[]any            Array of values         []string
//	*Array           Array with names
//	[]byte           ByteArray
//	XML              XML, XMLDocument
//	[]int32, []uint32, []float64             Vector.<int>, .<uint>, .<Number>; a Vector.<Object> is parsed as []any
//	*Dictionary      Dictionary
//
// Strings are parsed as they are, valid UTF-8 or not. A parsed value is a tree of at most MaxAMFValues values and MaxAMFDepth
// levels: one that contains itself is refused, and one that is referred to twice is the same pointer twice.
type (
	// Undefined is ActionScript's undefined, and what is parsed of AMF0's "unsupported".
	Undefined struct{}
	// XML is the text of an XML document.
	XML string
	// Property is a named value.
	Property struct {
		Name  string
		Value any
	}
	// Object is an object with its properties in the order of the wire. Class is empty for an anonymous one.
	Object struct {
		Class      string
		Properties []Property
	}
	// Array is an ECMA array: it has names, and in AMF3 values by number beside them.
	Array struct {
		Named []Property
		Dense []any
	}
	// Dictionary is a map with keys of any type (AMF3 only).
	Dictionary struct {
		WeakKeys bool
		Entries  []Entry
	}
	// Entry is one of a Dictionary.
	Entry struct{ Key, Value any }
)

// Get returns the first property of the name. A nil Object has none.
func (o *Object) Get(name string) (v any, ok bool) {
	if o == nil {
		return nil, false
	}
	return get(o.Properties, name)
}

// Text returns a property that is a string, else "".
func (o *Object) Text(name string) string {
	v, _ := o.Get(name)
	s, _ := v.(string)
	return s
}

// Get returns the first value of the name. A nil Array has none.
func (a *Array) Get(name string) (v any, ok bool) {
	if a == nil {
		return nil, false
	}
	return get(a.Named, name)
}

func get(properties []Property, name string) (any, bool) {
	for _, p := range properties {
		if p.Name == name {
			return p.Value, true
		}
	}
	return nil, false
}

// AMFError says why bytes are not a value, or why a value cannot be appended.
type AMFError uint8

// The errors.
const (
	ErrAMFTruncated      AMFError = iota + 1 // the bytes end before the value
	ErrAMFMarker                             // a type that does not exist, or is reserved, or not at this place
	ErrAMFDepth                              // deeper than MaxAMFDepth; also a value to append that contains itself
	ErrAMFValues                             // more than MaxAMFValues
	ErrAMFReference                          // to what does not exist, or to what contains it
	ErrAMFExternalizable                     // an object that only its class can read
	ErrAMFNumber                             // a length above 2^28 (AMF3), or a date beyond the range of ActionScript
	ErrAMFType                               // a Go type that has no counterpart
	ErrAMFLength                             // a name above 65535 bytes (AMF0), or anything above 2^28 (AMF3)
)

func (e AMFError) Error() string {
	texts := [...]string{
		ErrAMFTruncated: "truncated", ErrAMFMarker: "unknown type", ErrAMFDepth: "too deep", ErrAMFValues: "too many values",
		ErrAMFReference: "impossible reference", ErrAMFExternalizable: "externalizable object", ErrAMFNumber: "number out of range",
		ErrAMFType: "a Go type without counterpart", ErrAMFLength: "too long",
	}
	if int(e) < len(texts) && e > 0 {
		return "flash: AMF: " + texts[e]
	}
	return fmt.Sprintf("flash: AMF: error %d", uint8(e))
}

// amfParser reads one top-level value. The first error ends it.
type amfParser struct {
	b        []byte
	err      error
	values   int
	objects0 []amfReference
	amf3     amf3Tables
}

// amfReference is a value that can be referred to.
type amfReference struct {
	v      any
	values int // in it, with itself
	height int // levels below it
	done   bool
}

func (p *amfParser) fail(err error) {
	if p.err == nil {
		p.err = err
		p.b = nil
	}
}

// take returns n bytes that alias the input, or nil after an error.
func (p *amfParser) take(n int) []byte {
	if p.err != nil || n < 0 || n > len(p.b) {
		p.fail(ErrAMFTruncated)
		return nil
	}
	t := p.b[:n:n]
	p.b = p.b[n:]
	return t
}

func (p *amfParser) byte() byte {
	if t := p.take(1); t != nil {
		return t[0]
	}
	return 0
}

// enter counts a value at a depth.
func (p *amfParser) enter(depth int) bool {
	if p.values++; p.values > MaxAMFValues {
		p.fail(ErrAMFValues)
	}
	if depth > MaxAMFDepth {
		p.fail(ErrAMFDepth)
	}
	return p.err == nil
}

// refer repeats a value.
func (p *amfParser) refer(table []amfReference, i, depth int) (any, int) {
	if p.err != nil || i >= len(table) || !table[i].done {
		p.fail(ErrAMFReference)
		return nil, 0
	}
	r := table[i]
	if p.values += r.values - 1; p.values > MaxAMFValues {
		p.fail(ErrAMFValues)
	}
	if depth+r.height > MaxAMFDepth {
		p.fail(ErrAMFDepth)
	}
	return r.v, r.height
}

const maxDateMillis = 8.64e15 // ECMA-262: the range of a Date

func dateOf(millis float64) (time.Time, bool) {
	if !(millis >= -maxDateMillis && millis <= maxDateMillis) {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(millis)).UTC(), true
}

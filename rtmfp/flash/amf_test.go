package flash

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Vectors by hand from the specifications of AMF0 and AMF3.
func TestAMF0OfTheSpecification(t *testing.T) {
	shared := &Object{Properties: []Property{{"x", 1.0}}}
	for _, test := range []struct {
		name, wire string
		want       any
		oneWay     bool // what is appended is another form
	}{
		{"number", "00 3ff0000000000000", 1.0, false},
		{"boolean", "01 01", true, false},
		{"string", "02 0003 616263", "abc", false},
		{"object", "03 0001 61 05 0000 09", &Object{Properties: []Property{{"a", nil}}}, false},
		{"property without a name", "03 0000 05 0000 09", &Object{Properties: []Property{{"", nil}}}, false},
		{"null", "05", nil, false},
		{"undefined", "06", Undefined{}, false},
		{"unsupported", "0d", Undefined{}, true},
		{"reference", "0a 00000002 03 0001 78 00 3ff0000000000000 0000 09 07 0001", []any{shared, shared}, true},
		{"ecma array", "08 00000001 0001 61 01 00 0000 09", &Array{Named: []Property{{"a", false}}}, false},
		{"ecma array with a wrong count", "08 000000ff 0001 61 01 00 0000 09", &Array{Named: []Property{{"a", false}}}, true},
		{"strict array", "0a 00000002 05 06", []any{nil, Undefined{}}, false},
		{"date", "0b 426d1a94a2000000 0000", time.Date(2001, 9, 9, 1, 46, 40, 0, time.UTC), false},
		{"long string", "0c 00000001 61", "a", true},
		{"xml", "0f 00000004 3c612f3e", XML("<a/>"), false},
		{"typed object", "10 0001 43 0001 61 02 0000 0000 09", &Object{Class: "C", Properties: []Property{{"a", ""}}}, false},
		{"byte array", "11 0c 05 0102", []byte{1, 2}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			wire := unhex(t, test.wire)
			got, rest, err := ParseAMF0(append(wire[:len(wire):len(wire)], 0xee))
			if err != nil || len(rest) != 1 || !reflect.DeepEqual(got, test.want) {
				t.Fatalf("parsed %#v, rest %x, %v; want %#v", got, rest, err, test.want)
			}
			for i := range wire {
				if v, _, err := ParseAMF0(wire[:i]); !errors.Is(err, ErrAMFTruncated) {
					t.Errorf("%d bytes: %#v, %v", i, v, err)
				}
			}
			if b, err := AppendAMF0(nil, got); err != nil || !test.oneWay && !bytes.Equal(b, wire) {
				t.Errorf("appended %x, %v; want %x", b, err, wire)
			}
		})
	}
}

func TestAMF3OfTheSpecification(t *testing.T) {
	inner := []any{}
	for _, test := range []struct {
		name, wire string
		want       any
		oneWay     bool
	}{
		{"undefined", "00", Undefined{}, false},
		{"null", "01", nil, false},
		{"false", "02", false, false},
		{"true", "03", true, false},
		{"integer", "04 7f", 127.0, false},
		{"integer of two bytes", "04 8100", 128.0, false},
		{"integer of three bytes", "04 818000", 16384.0, false},
		{"integer of four bytes", "04 80c08000", 2097152.0, false},
		{"highest integer", "04 bfffffff", 268435455.0, false},
		{"lowest integer", "04 c0808000", -268435456.0, false},
		{"integer -1", "04 ffffffff", -1.0, false},
		{"double", "05 3ff8000000000000", 1.5, false},
		{"string", "06 07 616263", "abc", false},
		{"string reference", "09 05 01 06 03 61 06 00", []any{"a", "a"}, true},
		{"empty string is no reference", "09 07 01 06 01 06 03 61 06 00", []any{"", "a", "a"}, true},
		{"xml document", "07 09 3c612f3e", XML("<a/>"), true},
		{"xml", "0b 09 3c612f3e", XML("<a/>"), false},
		{"date", "08 01 426d1a94a2000000", time.Date(2001, 9, 9, 1, 46, 40, 0, time.UTC), false},
		{"array", "09 05 01 01 03", []any{nil, true}, false},
		{"array with names", "09 03 03 61 03 01 02", &Array{Named: []Property{{"a", true}}, Dense: []any{false}}, false},
		{"object reference", "09 05 01 09 01 01 0a 02", []any{inner, inner}, true},
		{"anonymous object", "0a 0b 01 03 61 02 01", &Object{Properties: []Property{{"a", false}}}, false},
		{"sealed object", "0a 13 03 43 03 61 02", &Object{Class: "C", Properties: []Property{{"a", false}}}, false},
		{"traits reference", "09 05 01 0a 13 03 43 03 61 02 0a 01 03", []any{
			&Object{Class: "C", Properties: []Property{{"a", false}}}, &Object{Class: "C", Properties: []Property{{"a", true}}}}, true},
		{"byte array", "0c 05 0102", []byte{1, 2}, false},
		{"vector of int", "0d 05 00 00000001 ffffffff", []int32{1, -1}, false},
		{"vector of uint", "0e 03 01 ffffffff", []uint32{math.MaxUint32}, true},
		{"vector of number", "0f 03 00 3ff8000000000000", []float64{1.5}, false},
		{"vector of object", "10 03 00 03 43 01", []any{nil}, true},
		{"dictionary", "11 03 00 04 01 03", &Dictionary{Entries: []Entry{{1.0, true}}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			wire := unhex(t, test.wire)
			got, rest, err := ParseAMF3(append(wire[:len(wire):len(wire)], 0xee))
			if err != nil || len(rest) != 1 || !reflect.DeepEqual(got, test.want) {
				t.Fatalf("parsed %#v, rest %x, %v; want %#v", got, rest, err, test.want)
			}
			for i := range wire {
				if v, _, err := ParseAMF3(wire[:i]); !errors.Is(err, ErrAMFTruncated) {
					t.Errorf("%d bytes: %#v, %v", i, v, err)
				}
			}
			if b, err := AppendAMF3(nil, got); err != nil || !test.oneWay && !bytes.Equal(b, wire) {
				t.Errorf("appended %x, %v; want %x", b, err, wire)
			}
		})
	}
}

func TestAMFBombsAreRefused(t *testing.T) {
	// Each array holds the one before it twice: 2^40 values in 400 bytes, if references were free.
	doubling := []byte{0x09, 83, 0x01, 0x09, 0x01, 0x01}
	for i := range byte(40) {
		doubling = append(doubling, 0x09, 0x05, 0x01, 0x09, 2*(i+1), 0x09, 2*(i+1))
	}
	nested0 := append(bytes.Repeat([]byte{0x0a, 0, 0, 0, 1}, MaxAMFDepth+1), 0x05)
	nested3 := append(bytes.Repeat([]byte{0x09, 0x03, 0x01}, MaxAMFDepth+1), 0x01)
	for _, test := range []struct {
		name  string
		parse func([]byte) (any, []byte, error)
		wire  []byte
		want  AMFError
	}{
		{"references that double", ParseAMF3, doubling, ErrAMFValues},
		{"AMF0 too deep", ParseAMF0, nested0, ErrAMFDepth},
		{"AMF3 too deep", ParseAMF3, nested3, ErrAMFDepth},
		{"AMF0 a value in itself", ParseAMF0, unhex(t, "0a 00000001 07 0000"), ErrAMFReference},
		{"AMF3 a value in itself", ParseAMF3, unhex(t, "09 03 01 09 00"), ErrAMFReference},
		{"AMF0 a count without values", ParseAMF0, unhex(t, "0a ffffffff 05"), ErrAMFTruncated},
		{"AMF3 a count without values", ParseAMF3, unhex(t, "09 ffffffff 01 01"), ErrAMFTruncated},
		{"AMF3 traits without names", ParseAMF3, unhex(t, "0a 80c08003 01"), ErrAMFTruncated},
		{"AMF0 nulls", ParseAMF0, append([]byte{0x0a, 0, 2, 0, 0}, bytes.Repeat([]byte{5}, 1<<17)...), ErrAMFValues},
		{"AMF3 traits repeated", ParseAMF3, append(unhex(t, "0a 80c08003 03 61"), bytes.Repeat([]byte{0}, 1<<20)...), ErrAMFValues},
		{"externalizable", ParseAMF3, unhex(t, "0a 07 03 43 01"), ErrAMFExternalizable},
		{"movie clip", ParseAMF0, []byte{0x04}, ErrAMFMarker},
		{"a date that is not a number", ParseAMF0, unhex(t, "0b 7ff8000000000001 0000"), ErrAMFNumber},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, _, err := test.parse(test.wire); !errors.Is(err, test.want) {
				t.Errorf("%v; want %v", err, test.want)
			}
		})
	}
}

func TestAppendAMFRefusesWhatHasNoCounterpart(t *testing.T) {
	self := &Object{}
	self.Properties = []Property{{"self", self}}
	for _, test := range []struct {
		name string
		v    any
		want AMFError
	}{
		{"a channel", make(chan int), ErrAMFType},
		{"a value in itself", self, ErrAMFDepth},
	} {
		if b, err := AppendAMF0([]byte{1}, test.v); !errors.Is(err, test.want) || len(b) != 1 {
			t.Errorf("%s, AMF0: %x, %v", test.name, b, err)
		}
		if b, err := AppendAMF3([]byte{1}, test.v); !errors.Is(err, test.want) || len(b) != 1 {
			t.Errorf("%s, AMF3: %x, %v", test.name, b, err)
		}
	}
	type name string
	for _, v := range []any{name("a"), int8(1), uint64(1), float32(1)} {
		if _, err := AppendAMF0(nil, v); err != nil {
			t.Errorf("%T: %v", v, err)
		}
	}
}

// FuzzAMF holds both parsers to their promises: what they return is small enough to walk, and is the same after another
// round.
func FuzzAMF(f *testing.F) {
	f.Add(true, []byte{0x0a, 0, 0, 0, 2, 0x03, 0, 1, 'a', 5, 0, 0, 9, 7, 0, 1})
	f.Add(true, []byte{0x11, 0x0a, 0x13, 3, 'C', 3, 'a', 2})
	f.Add(false, []byte{0x09, 5, 1, 0x0a, 0x0b, 1, 3, 'a', 2, 1, 0x0a, 2})
	f.Add(false, []byte{0x11, 3, 0, 4, 1, 0x0f, 3, 0, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, zero bool, b []byte) {
		parse, appendTo := ParseAMF3, AppendAMF3
		if zero {
			parse, appendTo = ParseAMF0, AppendAMF0
		}
		v, rest, err := parse(b)
		if err != nil {
			if v != nil || rest != nil {
				t.Fatal("a value with an error")
			}
			return
		}
		if n, depth := measure(v); n > MaxAMFValues || depth > MaxAMFDepth {
			t.Fatalf("%d values, %d deep", n, depth)
		}
		once, err := appendTo(nil, v)
		if errors.Is(err, ErrAMFValues) || errors.Is(err, ErrAMFLength) {
			return // names of sealed members count where they were references; AMF3 cannot have an empty name
		}
		if err != nil {
			t.Fatal(err)
		}
		v2, rest2, err := parse(once)
		if err != nil || len(rest2) != 0 {
			t.Fatalf("%x: %v, rest %x", once, err, rest2)
		}
		if twice, err := appendTo(nil, v2); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%x, then %x, %v", once, twice, err)
		}
	})
}

// measure walks a value.
func measure(v any) (n, depth int) {
	n = 1
	add := func(v any) {
		m, d := measure(v)
		n, depth = n+m, max(depth, d+1)
	}
	switch v := v.(type) {
	case *Object:
		for _, p := range v.Properties {
			add(p.Value)
		}
	case *Array:
		for _, p := range v.Named {
			add(p.Value)
		}
		for _, e := range v.Dense {
			add(e)
		}
	case []any:
		for _, e := range v {
			add(e)
		}
	case *Dictionary:
		for _, e := range v.Entries {
			add(e.Key)
			add(e.Value)
		}
	}
	return n, depth
}

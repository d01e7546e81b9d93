package rtmfp

import "iter"

// Option is a Length-Type-Value triplet (§2.1.3). A Marker, the empty option, is not an Option here.
//
//	length:vlu type:vlu value[length - sizeof(type)]
type Option struct {
	Type  uint64
	Value []byte
}

// AppendOption appends o.
func AppendOption(b []byte, o Option) []byte {
	b = AppendVLU(b, uint64(SizeVLU(o.Type)+len(o.Value)))
	b = AppendVLU(b, o.Type)
	return append(b, o.Value...)
}

// AppendMarker appends the empty option that ends a list (§2.1.3).
func AppendMarker(b []byte) []byte { return append(b, 0) }

// ParseOption parses the option or marker that b begins with. The value and rest alias b. Errors: ErrTruncated, ErrRange.
func ParseOption(b []byte) (o Option, marker bool, rest []byte, err error) {
	payload, rest, err := parseBytesVLU(b)
	if err != nil {
		return Option{}, false, nil, err
	}
	if len(payload) == 0 {
		return Option{}, true, rest, nil
	}
	o.Type, o.Value, err = ParseVLU(payload)
	if err != nil {
		return Option{}, false, nil, err
	}
	return o, false, rest, nil
}

// OptionList is the encoding of zero or more options without the Marker that ends the list (§2.1.4). One made with
// AppendOption or by ParseOptionList is well formed.
type OptionList []byte

// AppendOptionList appends l and its Marker.
func AppendOptionList(b []byte, l OptionList) []byte { return AppendMarker(append(b, l...)) }

// ParseOptionList parses the list that b begins with, up to its Marker. Both results alias b.
// Errors: ErrTruncated (also for a list without a Marker), ErrRange.
func ParseOptionList(b []byte) (l OptionList, rest []byte, err error) {
	for rest = b; ; {
		before := len(b) - len(rest)
		_, marker, after, err := ParseOption(rest)
		if err != nil {
			return nil, nil, err
		}
		if marker {
			return OptionList(b[:before:before]), after, nil
		}
		rest = after
	}
}

// All yields the options in order. It stops at the first that does not parse, and passes over markers.
func (l OptionList) All() iter.Seq[Option] {
	return func(yield func(Option) bool) {
		for rest := []byte(l); len(rest) > 0; {
			o, marker, after, err := ParseOption(rest)
			if err != nil {
				return
			}
			if !marker && !yield(o) {
				return
			}
			rest = after
		}
	}
}

package turn

import (
	"testing"

	"pgregory.net/rapid"
)

func TestPortSetWritesItsRanges(t *testing.T) {
	tests := []struct {
		name    string
		include []PortRange
		exclude []PortRange
		want    string
	}{
		{"empty", nil, nil, "none"},
		{"empty range", []PortRange{{5, 4}, {0, 9}}, nil, "none"},
		{"everything", []PortRange{{1, 65535}}, nil, "1-65535"},
		{"one", []PortRange{{80, 80}}, nil, "80"},
		{"joined", []PortRange{{10, 20}, {21, 30}, {15, 25}}, nil, "10-30"},
		{"ends", []PortRange{{1, 65535}}, []PortRange{{1, 1}, {65535, 65535}, {63, 64}}, "2-62,65-65534"},
		{"last", []PortRange{{65535, 65535}}, nil, "65535"},
		{"nothing left", []PortRange{{7, 9}}, []PortRange{{1, 65535}}, "none"},
	}
	for _, tt := range tests {
		if got := NewPortSet(tt.include, tt.exclude...).String(); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestPortSetIsTheSetOfItsRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) PortRange {
			return PortRange{rapid.Uint16().Draw(t, "first"), rapid.Uint16().Draw(t, "last")}
		}), 0, 4)
		include, exclude := draw.Draw(t, "include"), draw.Draw(t, "exclude")
		s := NewPortSet(include, exclude...)
		again := NewPortSet(s.Ranges())
		in := func(list []PortRange, port uint16) bool {
			for _, r := range list {
				if r.Contains(port) {
					return true
				}
			}
			return false
		}
		for p := range 65536 {
			port := uint16(p)
			if want := in(include, port) && !in(exclude, port); s.Contains(port) != want || again.Contains(port) != want {
				t.Fatalf("port %d: got %t, rebuilt %t, want %t", port, s.Contains(port), again.Contains(port), want)
			}
		}
	})
}

func TestPortRangeCountsItsPorts(t *testing.T) {
	for r, want := range map[PortRange]int{{1, 65535}: 65535, {5, 5}: 1, {6, 5}: 0, {0, 5}: 0, {0, 0}: 0} {
		if got := r.Size(); got != want {
			t.Errorf("%v: got %d, want %d", r, got, want)
		}
	}
}

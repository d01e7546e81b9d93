package dataplane

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"unsafe"
)

// TestDatagramsToOneAddressLeaveAsOneMessage also where others' lie between them, each address's in their order.
func TestDatagramsToOneAddressLeaveAsOneMessage(t *testing.T) {
	s := newSender()
	var q queue
	want := make(map[string]string)
	for n := range 3 {
		for _, to := range []string{"192.0.2.1:1000", "192.0.2.1:1001", "192.0.2.2:1000", "[2001:db8::1]:1000"} {
			size := 100
			if to == "192.0.2.2:1000" {
				size -= n // each shorter than the one before: two fit into one message, and the third stands alone
			}
			data := make([]byte, size)
			data[0] = byte(n)
			it := s.add(&q, data)
			a := netip.MustParseAddrPort(to)
			it.nameLen = it.name.put(a, a.Addr().Is6(), 0)
			want[to] = "[0 1 2]"
		}
	}
	want["192.0.2.2:1000"] = "[0 1] [2]"
	first, _ := q.take()
	msgs := s.gather(first, true)
	got := make(map[string]string)
	for i := range s.hdrs[:msgs] {
		h := &s.hdrs[i].hdr
		var order []byte
		for _, iov := range unsafe.Slice(h.Iov, int(h.Iovlen)) {
			order = append(order, *iov.Base)
		}
		to := (*sockaddr)(unsafe.Pointer(h.Name)).get().String()
		if got[to] != "" {
			got[to] += " "
		}
		got[to] += fmt.Sprint(order)
	}
	if !maps.Equal(got, want) {
		t.Errorf("messages: %v, want %v", got, want)
	}
	for at, g := range s.groups {
		if g != (group{}) {
			t.Fatalf("place %d of the table of groups was not left empty", at)
		}
	}
}

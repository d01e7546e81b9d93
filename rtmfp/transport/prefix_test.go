package transport

import (
	"net/netip"
	"testing"
	"time"
)

func TestStartupPacketsOfAPrefixAreLimited(t *testing.T) {
	now := time.Unix(1e9, 0)
	l := newPrefixLimit(100)
	count := func(addr string, tries int) (allowed int) {
		for range tries {
			if l.allow(now, netip.MustParseAddr(addr)) {
				allowed++
			}
		}
		return allowed
	}
	if got := count("192.0.2.1", 60) + count("192.0.2.200", 60) + count("::ffff:192.0.2.3", 60); got != 100 {
		t.Errorf("%d in a burst of a /24", got)
	}
	if got := count("192.0.3.1", 10) + count("2001:db8::1", 10); got != 20 {
		t.Errorf("%d of other prefixes", got)
	}
	now = now.Add(500 * time.Millisecond)
	if got := count("192.0.2.9", 100); got != 50 {
		t.Errorf("%d after half a second", got)
	}
	now = now.Add(time.Hour)
	if got := count("2001:db8::1", 80) + count("2001:db8:0:7f::1", 80); got != 100 {
		t.Errorf("%d in a burst of a /56", got)
	}
	if n := (*prefixLimit)(nil); !n.allow(now, netip.Addr{}) {
		t.Error("no limit limits")
	}
}

package turn

import (
	"fmt"
	"testing"
	"time"
)

func TestClientReachesFewPeersThatDoNotAnswer(t *testing.T) {
	s := newServer(t, setup{limits: func(l *Limits) {
		l.PerClient, l.Permissions = 4, 256
		l.UnansweredPackets, l.UnansweredBytes, l.UnansweredAllClients = 20, 16<<10, 4
	}})
	peer := func(i int) string { return fmt.Sprintf("203.0.%d.%d:5000", i/250, 1+i%250) }
	reach := func(c *client, from, n int) (reached int) {
		for i := range n {
			reached += len(c.sendTo(peer(from+i), "x"))
		}
		return reached
	}
	one, other := s.client("198.51.100.1:7000").allocate(), s.client("198.51.100.1:7001").allocate()
	same(t, "of one allocation", reach(one, 0, 100), 100)
	same(t, "of two of the same client", reach(other, 100, 100), 28)
	same(t, "dropped", s.did(DropUnanswered), uint64(72))
	same(t, "a known peer goes on", len(one.sendTo(peer(0), "x")), 1)
	same(t, "another client has its own", reach(s.client("198.51.100.2:7000").allocate(), 500, 100), 100)

	same(t, "ten peers answer", one.hears(peer(0)), "data")
	for i := 1; i < 10; i++ {
		one.hears(peer(i))
		one.hears(peer(i)) // counts once
	}
	same(t, "and make room for ten", reach(other, 300, 20), 10)

	s.after(silentWindow/128 - 1)
	same(t, "a nanosecond before there is room", reach(other, 400, 1), 0)
	s.after(1)
	same(t, "then for one", reach(other, 400, 2), 1)
	s.after(10 * time.Second)
	same(t, "four every ten seconds", reach(other, 420, 20), 4)
}

func TestSilentPeersAreCountedAgainstNobodyWithoutALimit(t *testing.T) {
	for name, l := range map[string]Limits{
		"no limit of allocations":     {UnansweredPackets: 20},
		"no budget, as in laboratory": {PerClient: 4},
	} {
		same(t, name, l.silentPeers(), 0)
	}
	same(t, "as many as allocations", (&Limits{PerClient: 1024, UnansweredBytes: 1}).silentPeers(), 1024)
}

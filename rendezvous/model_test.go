package rendezvous

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

// invariants are what holds between any two events: everything that is counted or registered belongs to a client that is there.
func (w *world) invariants(t rapid.TB) {
	keys := map[*heldKey]int64{}
	addrs := map[netip.Addr]int32{}
	places := map[PeerID]place{}
	var private, public int64
	for _, c := range w.cores {
		for id, cl := range c.clients {
			if cl.session.ID() != id || cl.session.State() != rtmfp.StateOpen || c.client(cl.session) != cl {
				t.Fatalf("client %v: session %d in %v", SessionID(cl.serial), cl.session.ID(), cl.session.State())
			}
			if cl.key != nil {
				keys[cl.key]++
			}
			addrs[cl.counted]++
			if !cl.registered {
				continue
			}
			if cl.state != stateConnected {
				t.Fatalf("%v is registered in state %v", SessionID(cl.serial), cl.state)
			}
			if at, ok := places[cl.id()]; ok {
				t.Fatalf("two clients have the ID of %v", at)
			}
			places[cl.id()] = c.place(cl)
			if isInside(cl.counted) {
				private++
			} else {
				public++
			}
		}
	}
	for _, h := range w.reg.Keys.held() {
		if got := h.sessions.Load(); got != keys[h] {
			t.Fatalf("key %s: %d sessions, counted %d", h.Name, keys[h], got)
		}
		if h.Sessions > 0 && w.reg.Keys.Required() && keys[h] > int64(h.Sessions) {
			t.Fatalf("key %s: %d sessions of %d", h.Name, keys[h], h.Sessions)
		}
	}
	for i := range w.reg.clients {
		for a, n := range w.reg.clients[i].sessions {
			if n != addrs[a] {
				t.Fatalf("%v: %d sessions, counted %d", a, addrs[a], n)
			}
			delete(addrs, a)
		}
	}
	if len(addrs) > 0 {
		t.Fatalf("not counted: %v", addrs)
	}
	registered := 0
	for i := range w.reg.peers {
		for id, at := range w.reg.peers[i].at {
			registered++
			if places[id] != at {
				t.Fatalf("%.8v is registered at %v, and is at %v", id, at, places[id])
			}
		}
	}
	if registered != len(places) {
		t.Fatalf("%d registered, %d are there", registered, len(places))
	}
	for id := range w.reg.Names.byPeer {
		if _, ok := places[id]; !ok {
			t.Fatalf("%.8v has a name and is not there", id)
		}
	}
	if a, b := w.reg.private.Load(), w.reg.public.Load(); a != private || b != public {
		t.Fatalf("%d private, %d public; counted %d, %d", private, public, a, b)
	}
}

// TestTheServiceKeepsItsBooks lets clients come, die, move on, copy each other and talk nonsense, in any order.
func TestTheServiceKeepsItsBooks(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t, setup{shards: rapid.IntRange(1, 3).Draw(r, "shards"), seed: rapid.Uint64Range(0, 1<<20).Draw(r, "seed"), rules: Rules{Keepalive: 10 * time.Second}})
		all := map[KeyHash]Key{HashKey("one"): {Name: "one", Sessions: 2}, HashKey("two"): {Name: "two"}}
		w.reg.Keys.Replace(all)
		w.reg.Keys.SetRequired(rapid.Bool().Draw(r, "required"))
		var peers []*peer
		pick := func() *peer {
			if len(peers) == 0 {
				r.Skip("nobody is there")
			}
			return peers[rapid.IntRange(0, len(peers)-1).Draw(r, "peer")]
		}
		n := 0
		open := func(id *flash.Identity) {
			n++
			addr := fmt.Sprintf("%s.%d:5000", []string{"203.0.113", "10.0.0"}[rapid.IntRange(0, 1).Draw(r, "network")], n)
			var p *peer
			if id == nil {
				p = w.client(addr, "")
			} else {
				p = w.clientAs(addr, "", id)
			}
			s, err := p.e.Open(w.now, flash.ServerEPD("rtmfp://x/"), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: w.server})
			if err != nil {
				t.Fatal(err)
			}
			p.session = s
			w.run(100 * time.Millisecond)
			if s.State() != rtmfp.StateOpen {
				return
			}
			if p.control, err = s.OpenFlow(w.now, rtmfp.FlowConfig{Metadata: flash.AppendFlowMetadata(nil, flash.FlowMetadata{})}); err != nil {
				t.Fatal(err)
			}
			path := rapid.SampledFrom([]string{"one", "two", "cc", "x", ""}).Draw(r, "path")
			p.command(flash.AMF0, flash.ConnectCommand(flash.ConnectInfo{App: path}))
			peers = append(peers, p)
		}
		r.Repeat(map[string]func(*rapid.T){
			"come": func(*rapid.T) {
				if n < 12 {
					open(nil)
				}
			},
			"copy": func(*rapid.T) {
				if n < 12 {
					open(pick().id)
				}
			},
			"die": func(*rapid.T) { pick().dead = true },
			"close": func(*rapid.T) {
				if p := pick(); !p.dead {
					p.session.Close(w.now)
				}
			},
			"close the flow": func(*rapid.T) {
				if p := pick(); !p.dead {
					p.control.Close(w.now)
				}
			},
			"nonsense": func(*rapid.T) {
				p := pick()
				if !p.dead && p.control.State() == rtmfp.FlowOpen {
					_, _ = p.control.Write(w.now, rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(r, "bytes"), rtmfp.WriteOptions{})
				}
			},
			"take a name": func(*rapid.T) {
				id := pick().id.PeerID()
				if _, ok := w.reg.find(id); ok {
					w.reg.Names.take("ann", id)
				}
			},
			"revoke": func(*rapid.T) {
				if rapid.Bool().Draw(r, "really") {
					delete(all, HashKey("two"))
				} else {
					all[HashKey("two")] = Key{Name: "two"}
				}
				w.reg.Keys.Replace(all)
				for _, c := range w.cores {
					c.KeysChanged(w.now)
				}
			},
			"meet": func(*rapid.T) {
				a, b := pick(), pick()
				if !a.dead {
					_, _ = a.e.Open(w.now, b.id.PeerID().EPD(), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: w.server})
				}
			},
			"wait": func(*rapid.T) { w.run(time.Duration(rapid.IntRange(1, 50).Draw(r, "seconds")) * time.Second) },
			"": func(r *rapid.T) {
				w.run(50 * time.Millisecond)
				w.invariants(r)
			},
		})
		for _, p := range peers {
			p.dead = true
		}
		w.run(2 * time.Minute)
		w.invariants(r)
		if s := w.stats(); s.Sessions != 0 || w.reg.Peers() != 0 {
			r.Fatalf("%d sessions, %d peers of the dead", s.Sessions, w.reg.Peers())
		}
	})
}

// FuzzClient proves that whatever messages a client sends, the service keeps its books and its bounds.
func FuzzClient(f *testing.F) {
	command := func(c flash.Command) []byte {
		b, err := flash.AppendCommand(nil, flash.AMF0, c)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	connect := command(flash.ConnectCommand(flash.ConnectInfo{App: "k"}))
	f.Add(connect, command(flash.Command{Name: flash.CommandSetPeerInfo, Arguments: []any{"192.0.2.1:5", "x"}}))
	f.Add(command(flash.ConnectCommand(flash.ConnectInfo{App: "cc"})), command(flash.Command{Name: flash.CommandSetPeerInfo}))
	f.Add(connect, connect)
	f.Add(connect, command(flash.Command{Name: flash.CommandCreateStream, Transaction: 2}))
	f.Add([]byte{17, 0, 0, 0, 0, 0}, []byte{4, 0, 0, 0, 0, 0, 41})
	// One session serves many inputs, each as if it had just opened: the key agreement takes longer than what is fuzzed.
	var w *world
	var p *peer
	f.Fuzz(func(t *testing.T, one, two []byte) {
		if len(one) > maxMessage || len(two) > maxMessage {
			return
		}
		if p == nil || p.session.State() != rtmfp.StateOpen || len(w.cores[0].clients) != 1 {
			w = newWorld(t, setup{})
			p = w.client("203.0.113.1:5000", "").dial("rtmfp://x/k")
			p.control.Begin(w.now)
			w.run(second)
		}
		c := w.cores[0]
		for _, cl := range c.clients {
			if cl.registered {
				c.unregister(cl)
			}
			*cl = client{session: cl.session, control: cl.control, reply: cl.reply, counted: cl.counted, serial: cl.serial, state: stateOpened}
			for _, b := range [][]byte{one, two, two} {
				c.message(cl, cl.control, append([]byte(nil), b...))
				w.invariants(t)
			}
			if n := len(cl.reportedAddresses()); n > maxReported {
				t.Errorf("%d reported addresses", n)
			}
			c.describe(cl)
		}
		w.run(100 * time.Millisecond)
		w.invariants(t)
	})
}

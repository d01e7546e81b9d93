package rendezvous

import (
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Bounds of the names that peers take.
const (
	maxNameBytes    = 128     // of UTF-8
	maxNamesPerPeer = 4       // the sample application takes one
	maxNames        = 1 << 20 // in all; 300 bytes each
)

// Names say which peer has which name, in memory, for as long as the peer is connected. The first holder keeps a name until
// it leaves. Safe for concurrent use.
type Names struct {
	mu     sync.Mutex
	byName map[string]PeerID
	byPeer map[PeerID][]string
}

func newNames() *Names {
	return &Names{byName: map[string]PeerID{}, byPeer: map[PeerID][]string{}}
}

// validName says whether a name may be taken: up to 128 bytes of printable UTF-8.
func validName(name string) bool {
	return name != "" && len(name) <= maxNameBytes && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
}

// take gives the name to the peer, unless another has it or a limit is reached.
func (n *Names) take(name string, id PeerID) bool {
	if !validName(name) {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch holder, taken := n.byName[name]; {
	case taken:
		return holder == id
	case len(n.byName) >= maxNames || len(n.byPeer[id]) >= maxNamesPerPeer:
		return false
	}
	n.byName[name] = id
	n.byPeer[id] = append(n.byPeer[id], name)
	return true
}

// holder finds who has the name.
func (n *Names) holder(name string) (PeerID, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	id, ok := n.byName[name]
	return id, ok
}

// release frees one name of the peer.
func (n *Names) release(name string, id PeerID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.byName[name] != id {
		return
	}
	delete(n.byName, name)
	left := slices.DeleteFunc(n.byPeer[id], func(s string) bool { return s == name })
	if len(left) == 0 {
		delete(n.byPeer, id)
	} else {
		n.byPeer[id] = left
	}
}

// leave frees all names of a peer that has gone.
func (n *Names) leave(id PeerID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range n.byPeer[id] {
		delete(n.byName, name)
	}
	delete(n.byPeer, id)
}

// of returns the names of a peer.
func (n *Names) of(id PeerID) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.byPeer[id])
}

// Len reports how many names are taken.
func (n *Names) Len() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.byName)
}

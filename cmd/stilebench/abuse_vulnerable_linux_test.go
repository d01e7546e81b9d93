package main

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/stilenet/stile/stun"
)

// vulnerable is a TURN server that does whatever it is asked, so that every attack on it must succeed. It sends to loopback only.
type vulnerable struct {
	udp  *net.UDPConn
	tcp  net.Listener
	most int  // allocations, then none
	dies bool // at what is no STUN message

	mu     sync.Mutex
	allocs map[string]*vulnerableAlloc
	dead   error
}

type vulnerableAlloc struct {
	relay    *net.UDPConn
	channels map[uint16]netip.AddrPort
}

func startVulnerable(t *testing.T, change func(*vulnerable)) *arena {
	t.Helper()
	v := &vulnerable{most: 5000, allocs: make(map[string]*vulnerableAlloc)}
	if change != nil {
		change(v)
	}
	var err error
	if v.udp, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	_ = v.udp.SetReadBuffer(4 << 20)
	if v.tcp, err = net.Listen("tcp4", v.udp.LocalAddr().String()); err != nil {
		t.Fatal(err)
	}
	go v.serveUDP()
	go v.serveTCP()
	a, err := newRemoteArena(v.udp.LocalAddr().String(), repoRoot, 0)
	if err != nil {
		t.Fatal(err)
	}
	a.ended = func() error {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.dead
	}
	a.restart = func() error { v.forget(); return nil }
	a.drainSources, a.floodSeconds, a.scanSeconds = 1500, 2, 3
	t.Cleanup(func() {
		a.witness.close()
		v.udp.Close()
		v.tcp.Close()
		v.forget()
	})
	return a
}

func (v *vulnerable) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key, al := range v.allocs {
		al.relay.Close()
		delete(v.allocs, key)
	}
}

func (v *vulnerable) serveUDP() {
	b := make([]byte, 1<<16)
	for {
		n, from, err := v.udp.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			continue
		}
		v.message("udp "+from.String(), from, b[:n], func(m []byte) { _, _ = v.udp.WriteToUDPAddrPort(m, from) })
	}
}

func (v *vulnerable) serveTCP() {
	for {
		c, err := v.tcp.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
			var in []byte
			b := make([]byte, 1<<16)
			for {
				n, err := c.Read(b)
				if err != nil {
					return
				}
				for in = append(in, b[:n]...); ; {
					size := frameSize(in)
					if size == 0 || size > len(in) {
						break
					}
					v.message("tcp "+from.String(), from, in[:size], func(m []byte) { _, _ = c.Write(m) })
					in = in[size:]
				}
			}
		}()
	}
}

func (v *vulnerable) message(key string, from netip.AddrPort, b []byte, reply func([]byte)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	al := v.allocs[key]
	if len(b) >= 4 && b[0]&0xC0 != 0 {
		if al != nil {
			v.relay(al, al.channels[uint16(b[0])<<8|uint16(b[1])], b[4:4+min(int(b[2])<<8|int(b[3]), len(b)-4)])
		}
		return
	}
	m, err := stun.Parse(b)
	if err != nil {
		if v.dies {
			v.dead = errors.New("a parser's end")
			v.udp.Close()
		}
		return
	}
	answer := func(attrs ...attr) {
		attrs = append(attrs, attr{stun.AttrSoftware, make([]byte, 200)}) // a reflector worth using
		reply(message(stun.NewType(m.Method(), stun.Success), m.TransactionID(), attrs...))
	}
	peer, _ := m.GetXORAddress(stun.AttrXORPeerAddress)
	switch m.Type() {
	case stun.NewType(stun.Binding, stun.Request):
		answer()
	case stun.NewType(stun.Allocate, stun.Request):
		if al == nil && len(v.allocs) < v.most {
			al = v.allocate(key, reply)
		}
		if al == nil {
			reply(message(stun.NewType(stun.Allocate, stun.Error), m.TransactionID(), attr{stun.AttrErrorCode, []byte{0, 0, 5, 8}}))
			return
		}
		b := stun.Begin(nil, stun.NewType(stun.Allocate, stun.Success), m.TransactionID())
		b.XORAddress(stun.AttrXORRelayedAddress, al.relay.LocalAddr().(*net.UDPAddr).AddrPort())
		b.Uint32(stun.AttrLifetime, 600)
		reply(b.Bytes())
	case stun.NewType(stun.Refresh, stun.Request):
		if life, ok := m.Uint32(stun.AttrLifetime); ok && life == 0 && al != nil {
			al.relay.Close()
			delete(v.allocs, key)
		}
		answer()
	case stun.NewType(stun.ChannelBind, stun.Request):
		if number, ok := m.Uint32(stun.AttrChannelNumber); ok && al != nil {
			al.channels[uint16(number>>16)] = peer
		}
		answer()
	case stun.NewType(stun.CreatePermission, stun.Request):
		answer()
	case stun.NewType(stun.Send, stun.Indication):
		if data, ok := m.Get(stun.AttrData); ok && al != nil {
			v.relay(al, peer, data)
		}
	}
}

func (v *vulnerable) allocate(key string, reply func([]byte)) *vulnerableAlloc {
	relay, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil
	}
	al := &vulnerableAlloc{relay, make(map[uint16]netip.AddrPort)}
	v.allocs[key] = al
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := relay.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err == nil {
				reply(message(stun.NewType(stun.Data, stun.Indication), newID(), peerAttr(from), dataAttr(b[:n])))
			}
		}
	}()
	return al
}

func (v *vulnerable) relay(al *vulnerableAlloc, to netip.AddrPort, data []byte) {
	if to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port()); to.Addr().Is4() && to.Addr().IsLoopback() {
		_, _ = al.relay.WriteToUDPAddrPort(data, to)
	}
}

// attack runs one trial and returns it; the trial must not fail.
func attack(t *testing.T, name string, a *arena) *AbuseTrial {
	t.Helper()
	for _, x := range abuses {
		if x.name == name {
			trial, err := x.against(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			return trial
		}
	}
	t.Fatalf("no trial %s", name)
	return nil
}

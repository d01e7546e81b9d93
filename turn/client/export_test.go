package client

import (
	"net"
)

// StartEcho runs the scripted server of the tests on a loopback port: a relay whose every peer echoes.
func StartEcho() (address string, stop func()) {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	s := &fakeServer{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			for _, reply := range s.receive(b[:n], from.String()) {
				_, _ = pc.WriteTo(reply, from)
			}
		}
	}()
	return pc.LocalAddr().String(), func() { _ = pc.Close(); <-done }
}

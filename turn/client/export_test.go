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
	done := make(chan struct{})
	go func() { defer close(done); new(fakeServer).serve(pc) }()
	return pc.LocalAddr().String(), func() { _ = pc.Close(); <-done }
}

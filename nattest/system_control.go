package nattest

import (
	"errors"
	"net"
	"syscall"
)

// control runs f on a socket's descriptor.
func control(c net.PacketConn, f func(fd uintptr) error) error {
	s, ok := c.(syscall.Conn)
	if !ok {
		return errors.New("nattest: not a socket of the system")
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(fd) }); err != nil {
		return err
	}
	return inner
}

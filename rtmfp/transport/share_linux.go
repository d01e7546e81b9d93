package transport

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// canShare reports whether several sockets can have one address, with the packets divided among them.
const canShare = true

func share(_, _ string, c syscall.RawConn) error {
	var err error
	if ctlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); ctlErr != nil {
		return ctlErr
	}
	return err
}

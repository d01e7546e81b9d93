//go:build linux

package netns

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// tun makes the end's interface a TUN device of the host: what the kernel sends out of it is read from the file, one IP packet for
// each read, checksums filled in; what is written to the file arrives. Close makes reads return.
func (l *Lab) tun(e End) *os.File {
	l.tb.Helper()
	var f *os.File
	l.must(e.host.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun (modprobe tun, as root): %w", err)
		}
		req, err := unix.NewIfreq(e.name)
		if err == nil {
			req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		f = os.NewFile(uintptr(fd), "tun "+e.host.name+":"+e.name) // non-blocking: reads wait in the runtime's poller
		return nil
	}), "host %s: tun %s", e.host.name, e.name)
	link, err := e.host.nl.LinkByName(e.name)
	l.must(err, "host %s: tun %s", e.host.name, e.name)
	l.must(e.host.nl.LinkSetMTU(link, e.mtu), "host %s: tun %s: mtu %d", e.host.name, e.name, e.mtu)
	e.up()
	return f
}

//go:build unix

package admin

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// private reports why a file's content may be known to others.
func private(info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("is open to others (mode %04o): run chmod 600 on it, and make a new token if others may have read it", mode)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 && int(s.Uid) != os.Geteuid() && os.Geteuid() != 0 {
		return fmt.Errorf("belongs to the user %d: run as the server's user", s.Uid)
	}
	return nil
}

//go:build unix

package dataplane

import (
	"math"

	"golang.org/x/sys/unix"
)

// descriptorLimit raises the soft limit of open files to the hard one, as far as the runtime has not, and returns it.
func descriptorLimit() (n int, ok bool) {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 0, false
	}
	if l.Cur < l.Max {
		raised := l
		raised.Cur = l.Max
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			l = raised
		}
	}
	if uint64(l.Cur) > math.MaxInt32 {
		return 0, false // no limit to speak of
	}
	return int(l.Cur), true
}

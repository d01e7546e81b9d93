package dataplane

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// edge asks for one event for each arrival. Level-triggered, the kernel would look at every socket of the last batch once
// more in the next wait.
const edge = 1 << 31 // EPOLLET

// tag names a socket in an event: its kind, which use of its table entry it is, and the entry.
type tag uint64

type tagKind uint8

const (
	tagMailbox tagKind = iota
	tagListener
	tagRelay
	tagStream
)

// tagGenerations is the mask of a generation.
const tagGenerations = 1<<30 - 1

func makeTag(k tagKind, generation, index uint32) tag {
	return tag(k)<<62 | tag(generation&tagGenerations)<<32 | tag(index)
}

func (t tag) kind() tagKind      { return tagKind(t >> 62) }
func (t tag) generation() uint32 { return uint32(t>>32) & tagGenerations }
func (t tag) index() uint32      { return uint32(t) }

// epollEvents is how many events a shard takes at a time.
const epollEvents = 128

// epoll is one epoll instance.
type epoll struct {
	fd     int
	events []unix.EpollEvent
}

func newEpoll() (epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return epoll{fd: fd, events: make([]unix.EpollEvent, epollEvents)}, err
}

func (p *epoll) add(fd int, events uint32, t tag) error {
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(t), Pad: int32(t >> 32)})
}

func (p *epoll) change(fd int, events uint32, t tag) error {
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(t), Pad: int32(t >> 32)})
}

// tag is the socket of an event.
func (p *epoll) tag(event int) tag {
	e := &p.events[event]
	return tag(uint32(e.Pad))<<32 | tag(uint32(e.Fd))
}

// spin waits for events without telling the scheduler, which costs 40 % of a packet otherwise. It keeps a
// processor of the scheduler's, so it must be short.
func (p *epoll) spin(milliseconds int) (n int, interrupted bool) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)),
		uintptr(milliseconds), 0, 0)
	switch errno {
	case 0:
		return int(r), false
	case unix.EINTR: // the scheduler wants the thread: for other goroutines, for the garbage collector
		return 0, true
	}
	panic("BUG: dataplane: epoll_wait: " + errno.Error())
}

// sleep waits for events and lets others have the processor. -1 is forever.
func (p *epoll) sleep(milliseconds int) int {
	n, err := unix.EpollWait(p.fd, p.events, milliseconds)
	if err != nil && err != unix.EINTR {
		panic("BUG: dataplane: epoll_wait: " + err.Error())
	}
	return max(n, 0)
}

// pause sleeps without telling the scheduler.
func pause(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_, _, _ = syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}

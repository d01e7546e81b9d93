package rendezvous

import "container/heap"

// deadline is when something is to be done about a client. It may come too late: then the client is in another state.
type deadline struct {
	at     int64
	client *client
	state  clientState // what the client must still be in
	round  uint32      // of a connectivity check
}

// deadlines is a heap by time. What has become pointless stays until it is due, which is seconds.
type deadlines []deadline

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].at < d[j].at }
func (d deadlines) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *deadlines) Push(x any)        { *d = append(*d, x.(deadline)) }
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	x := (*d)[last]
	(*d)[last] = deadline{}
	*d = (*d)[:last]
	return x
}

func (d *deadlines) add(x deadline) { heap.Push(d, x) }

// pop takes what is due at now.
func (d *deadlines) pop(now int64) (deadline, bool) {
	if len(*d) == 0 || (*d)[0].at > now {
		return deadline{}, false
	}
	x := heap.Pop(d).(deadline)
	if len(*d) == 0 {
		*d = nil // a burst of clients leaves nothing behind
	}
	return x, true
}

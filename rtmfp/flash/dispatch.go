package flash

import (
	"sync"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// dispatcher is the queue to the goroutine that calls the application. What waits in it is bounded by the core, which holds the
// flows back; status events are as few as the streams.
type dispatcher struct {
	mu   sync.Mutex
	list []notice
	wake chan struct{}
}

func (d *dispatcher) add(n []notice) {
	d.mu.Lock()
	d.list = append(d.list, n...)
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *dispatcher) take() []notice {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.list
	d.list = nil
	return n
}

// takenStep is how many bytes of messages the application takes before the core is told.
const takenStep = 64 << 10

// dispatch calls the application until the connection is closed.
func (c *connection) dispatch(k *core) {
	taken := 0
	for {
		list := c.queue.take()
		if len(list) == 0 {
			select {
			case <-c.queue.wake:
				continue
			case <-c.served:
			}
			// Nothing is added any more.
			for _, n := range c.queue.take() {
				c.tell(k, n)
			}
			return
		}
		for _, n := range list {
			c.tell(k, n)
			if n.kind != noticeMessage {
				continue
			}
			if taken += len(n.message.Payload); taken >= takenStep {
				taken = c.report(k, taken)
			}
		}
		taken = c.report(k, taken)
	}
}

// report tells the core what the application has taken. It returns what is left to report.
func (c *connection) report(k *core, taken int) int {
	if taken == 0 {
		return 0
	}
	err := c.t.Post(func(now time.Time, e *rtmfp.Endpoint) {
		k.taken(now, taken)
		c.flush(k)
	})
	if err != nil {
		return taken
	}
	return 0
}

// tell calls a function of the application.
func (c *connection) tell(k *core, n notice) {
	switch n.kind {
	case noticeConnection:
		if c.public.OnNetStatus != nil {
			ev := NetStatusEvent{Status: n.status, Info: n.info}
			if n.stream != nil {
				ev.Stream = n.stream.public
			}
			c.public.OnNetStatus(ev)
		}
	case noticeStream:
		if n.stream.public.OnNetStatus != nil {
			n.stream.public.OnNetStatus(n.status)
		}
	case noticeMessage:
		if n.stream.public.OnMessage != nil {
			n.stream.public.OnMessage(n.message)
		}
		if n.message.Type == MessageDataAMF0 || n.message.Type == MessageDataAMF3 {
			n.stream.call(n.message)
		}
	case noticeCall:
		if f := c.public.Client[n.command.Name]; f != nil {
			f(n.command.Arguments)
		}
	case noticeAsk:
		accept := n.publisher.public.OnPeerConnect(n.stream.public)
		_ = c.do(func(k *core) { k.decided(k.now, n.stream, accept) })
	case noticeConnected, noticeClosed:
		// The goroutine of the core has seen to it.
	}
}

// call calls the function of the Client that a data message names.
func (s *stream) call(m Message) {
	if len(s.public.Client) == 0 {
		return
	}
	d, err := ParseData(m)
	if err != nil {
		_ = s.c.do(func(*core) { s.info_.Invalid++ })
		return
	}
	if f := s.public.Client[d.Handler]; f != nil {
		f(d.Arguments)
	}
}

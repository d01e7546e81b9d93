package rtmfp

import (
	"container/heap"
	"math"
	"time"
)

// instant is a time in nanoseconds since the endpoint's making: a third of the memory of a time.Time.
type instant int64

const (
	never   instant = math.MaxInt64
	longAgo instant = math.MinInt64 / 2
)

func (i instant) add(d time.Duration) instant { return i + instant(d) }

func (i instant) sub(j instant) time.Duration { return time.Duration(i - j) }

// timers is a heap of sessions by their alarm. A session knows its index, one-based, so that the zero Session is in none.
type timers []*Session

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].alarm < t[j].alarm }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].timerIndex, t[j].timerIndex = int32(i+1), int32(j+1)
}
func (t *timers) Push(x any) {
	s := x.(*Session)
	*t = append(*t, s)
	s.timerIndex = int32(len(*t))
}
func (t *timers) Pop() any {
	last := len(*t) - 1
	s := (*t)[last]
	(*t)[last] = nil
	*t = (*t)[:last]
	s.timerIndex = 0
	return s
}

// setAlarm moves the session in the heap.
func (e *Endpoint) setAlarm(s *Session, at instant) {
	switch {
	case s.timerIndex == 0 && at == never:
		s.alarm = never
	case s.timerIndex == 0:
		s.alarm = at
		heap.Push(&e.timers, s)
	case at == never:
		heap.Remove(&e.timers, int(s.timerIndex-1))
		s.alarm = never
	case at != s.alarm:
		s.alarm = at
		heap.Fix(&e.timers, int(s.timerIndex-1))
	}
}

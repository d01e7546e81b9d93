//go:build linux

package netns

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestShaperPacesQueuesAndDrops(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := shaper{random: rand.New(rand.NewPCG(1, 0))}
	cfg := UserLinkConfig{Delay: 10 * time.Millisecond, Rate: 8_000_000, Queue: 3000} // 1000 bytes each millisecond
	for i, want := range []time.Duration{11, 12, 13} {
		if at, fate := s.decide(now, 1000, cfg); fate != delivered || at.Sub(now) != want*time.Millisecond {
			t.Errorf("packet %d: fate %d after %v", i, fate, at.Sub(now))
		}
	}
	if _, fate := s.decide(now, 1000, cfg); fate != overflowed {
		t.Errorf("a fourth packet: fate %d", fate)
	}
	if at, fate := s.decide(now.Add(time.Millisecond), 1000, cfg); fate != delivered || at.Sub(now) != 14*time.Millisecond {
		t.Errorf("a packet after one has left: fate %d after %v", fate, at.Sub(now))
	}
}

func TestShaperLosesTheSamePacketsForTheSameSeed(t *testing.T) {
	lose := func(seed uint64, cfg UserLinkConfig) (fates []fate) {
		s := shaper{random: rand.New(rand.NewPCG(seed, 0))}
		for range 1000 {
			_, f := s.decide(time.Unix(0, 0), 100, cfg)
			fates = append(fates, f)
		}
		return fates
	}
	count := func(a, b []fate) (differ, losses int) {
		for i := range a {
			if a[i] != b[i] {
				differ++
			}
			if a[i] == lost {
				losses++
			}
		}
		return differ, losses
	}
	a := lose(7, UserLinkConfig{Loss: 0.1})
	if differ, losses := count(a, lose(7, UserLinkConfig{Loss: 0.1, Jitter: time.Second})); differ > 0 || losses < 50 || losses > 150 {
		t.Errorf("%d differences, %d losses", differ, losses)
	}
	if differ, _ := count(a, lose(8, UserLinkConfig{Loss: 0.1})); differ == 0 {
		t.Error("another seed loses the same packets")
	}
}

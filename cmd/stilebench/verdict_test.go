package main

import "testing"

func TestOnlyLossOfTheServerIsCalledItsLimit(t *testing.T) {
	cases := []struct {
		name string
		t    TrialResult
		want limit
	}{
		{"all carried", TrialResult{Sent: 1000, Received: 1000}, limitNone},
		{"loss below the limit", TrialResult{Sent: 10000, Received: 9995, Loss: 0.0005}, limitNone},
		{"server lost", TrialResult{Sent: 1000, Received: 900, Loss: 0.1}, limitServer},
		{"generator late", TrialResult{Sent: 900, Skipped: 100, Received: 900}, limitGenerator},
		{"generator late, and loss", TrialResult{Sent: 900, Skipped: 100, Received: 500, Loss: 0.44}, limitGenerator},
		{"nothing sent", TrialResult{}, limitGenerator},
		{"own queues overflowed", TrialResult{Sent: 1000, Received: 900, Loss: 0.1, GeneratorDrops: 50}, limitGenerator},
		{"own queues lost a little of much", TrialResult{Sent: 1000, Received: 500, Loss: 0.5, GeneratorDrops: 3}, limitServer},
		{"others took its CPU", TrialResult{Sent: 1000, Received: 900, Loss: 0.1, CPU: &CPU{ServerShare: 0.6, ForeignShare: 0.3}}, limitMachine},
		{"the host took its CPU", TrialResult{Sent: 1000, Received: 900, Loss: 0.1, CPU: &CPU{ServerShare: 0.6, StealShare: 0.3}}, limitMachine},
		{"busy by itself", TrialResult{Sent: 1000, Received: 900, Loss: 0.1, CPU: &CPU{ServerShare: 0.93, ForeignShare: 0.06}}, limitServer},
	}
	for _, c := range cases {
		if got := judge(&c.t, 0.001); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

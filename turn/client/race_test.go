//go:build race

package client

const allocationsAllowed = 4 // sync.Pool drops buffers at random under the race detector

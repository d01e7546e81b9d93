//go:build e2e

package flash_test

func init() { floodPackets = 1_000_000 }

//go:build !unix

package dataplane

func descriptorLimit() (n int, ok bool) { return 0, false }

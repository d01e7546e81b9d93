//go:build !race

package client

const allocationsAllowed = 0

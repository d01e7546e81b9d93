// Package natlab is a simulated internet.
package natlab

package flash

import (
	"math/big"
	"math/bits"

	"golang.org/x/sys/cpu"
)

// fastPower reports whether the processor has what montgomeryMultiply needs: all since 2015 (Broadwell, Zen).
var fastPower = cpu.X86.HasADX && cpu.X86.HasBMI2

// maxWords is the size of the largest prime.
const maxWords = 4096 / 64

// windowBits is how many bits of the exponent are worked off by one multiplication: with 160 to 320 bits, 5 is best.
const windowBits = 5

// number is below 2^(64n) for a prime of n words, the least significant word first.
type number [maxWords]uint64

// montgomeryMultiply computes (a*b + m*p) / 2^(64n) for the m that makes it whole: it is in the n words of t from t[n] on, and
// carry. The first n words of t must be zero. p must be 2^64-1 in its lowest word, as the primes of MODP groups are, so that the
// constant of Montgomery's method is 1.
//
//go:noescape
func montgomeryMultiply(t, a, b, p *uint64, n uint64) (carry uint64)

// multiplier multiplies by Montgomery's method. Factors and products are below 2^(64n), but not always below p.
type multiplier struct {
	n int
	p number
	t [2 * maxWords]uint64
}

func (m *multiplier) multiply(z, a, b *number) {
	clear(m.t[:m.n])
	carry := montgomeryMultiply(&m.t[0], &a[0], &b[0], &m.p[0], uint64(m.n))
	copy(z[:m.n], m.t[m.n:2*m.n])
	if carry != 0 {
		m.subtract(z)
	}
}

// subtract takes p from z, modulo 2^(64n).
func (m *multiplier) subtract(z *number) {
	var borrow uint64
	for i := range m.n {
		z[i], borrow = bits.Sub64(z[i], m.p[i], borrow)
	}
}

func (z *number) set(x *big.Int) {
	*z = number{}
	for i, w := range x.Bits() {
		z[i] = uint64(w)
	}
}

// power computes y^x modulo the prime of the group. math/big, which calls a function for every row of a product, takes 100 µs in
// group 2 where this takes 52, and 2.5 ms in group 16 where this takes 2.1.
func (g *group) power(y, x *big.Int) *big.Int {
	if !fastPower {
		return new(big.Int).Exp(y, x, g.p)
	}
	m := &multiplier{n: g.size / 8}
	m.p.set(g.p)
	var rr, base, square, z number
	rr.set(g.rr)
	base.set(y)
	m.multiply(&base, &base, &rr)
	m.multiply(&square, &base, &base)
	var odd [1 << (windowBits - 1)]number // y, y^3, y^5, …
	odd[0] = base
	for i := 1; i < len(odd); i++ {
		m.multiply(&odd[i], &odd[i-1], &square)
	}
	started := false
	for i := x.BitLen() - 1; i >= 0; {
		if x.Bit(i) == 0 {
			m.multiply(&z, &z, &z)
			i--
			continue
		}
		// A window begins and ends with a one.
		end := max(0, i-windowBits+1)
		for x.Bit(end) == 0 {
			end++
		}
		value := 0
		for ; i >= end; i-- {
			value = value<<1 | int(x.Bit(i))
			if started {
				m.multiply(&z, &z, &z)
			}
		}
		if started {
			m.multiply(&z, &z, &odd[value>>1])
		} else {
			z, started = odd[value>>1], true
		}
	}
	if !started {
		return big.NewInt(1)
	}
	one := number{1}
	m.multiply(&z, &z, &one)
	words := make([]big.Word, m.n)
	for i := range words {
		words[i] = big.Word(z[i])
	}
	r := new(big.Int).SetBits(words)
	if r.Cmp(g.p) >= 0 {
		r.Sub(r, g.p)
	}
	return r
}

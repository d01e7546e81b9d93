package flash

import (
	"bytes"
	"crypto/rand"
	"math/big"
	"testing"
	"time"
)

// pi returns floor(2^bits * pi), by Machin's formula.
func pi(bits uint) *big.Int {
	const guard = 64
	one := new(big.Int).Lsh(big.NewInt(1), bits+guard)
	arctan := func(n int64) *big.Int { // of 1/n
		term := new(big.Int).Div(one, big.NewInt(n))
		sum := new(big.Int).Set(term)
		square := big.NewInt(n * n)
		for k := int64(3); term.Sign() != 0; k += 2 {
			term.Div(term, square)
			d := new(big.Int).Div(term, big.NewInt(k))
			if k%4 == 3 {
				sum.Sub(sum, d)
			} else {
				sum.Add(sum, d)
			}
		}
		return sum
	}
	v := new(big.Int).Mul(big.NewInt(16), arctan(5))
	v.Sub(v, new(big.Int).Mul(big.NewInt(4), arctan(239)))
	return v.Rsh(v, guard)
}

// "The prime is: 2^n - 2^(n-64) - 1 + 2^64 * { [2^(n-130) pi] + k }" (RFC 7296, RFC 3526).
func TestPrimesAreThoseOfTheirFormulas(t *testing.T) {
	for _, test := range []struct {
		group Group
		n     uint
		k     int64
	}{{Group2, 1024, 129093}, {Group5, 1536, 741804}, {Group14, 2048, 124476}, {Group16, 4096, 240904}} {
		power := func(n uint) *big.Int { return new(big.Int).Lsh(big.NewInt(1), n) }
		want := new(big.Int).Sub(power(test.n), power(test.n-64))
		want.Sub(want, big.NewInt(1))
		middle := new(big.Int).Add(pi(test.n-130), big.NewInt(test.k))
		want.Add(want, middle.Lsh(middle, 64))
		if groupByID(test.group).p.Cmp(want) != 0 {
			t.Errorf("%v is another prime", test.group)
		}
	}
}

func TestDegenerateKeysAreUnacceptable(t *testing.T) {
	for _, g := range groups {
		k, err := g.newPrivateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if !g.acceptable(k.y) || len(k.public) != g.size || k.x.BitLen() != g.exponent {
			t.Errorf("%v: own key", g.id)
		}
		power := func(n int) *big.Int { return new(big.Int).Lsh(big.NewInt(1), uint(n)) }
		minus := func(n *big.Int, m int64) *big.Int { return new(big.Int).Sub(n, big.NewInt(m)) }
		ones := func(n int) *big.Int { return minus(power(n), 1) }
		for name, y := range map[string]*big.Int{
			"0": new(big.Int), "1": big.NewInt(1), "below 2^24": big.NewInt(1<<24 - 1), "p": g.p, "p-1": minus(g.p, 1),
			"above p-2^24": minus(g.p, 1<<24-1), "15 ones": new(big.Int).Lsh(ones(15), 100), "15 zeros": new(big.Int).Lsh(ones(200), 15), "no zero": ones(300),
		} {
			if g.acceptable(y) {
				t.Errorf("%v: %s is acceptable", g.id, name)
			}
			if _, err := k.shared(y.Bytes()); err == nil {
				t.Errorf("%v: %s gives a secret", g.id, name)
			}
		}
		for name, y := range map[string]*big.Int{
			"p-2^24": minus(g.p, 1<<24), "16 ones": new(big.Int).Lsh(ones(16), 100), "16 zeros": new(big.Int).Lsh(ones(200), 16),
			"16 ones and zeros, at 2^24 and more": big.NewInt(0xffff0000),
		} {
			if !g.acceptable(y) {
				t.Errorf("%v: %s is unacceptable", g.id, name)
			}
		}
	}
}

func TestSharedSecretsAgree(t *testing.T) {
	for _, g := range groups {
		a, err := g.newPrivateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		b := a.next().next()
		s1, err1 := a.shared(b.public)
		s2, err2 := b.shared(append([]byte{0}, a.public...))
		if err1 != nil || err2 != nil || !bytes.Equal(s1, s2) || s1[0] == 0 {
			t.Errorf("%v: %x %v, %x %v", g.id, s1, err1, s2, err2)
		}
	}
}

// Powers are compared with math/big's, at the ends of all ranges and by chance.
func TestPowersAreThoseOfMathBig(t *testing.T) {
	for _, g := range groups {
		special := []*big.Int{
			new(big.Int), big.NewInt(1), big.NewInt(2), big.NewInt(31), big.NewInt(32), new(big.Int).Sub(g.p, big.NewInt(1)), new(big.Int).Rsh(g.p, 1),
			new(big.Int).Lsh(big.NewInt(1), 64), new(big.Int).Lsh(big.NewInt(1), uint(g.exponent)), new(big.Int).Sub(g.p, big.NewInt(1<<24)),
		}
		for range 2 {
			n, err := rand.Int(rand.Reader, g.p)
			if err != nil {
				t.Fatal(err)
			}
			special = append(special, n, new(big.Int).Rsh(n, uint(8*g.size-g.exponent)))
		}
		for _, y := range special {
			for _, x := range special {
				if x.BitLen() > g.exponent+1 && g.size > 128 {
					continue // slow
				}
				if got, want := g.power(y, x), new(big.Int).Exp(y, x, g.p); got.Cmp(want) != 0 {
					t.Fatalf("%v: %x^%x is %x, want %x", g.id, y, x, got, want)
				}
			}
		}
	}
}

// BenchmarkRespond is what a connecting client costs a server in cryptography.
func BenchmarkRespond(b *testing.B) {
	for _, g := range []Group{Group2, Group5, Group14, Group16} {
		b.Run(g.String(), func(b *testing.B) {
			server := newIdentity(b, IdentityConfig{Server: true, Groups: []Group{g}, Now: time.Now})
			client := newIdentity(b, IdentityConfig{Groups: []Group{g}})
			i, err := client.Initiate(server.Certificate())
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, _, err := server.Respond(client.Certificate(), i.Component()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

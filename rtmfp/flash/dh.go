package flash

import (
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/bits"
)

// Group is a Diffie-Hellman MODP group by its IANA number (§4.2).
type Group uint16

// The groups that are implemented.
const (
	Group2  Group = 2  // 1024 bits, RFC 7296: all that the stacks of the Flash era read
	Group5  Group = 5  // 1536 bits, RFC 3526
	Group14 Group = 14 // 2048 bits, RFC 3526
	Group16 Group = 16 // 4096 bits, RFC 3526
)

func (g Group) String() string { return fmt.Sprintf("group %d", uint16(g)) }

// group is what computing in a group needs.
type group struct {
	id   Group
	p    *big.Int
	high *big.Int // the largest acceptable public key
	rr   *big.Int // 2^(2*bits of p) modulo p
	size int      // of p, in bytes
	// exponent is the length of private keys in bits. RFC 3526 §8 gives two estimates of a group's strength; a private key of
	// twice the lower one is as strong as the group: 2*90, 2*110, 2*150 bits. For group 2 it is twice the 80 bits of RFC 3766.
	exponent int
}

// generator is that of all the groups.
var generator = big.NewInt(2)

// groups are all that are implemented, the strongest first.
var groups = []*group{newGroup(Group16, prime16, 320), newGroup(Group14, prime14, 224), newGroup(Group5, prime5, 192), newGroup(Group2, prime2, 160)}

func newGroup(id Group, prime string, exponent int) *group {
	p, ok := new(big.Int).SetString(prime, 16)
	if !ok {
		panic("BUG: flash: the prime of " + id.String())
	}
	rr := new(big.Int).Lsh(big.NewInt(1), 2*uint(p.BitLen()))
	return &group{
		id: id, p: p, high: new(big.Int).Sub(p, big.NewInt(1<<24)), rr: rr.Mod(rr, p), size: (p.BitLen() + 7) / 8, exponent: exponent,
	}
}

func groupByID(id Group) *group {
	for _, g := range groups {
		if g.id == id {
			return g
		}
	}
	return nil
}

// ErrUnacceptableKey means that a public key is degenerate (§4.6.2).
var ErrUnacceptableKey = errors.New("flash: unacceptable Diffie-Hellman public key")

// acceptable tests a public key by the four rules of §4.6.2. Below 2^24, above p-2^24, or with few bits of a kind, a
// shared secret could be guessed.
func (g *group) acceptable(y *big.Int) bool {
	if y.BitLen() <= 24 || y.Cmp(g.high) > 0 {
		return false
	}
	ones := 0
	for _, w := range y.Bits() {
		ones += bits.OnesCount(uint(w))
	}
	return ones >= 16 && y.BitLen()-ones >= 16
}

// privateKey is a private key with its public one. It is not changed once it is shared.
type privateKey struct {
	group  *group
	x      *big.Int
	y      *big.Int
	public []byte // y, as long as p
}

// usable reports whether a key pair may be used: its public key is acceptable, and its encoding, which has no leading
// zeros, as long as the prime. The lengths of certificates and components are then constant, as old peers expect.
func (k *privateKey) usable() bool {
	return k.y.BitLen() > 8*(k.group.size-1) && k.group.acceptable(k.y)
}

// newPrivateKey draws a key pair.
//
// The time that computing takes depends on the key. What a far end can time is one use of a key that serves for an hour at most,
// mixed with the time that the network takes.
func (g *group) newPrivateKey(random io.Reader) (*privateKey, error) {
	for {
		b := make([]byte, (g.exponent+7)/8)
		if _, err := io.ReadFull(random, b); err != nil {
			return nil, fmt.Errorf("flash: random numbers: %w", err)
		}
		x := new(big.Int).SetBytes(b)
		x.SetBit(x, g.exponent-1, 1)
		k := &privateKey{group: g, x: x, y: g.power(generator, x)}
		if k.usable() {
			k.public = k.y.Bytes()
			return k, nil
		}
	}
}

// next makes another key pair from this one: the private key is one more, so the public key doubles. It costs nothing, and a
// key component that contains it is unique without a salt.
func (k *privateKey) next() *privateKey {
	n := &privateKey{group: k.group, x: k.x, y: k.y}
	for {
		n.x = new(big.Int).Add(n.x, big.NewInt(1))
		n.y = new(big.Int).Lsh(n.y, 1)
		if n.y.Cmp(k.group.p) >= 0 {
			n.y.Sub(n.y, k.group.p)
		}
		if n.usable() {
			n.public = n.y.Bytes()
			return n
		}
	}
}

// shared computes DH_SECRET with a far end's public key, without leading zeros (§4.6.2). Error: ErrUnacceptableKey.
func (k *privateKey) shared(public []byte) ([]byte, error) {
	if len(public) > k.group.size+1 { // a zero in front, from a stack that encodes signed numbers
		return nil, ErrUnacceptableKey
	}
	y := new(big.Int).SetBytes(public)
	if !k.group.acceptable(y) {
		return nil, ErrUnacceptableKey
	}
	return k.group.power(y, k.x).Bytes(), nil
}

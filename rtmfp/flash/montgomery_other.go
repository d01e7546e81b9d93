//go:build !amd64

package flash

import "math/big"

// power computes y^x modulo the prime of the group.
func (g *group) power(y, x *big.Int) *big.Int { return new(big.Int).Exp(y, x, g.p) }

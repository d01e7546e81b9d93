//go:build !linux

package dataplane

import (
	"context"
	"errors"
	"fmt"

	"github.com/stilenet/stile/turn"
)

func openSocket(context.Context, *Config, *turn.Ledger) (engine, error) {
	return nil, fmt.Errorf("dataplane: the socket engine needs Linux: %w", errors.ErrUnsupported)
}

//go:build !linux

package dataplane

import (
	"context"
	"errors"
	"fmt"

	"github.com/stilenet/stile/turn"
)

func openKernel(context.Context, *Config, *turn.Ledger) (engine, error) {
	return nil, fmt.Errorf("dataplane: the kernel engine needs Linux: %w", errors.ErrUnsupported)
}

//go:build !linux

package dataplane

import "errors"

func openOffload(*Config) (offloader, error) { return nil, errors.New("it needs Linux") }

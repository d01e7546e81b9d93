//go:build !linux && !darwin && !windows

package nattest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
)

var errSystem = errors.New("nattest: not known how on this system")

func systemGateway() netip.Addr { return netip.Addr{} }

func systemHop(context.Context, netip.AddrPort, []byte, int) (netip.Addr, error) {
	return netip.Addr{}, errHops
}

func dontFragment(net.PacketConn) error { return errSystem }

func shareAddress(string, string, syscall.RawConn) error { return errSystem }

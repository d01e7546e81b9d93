//go:build linux

package netns

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// ListenPacket is net.ListenConfig.ListenPacket inside the host; it has the same signature. The lab closes the socket at its end if
// the test has not.
func (h *Host) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return open(h, address, func() (net.PacketConn, error) {
		return new(net.ListenConfig).ListenPacket(ctx, network, address)
	})
}

// Listen is net.ListenConfig.Listen inside the host.
func (h *Host) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return open(h, address, func() (net.Listener, error) {
		return new(net.ListenConfig).Listen(ctx, network, address)
	})
}

// Dial is net.Dialer.DialContext inside the host.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return open(h, address, func() (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	})
}

func open[S io.Closer](h *Host, address string, f func() (S, error)) (s S, err error) {
	// A name would be resolved on other goroutines, so outside the namespace.
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return s, fmt.Errorf("netns: %s: %w", h.name, err)
	}
	if _, err := netip.ParseAddr(host); host != "" && err != nil {
		return s, fmt.Errorf("netns: %s: the address must be literal: %w", h.name, err)
	}
	err = h.Do(func() (err error) {
		s, err = f()
		return err
	})
	if err != nil {
		var zero S
		return zero, fmt.Errorf("netns: %s: %w", h.name, err)
	}
	if !h.lab.keep(s) {
		var zero S
		return zero, fmt.Errorf("netns: %s: %w", h.name, net.ErrClosed)
	}
	return s, nil
}

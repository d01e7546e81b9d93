//go:build !linux

package transport

import "net"

func newPacketIO(c net.PacketConn) packetIO { return newSingle(c) }

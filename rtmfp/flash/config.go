package flash

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"time"

	"github.com/stilenet/stile/internal/mmscfg"
)

// Config is what a NetConnection is made of. The zero value works, without a relay.
type Config struct {
	// ListenPacket opens the UDP socket. nil is that of package net.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)
	// LookupNetIP resolves the server's name. nil is that of package net.
	LookupNetIP func(ctx context.Context, network, host string) ([]netip.Addr, error)
	// InterfaceAddrs lists the addresses of this machine, to be told to the server. nil is that of package net.
	InterfaceAddrs func() ([]netip.Addr, error)
	// DialRelay makes a relayed address at the proxy, such as turn/client does: the conn's LocalAddr is that address, and
	// datagrams to and from it go through the conn. nil is no relay.
	DialRelay func(ctx context.Context, proxy string) (net.PacketConn, error)
	// MMS is what the administrator of this machine wants.
	MMS MMSConfig
	// Random must be unpredictable. nil is crypto/rand's.
	Random io.Reader

	// FlashVersion, SWFURL and PageURL are told to the server. Servers of the Flash era may look at them.
	FlashVersion, SWFURL, PageURL string
	// ObjectEncoding is asked for. The zero is AMF0, which every server knows but Cumulus.
	ObjectEncoding ObjectEncoding

	// ConnectTimeout is how long Connect waits for an answer; 0 is 90 s, as in the player.
	ConnectTimeout time.Duration
	// AudioLifetime and VideoLifetime are how long a message may be on its way before it is given up; 0 is 200 ms and 2 s, negative
	// is for ever.
	AudioLifetime, VideoLifetime time.Duration
	// Uplink is how many bits per second may be sent to all peers together; 0 is no limit. Audio goes first: video that does not
	// fit is left out up to the next key frame.
	Uplink int
}

// MMSConfig is what a mms.cfg says to a NetConnection.
type MMSConfig struct {
	Proxy      string // host:port of the TURN proxy (RTMFPTURNProxy); empty is none
	P2PDisable bool   // RTMFPP2PDisable: streams with peers are refused
}

// ReadMMSConfig reads the file at path, or with an empty path the one of this machine; that this machine has none is not an error.
// Errors are those of package mmscfg.
func ReadMMSConfig(path string) (MMSConfig, error) {
	var file *mmscfg.File
	var err error
	if path != "" {
		file, err = mmscfg.Read(path)
	} else if file, _, err = mmscfg.ReadLocal(); errors.Is(err, fs.ErrNotExist) {
		return MMSConfig{}, nil
	}
	if err != nil {
		return MMSConfig{}, err
	}
	c := MMSConfig{P2PDisable: file.RTMFPP2PDisable()}
	if proxy, ok := file.RTMFPTURNProxy(); ok {
		c.Proxy = proxy.HostPort()
	}
	return c, nil
}

package flash

import (
	"net/netip"
)

// Names of commands and of answers to them.
const (
	CommandConnect      = "connect"
	CommandResult       = "_result"
	CommandError        = "_error"
	CommandOnStatus     = "onStatus"
	CommandSetPeerInfo  = "setPeerInfo"
	CommandClose        = "close"
	CommandCreateStream = "createStream"
	CommandDeleteStream = "deleteStream"
	CommandPublish      = "publish"
	CommandPlay         = "play"
	CommandCloseStream  = "closeStream"
)

// DefaultPort is the UDP port of an rtmfp URI without one (§6.1).
const DefaultPort = 1935

// maxPeerAddresses bounds the addresses of one setPeerInfo. A host has a few interfaces; a peer is tried at 24 addresses at
// most (RFC 7016 §3.5.1.1.1).
const maxPeerAddresses = 32

// ConnectInfo is what a client says of itself in its connect command.
type ConnectInfo struct {
	App            string // the path of the URL without its slash: for Stratus, the developer's key
	TCURL          string // the URL
	FlashVersion   string
	SWFURL         string
	PageURL        string
	ObjectEncoding ObjectEncoding
	Arguments      []any // of NetConnection.connect after the URL
}

// ConnectCommand is the connect command of a client, with what a Flash Player of version 11 says it can.
func ConnectCommand(info ConnectInfo) Command {
	o := &Object{Properties: []Property{
		{"app", info.App}, {"flashVer", info.FlashVersion}, {"swfUrl", info.SWFURL}, {"tcUrl", info.TCURL}, {"fpad", false},
		{"capabilities", 235}, {"audioCodecs", 3575}, {"videoCodecs", 252}, {"videoFunction", 1}, {"pageUrl", info.PageURL},
		{"objectEncoding", float64(info.ObjectEncoding)},
	}}
	return Command{Name: CommandConnect, Transaction: 1, Object: o, Arguments: info.Arguments}
}

// ParseConnect reads a connect command. ok is false if it is none. Properties that are missing or of another type are zero:
// an absent objectEncoding is AMF0, as in players before version 9.
func ParseConnect(c Command) (info ConnectInfo, ok bool) {
	o, isObject := c.Object.(*Object)
	if c.Name != CommandConnect || !isObject {
		return ConnectInfo{}, false
	}
	info = ConnectInfo{
		App: o.Text("app"), TCURL: o.Text("tcUrl"), FlashVersion: o.Text("flashVer"), SWFURL: o.Text("swfUrl"), PageURL: o.Text("pageUrl"),
		Arguments: c.Arguments,
	}
	if v, _ := o.Get("objectEncoding"); v == float64(AMF3) {
		info.ObjectEncoding = AMF3
	}
	return info, true
}

// ConnectResult is the answer to a connect command that succeeded, with further properties of the information object.
func ConnectResult(transaction float64, encoding ObjectEncoding, more ...Property) Command {
	s := Status{Code: NetConnectionConnectSuccess, Description: "Connection succeeded."}
	o := s.Object(append([]Property{{"objectEncoding", float64(encoding)}}, more...)...)
	return Command{Name: CommandResult, Transaction: transaction, Arguments: []any{o}}
}

// CommandFailed is the answer to a command that failed.
func CommandFailed(transaction float64, s Status) Command {
	return Command{Name: CommandError, Transaction: transaction, Arguments: []any{s.Object()}}
}

// OnStatus is the event for a Status.
func OnStatus(s Status) Command {
	return Command{Name: CommandOnStatus, Arguments: []any{s.Object()}}
}

// SetPeerInfo tells the server where the client may be reached (§5.3.3): the first 32 addresses that others can use.
// Link-local and loopback addresses are left out.
func SetPeerInfo(addrs []netip.AddrPort) Command {
	c := Command{Name: CommandSetPeerInfo}
	for _, a := range addrs {
		a = netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
		ip := a.Addr()
		if !sendable(a) || ip.IsLoopback() || ip.IsLinkLocalUnicast() || len(c.Arguments) == maxPeerAddresses {
			continue
		}
		c.Arguments = append(c.Arguments, a.String())
	}
	return c
}

// ParsePeerInfo reads the addresses of a setPeerInfo command, at most 32. What is no address, or none that a datagram can be sent
// to, is counted in skipped; whether an address makes sense here is for the caller to say.
func ParsePeerInfo(c Command) (addrs []netip.AddrPort, skipped int) {
	for _, v := range c.Arguments {
		s, _ := v.(string)
		a, err := netip.ParseAddrPort(s)
		if err != nil || len(addrs) == maxPeerAddresses {
			skipped++
			continue
		}
		a = netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
		if !sendable(a) {
			skipped++
			continue
		}
		addrs = append(addrs, a)
	}
	return addrs, skipped
}

func sendable(a netip.AddrPort) bool {
	ip := a.Addr()
	return ip.IsValid() && a.Port() != 0 && !ip.IsUnspecified() && !ip.IsMulticast() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

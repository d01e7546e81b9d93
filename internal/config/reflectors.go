package config

// Reflector is a UDP service that answers an unproven source with more than it was sent.
type Reflector struct {
	Port   uint16
	Name   string
	Factor string // published amplification, bytes of answers for each byte of request
	Source string // who published it
}

// Sources of the factors, read in November 2026. A factor depends on the probe and on what the service holds.
const (
	certTA14    = "US-CERT TA14-017A"
	fbiCP       = "FBI private industry notification, July 2020"
	ampResearch = "Phenomite/AMP-Research"
)

// Reflectors are the services on ports above 1023 with a published factor that reaches 3, on a port that is the service's own. `!reflectors` in
// turn.peers.ports excludes them.
//
// 3478 (STUN) is here for a second reason: a client that reaches other TURN servers through this one chains relays, and
// nothing that is a peer listens there. This server's own relayed addresses are not judged by port, and neither is its own rendezvous.
//
// Not here, with a factor below 3 or no source that was found: OpenVPN 1194, L2TP 1701, AFS 7001, 8000, Netis 53413. Not here because players use the
// port for peers: 3074. Three of the ports (33848, 37810, 41794) lie in Linux's range of ephemeral ports, 32768 to 60999, so one peer in 9,400 on such a
// machine has one of them and needs its other end to be reachable.
var Reflectors = []Reflector{
	{1434, "Microsoft SQL Server browser", "10-30", ampResearch},
	{1604, "Citrix ICA browser", "7-200", ampResearch},
	{1900, "SSDP", "30.8", certTA14},
	{2362, "Digi discovery", "5", ampResearch},
	{3283, "Apple Remote Desktop", "33-35.5", ampResearch + ", " + fbiCP},
	{3389, "Remote Desktop over UDP", "28.6-86", ampResearch},
	{3478, "STUN", "3", ampResearch},
	{3702, "WS-Discovery", "30-150", ampResearch + ", " + fbiCP},
	{3784, "BFD", "5", ampResearch},
	{4672, "Kad", "16.3", certTA14},
	{5060, "SIP", "15", ampResearch},
	{5093, "Sentinel license manager", "20", ampResearch},
	{5351, "NAT-PMP", "2-5", ampResearch},
	{5353, "mDNS", "2-10", certTA14},
	{5683, "CoAP", "20-34", ampResearch + ", " + fbiCP},
	{6881, "BitTorrent DHT", "3-3.8", certTA14 + ", " + ampResearch},
	{10001, "Ubiquiti discovery", "7", ampResearch},
	{10074, "Mitel TP-240", "8492", ampResearch},
	{11211, "memcached", "10000-51000", certTA14},
	{17185, "VxWorks debugging", "3", ampResearch},
	{20811, "Powerhouse VPN", "366", ampResearch},
	{27015, "Source engine query", "5-5.5", certTA14 + ", " + ampResearch},
	{27036, "Steam Remote Play", "17", ampResearch},
	{27960, "Quake 3 status", "15-63.9", certTA14 + ", " + ampResearch},
	{30120, "FiveM status", "8-30", ampResearch},
	{30718, "Lantronix setup", "5", ampResearch},
	{32412, "Plex discovery", "10", ampResearch},
	{32414, "Plex discovery", "10", ampResearch},
	{33848, "Jenkins discovery", "5-100", ampResearch + ", " + fbiCP},
	{37810, "Dahua discovery", "30", ampResearch},
	{41794, "Crestron CIP", "15", ampResearch},
}

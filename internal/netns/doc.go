// Package netns is the kernel laboratory: whole systems in network namespaces of one machine, joined by veth pairs, bridges and
// userspace links, with real NATs and firewalls made of nftables rules. Tests with the build tag e2e use it.
//
// # The picture
//
//	              the internet: 192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32
//	 site "home"                    +------------------+
//	+--------+      +-----------+   |                  |   +--------+
//	| client |------| box (NAT) |---|                  |---| server | 203.0.113.1, 203.0.113.2
//	+--------+ lan  +-----------+wan|     Internet     |   +--------+
//	10.0.1.2     10.0.1.1  192.0.2.1| (a router, every |
//	                                |  link routed)    |
//	 site "office" behind a CGN     |                  |   +--------+
//	+--------+  +-----+   +-----+   |                  |---| client | 198.51.100.9, in the open
//	| client |--| box |---| cgn |---|                  |   +--------+
//	+--------+  +-----+   +-----+   +------------------+
//	10.0.2.2    100.64.2.2   198.51.100.1
//
// Each box is a namespace. Addresses inside are RFC 1918 (RFC 6598 between a box and its CGN); the documentation ranges are the
// internet. A namespace has no name in the file system: it lives as long as its Lab, its sockets and its processes, so even a
// killed test leaves nothing behind, and any number of labs run at once.
//
// # How a test is written
//
//	//go:build e2e
//
//	func TestPeerSeesTheNAT(t *testing.T) {
//		lab := netns.New(t)
//		inet := lab.Internet()
//		server := inet.Host("server", "203.0.113.1")
//		home := inet.Site(netns.SiteConfig{Name: "home", NAT: netns.FullCone, Public: "192.0.2.1", LAN: "10.0.1.0/24"})
//		client := home.Host("client") // 10.0.1.2
//
//		there, err := server.ListenPacket(t.Context(), "udp4", "203.0.113.1:3478")
//		…
//		here, err := client.ListenPacket(t.Context(), "udp4", "10.0.1.2:0")
//		…
//		here.WriteTo([]byte("hello"), there.LocalAddr())
//		_, from, err := there.ReadFrom(buf) // from is 192.0.2.1 and a public port
//
//		stile := server.Command(t.Context(), binary, "serve") // ends with the test
//		err = stile.Start()
//		err = stile.WaitLog(t.Context(), "listening")
//	}
//
// A socket stays in the namespace that it was made in, so here and there work wherever they are used. A carrier-grade NAT is a site
// behind a site: carrier.Site(…). A NAT that nftables cannot express is SiteConfig.User; a slow or lossy access is
// SiteConfig.Access, and Internet.AttachSlow for a host without a box. Kinds lists the boxes, with what a prober should find there.
//
// Methods that build (Host, Link, Route, NFT, Site, …) end the test with a message when they fail, and so belong on the test's
// own goroutine. Methods that a running test needs (Do, ListenPacket, Dial, Listen, Command) return errors and are safe for
// concurrent use. A failing test logs the picture of its lab: hosts, addresses, routes, rules with their counters, what processes
// printed, counters of the userspace links.
//
// # Needs
//
// Linux, root (or CAP_NET_ADMIN and CAP_SYS_ADMIN), nft and nsenter; /dev/net/tun for userspace links and NATs. What is missing
// fails the test with the remedy; nothing is skipped.
//
// # Limitations
//
// A goroutine that Do's function starts runs outside the namespace, so names must not be resolved there: pass literal addresses.
// Namespaces share the machine's clock, processes, file system and CPU. Userspace links and NATs cost two system calls and two
// copies for each packet: they carry behaviour, not load; their delays are right to about a millisecond. The userspace NAT
// translates IPv4 only, tracks no TCP states, and gives a port to one mapping at a time (no port overloading). A box of nftables that
// is EIF or ADF answers an inbound packet from the mapping that it came by (reply-same), and its addresses are one, not a pool.
// Sequential256 and the ports of AddressDependent presume a little-endian machine.
package netns

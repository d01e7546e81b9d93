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
//		server := inet.Host("server", "203.0.113.1/32")
//		home := inet.Site(netns.Site{Name: "home", NAT: netns.Masquerade, Public: "192.0.2.1", LAN: "10.0.1.0/24"})
//
//		echo, err := server.ListenPacket(t.Context(), "udp4", "203.0.113.1:3478")
//		// … answer with the source address …
//		conn, err := home.Client.ListenPacket(t.Context(), "udp4", "10.0.1.2:0")
//		// conn behaves as a socket of the client wherever it is used: a socket stays in the namespace it was made in.
//	}
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
// copies for each packet: they carry behaviour, not load. The userspace NAT translates IPv4 only.
package netns

// Package natlab is a simulated internet: hosts with sockets, links that delay and lose, firewalls, and NATs of every
// kind that RFC 4787 describes. Programs run in it unchanged, because its hosts have the functions of package net:
// Host.ListenPacket and Host.Listen are those of net.ListenConfig, Host.DialContext is that of net.Dialer.
//
//	                          Net.Internet()
//	   ┌──────────────────────── Segment ────────────────────────┐
//	   │                            │                            │
//	  Link                         Link                         Link       delay, jitter, loss, rate, MTU, up/down
//	   │                            │                            │
//	 server                     Box "cgn"                    Box "office"  firewall, NAT
//	(a Host)                        │                            │
//	                        Segment, Inside()            Segment, Inside()
//	                                │                            │
//	                            Box "home"                 Host   Host
//	                                │
//	                        Segment, Inside()
//	                                │
//	                              Host
//
// A Segment joins links and takes no time to cross. A Box has a Segment inside and a Link to the Segment outside; a packet
// for an address that its Segment does not know goes through the Box. Addresses inside a Box without NAT can be reached
// from outside, as far as its firewall admits.
//
// # Time
//
// All time comes from package time. In a testing/synctest bubble it is virtual: a simulation of an hour takes
// milliseconds, and a deadline passes at its nanosecond. Outside a bubble the same program runs in real time. Run makes a
// bubble with a Net. Sockets block on channels only, so synctest knows when everybody waits.
//
// # Chance
//
// The seed given to New decides each loss, delay and random port. In a bubble, the same seed and the same program give
// the same run, whatever the scheduler does: a packet takes at least a nanosecond for each link, so that time has to pass
// before the first packet of an instant arrives, and by then all packets of that instant are known and put into a fixed
// order: by host, protocol, port and connection, then as written to the socket. This leaves to the program what it does in
// one instant on one socket, or on one host's ephemeral ports, from several goroutines.
//
// Outside a bubble the order of packets depends on the machine.
//
// # Packets
//
// Every packet ends with one Disposition. Net.Stats counts them; Net.Diagram draws the last packets:
//
//	          alice    nat-a    nat-b     bob
//	0.100000     +--------+--------x        |      192.168.1.2:5000=203.0.113.1:5000 > 203.0.113.2:6000 udp 5 bytes: no mapping
//	0.200000     <--------+--------+--------+      192.168.1.2:6000=203.0.113.2:6000 > 203.0.113.1:5000=192.168.1.2:5000 udp 5 bytes: delivered
//
// ICMP errors are packets too and are translated by NATs. Reads return them as *ICMPError on connected UDP sockets and
// after UDPConn.ReportErrors(true); a TCP dial fails with them. UDPConn.SetTTL makes packets that die on the way.
//
// A mistake in building a network (a name or address used twice, a configuration without sense) panics. What the
// network does to a program are errors that wrap the errno of Linux.
//
// # Memory and concurrency
//
// A Net has one goroutine, which Close ends. Everything may be used from any goroutine; in a bubble, from those of
// the bubble. Sockets copy what is written to them.
//
// NAT and Firewall are the decisions of a Box as pure values: time and packet in, packet and Disposition out.
//
// # Limitations
//
// There is no ARP, DHCP, multicast, broadcast, NAT64 or IPv6 translation; names are those of hosts. Segments have no
// loops, and the address decides the way, so there is no asymmetric routing. ICMP has errors but no echo. UDP senders do
// not learn a path MTU. TCP has no options, no selective acknowledgements and no TIME-WAIT. A NAT knows the ports in every
// fragment, and does not follow the state of TCP connections: their mappings end by timeout only. A Box has no sockets
// of its own: a UPnP or NAT-PMP server is a Host inside that calls Box.Forward.
package natlab

// Stilebench loads TURN servers that speak draft-ietf-behave-turn-08 without credentials, or RFC 8656 with long-term
// credentials, and says what a relayed packet and an allocation cost them.
//
//	stilebench run       one server, one load: rate, loss, latency, the server's CPU per packet
//	stilebench allocate  allocations per second and memory for each of them
//	stilebench flood     established flows while spoofed sources allocate
//	stilebench stun      STUN Binding requests that servers answer with a second of CPU, interleaved
//	stilebench rtmfp     RTMFP clients that connect, idle sessions and introductions
//	stilebench abuse     attacks on a server without credentials, one trial for each way to misuse it
//	stilebench compare   several servers, interleaved, and the Markdown page of the results
//	stilebench calibrate what the generator itself costs and the highest rate it produces
//	stilebench lab       a shell command inside the server's namespace of the laboratory
//
// # How it measures
//
// One thread, pinned to the first allowed CPU, sends and receives for all clients and all peers; the server is pinned
// to the last one. In the laboratory (--netns) three network namespaces are joined by veth,
//
//	client 10.77.0.2 ---- 10.77.0.1 server 203.0.113.1 ---- 198.51.100.2 peer
//
// and the generator speaks Ethernet: frames made once, of which 24 bytes and a checksum change, leave by sendmmsg on a
// packet socket, and arrive in a memory-mapped ring that needs no system call to look at. The peer is behind a
// router of the server's default route, so that a policy for public peers lets it be reached. Without --netns the
// clients and peers are UDP sockets: any server anywhere can be loaded, and the generator costs more.
//
// A rate is only called the server's limit when the generator kept its schedule and no queue of the generator
// overflowed (see verdict.go). Received packets are stamped by the kernel in the laboratory.
//
// # Limitations
//
// Linux only. UDP to the server only. The laboratory is IPv4. Latency includes the wait inside a batch of at most 32
// packets on the sending side; at 20,000 packets/s a batch holds one packet. Server CPU is what its threads were
// charged with, which on veth includes the delivery to the receiver of what they send; core_us counts everything that
// ran on the server's CPU instead, however the kernel accounts for softirqs.
package main

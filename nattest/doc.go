// Package nattest finds out what the NATs and firewalls between this machine and the internet do, and says whether two
// machines connect directly.
//
//	Plan ──► session ──► Observations ──► Classify ──► Verdict, Findings ──► Predict(a, b)
//	(value)  (core)      (value)          (function)   (value)              (function)
//
// Run is the shell around them: it opens the sockets, reads the clock and returns a Report. Everything else is pure, so
// that a report from a file can be judged and compared again.
//
// # Method
//
// The tests are those of RFC 5780 with its remedies: each test has a socket of its own, the filtering tests are sent
// before any packet to the server's other address, the source of each reply is compared with the one that was asked for,
// and all tests run at once. Every attempt has a transaction ID of its own, so that attempts are independent samples.
// Control requests run at the same time and on the same path; silence is judged by Fisher's exact test of the silent
// attempts against the controls, and only when it would be chance less often than once in 100,000. Otherwise the
// verdict is unknown, with the candidates that remain.
//
// # Beyond sockets
//
// With Config.UseSystem also what stands near is asked: the gateway, whether it maps ports (NAT-PMP, PCP, UPnP IGD; only
// questions are asked, so that no mapping is left behind), the first routers on the way out by packets with a low TTL, the
// path MTU by packets with DF, and the mapping of TCP by connections from one port. A carrier's NAT is recognised by the
// addresses of RFC 6598 on any of them, or by a gateway whose outside address is not the one seen outside. These packets count
// like all others, and wait until the plan has shown that nothing is lost.
//
// # Concurrency
//
// Run may be called by any number of goroutines. Reports and verdicts are values without locks.
//
// # Limitations
//
// Routers on the way are seen on Linux only: other systems show ICMP errors to privileged programs. The path MTU is tried at
// four sizes, and only where fragments pass. The size of a port block is a lower bound. IPv6 is tested for reachability and
// translation, not for filtering. A gateway is asked over IPv4 only. Mapping that changes while the probe runs is reported as
// unstable and not followed. A server that answers falsely and consistently on all its addresses is believed.
package nattest

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
// # Concurrency
//
// Run may be called by any number of goroutines. Reports and verdicts are values without locks.
//
// # Limitations
//
// Not measured, and never reported as a verdict: the number of hops and of NATs in a row (a carrier's NAT is recognised
// by this machine's own address only), path MTU (only whether a datagram of 1,800 bytes survives in fragments), TCP
// mapping, port blocks as such (only the range of the ports seen),
// UPnP IGD, NAT-PMP and PCP. IPv6 is tested for reachability and translation, not for filtering. Mapping that changes
// while the probe runs is reported as unstable and not followed. A server that answers falsely and consistently on all
// its addresses is believed.
package nattest

// Package transport runs an rtmfp.Endpoint over sockets: any net.PacketConn, several at once, one of which may be a relay that
// comes and goes.
//
//	t, err := transport.New(transport.Config{
//		Endpoint:   rtmfp.Config{Identity: identity, Random: rand.Reader},
//		Interfaces: []transport.Interface{{Conn: conn}},
//		Handle:     func(now time.Time, e *rtmfp.Endpoint, ev rtmfp.Event) { ... },
//	})
//	go t.Serve(ctx)
//	t.Do(ctx, func(now time.Time, e *rtmfp.Endpoint) { session, err = e.Open(now, epd, candidates...) })
//
// One goroutine owns the endpoint with its sessions and flows. It calls Handle with every event; everybody else goes through Do
// or Post. Keys are negotiated on other goroutines.
//
// A Server has one Transport for each shard, which share their addresses; a packet that comes to another shard than its
// session's is handed over.
//
// # Limitations
//
//   - A socket that is bound to an unspecified address answers from the address that the system prefers for the destination. On a
//     host with several addresses, bind each.
//   - Received datagrams above 4096 bytes are dropped and counted; no RTMFP sends such.
//   - Only Linux has batched reads and writes of UDP sockets, and more than one shard.
package transport

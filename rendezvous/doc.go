// Package rendezvous introduces RTMFP peers to each other, as Adobe's Stratus and Cirrus did: clients connect to
// rtmfp://host/KEY, stay connected, and are found by their peer ID.
//
// A Core is one shard of the service, on top of an rtmfp.Endpoint: time and datagrams in; datagrams, messages to other shards and
// events out. A Registry is what the shards share: which of them has which peer, the keys, the names, the budgets.
//
//	initiator            shard A                     shard B, which has the peer          peer
//	   |--IHello (ID)------>|  budget of the source     |                                   |
//	   |                    |--Post-------------------->|  does it live? its budget         |
//	   |<-----------------------------------Redirect----|  (addresses that fit into 3 x)    |
//	   |                    |                           |--FIHello over its session-------->|
//	   |<==================================== both punch, the session is direct ===========>|
//
// Every shard sends from the same sockets' addresses, so that the one that knows the peer answers. An ID that nobody has is
// answered with silence, and so is one whose holder has stopped answering pings.
//
// Keys are handles for quotas, not secrets: the URL travels in the first packet, under a published key. Names of the Directory are
// not authenticated.
//
// In these files § is that of the RFC named beside it.
//
// # Limitations
//
//   - One process. What a client has registered is gone with it.
//   - An introduction behind one NAT that does not hairpin needs a client that reports its addresses.
//   - NetGroup and RTMP's streams, shared objects and remoting are not offered: createStream succeeds, and the flows of the stream are
//     rejected.
//   - Whether a peer that vanished is gone is known some seconds after the first introduction to it, or after Rules.Keepalive.
//   - A Directory behind a reverse proxy sees the proxy's address, and so lets nobody take a name.
package rendezvous

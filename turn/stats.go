package turn

// Disposition is what became of one packet. Each packet that a Core reads is counted under exactly one.
type Disposition uint8

// The dispositions. Those up to Answered are good ends, the others name why the packet was refused or dropped.
const (
	DispositionUnknown Disposition = iota
	// From a client.
	RelayedChannel   // ChannelData, sent to the peer
	RelayedSend      // Send indication, sent to the peer
	RelayedHairpin   // to another relayed address of this server; the delivery is counted again as a peer's packet
	PermissionOnly   // Send without DATA
	Keepalive        // a Binding indication, which asks for nothing
	AnsweredBinding  // STUN Binding
	AnsweredSuccess  // a TURN request that succeeded
	AnsweredError    // a TURN request that failed; Stats.Errors has the codes
	DropMalformed    // no STUN message and no ChannelData
	DropFingerprint  // a FINGERPRINT that is wrong
	DropMethod       // a method or class that a server does not take
	DropClient       // the policy refuses the client
	DropNoAllocation // an indication or ChannelData without an allocation
	DropAttributes   // an indication that lacks an attribute or has one that must be understood and is not
	DropChannel      // ChannelData for a channel that is not bound
	DropNoPermission // a Send of the modern dialect without a permission
	DropPeerFamily   // a peer of another address family than the relayed address
	DropPeer         // the policy refuses the peer's address
	DropPeerPort     // the policy refuses the peer's port
	DropHairpin      // the policy keeps clients of this server apart, or nobody has that relayed address
	DropTableFull    // the allocation has all the permissions it may have
	DropQuota        // the client has all the confirmed allocations it may have
	DropUnanswered   // the peer has not answered and has got what it may get, or its client has all the peers it may have that do not answer
	DropPayload      // not what turn.peers.payload lets pass, to a peer that has not set up a session
	DropRate         // the allocation's bytes or packets per second
	DropSize         // more payload than a UDP datagram carries, which only a stream can bring
	DropReplyBudget  // the answer would exceed the prefix's reply bytes
	DropReplySize    // the answer would be more than twice the request
	// From a peer.
	RelayedToChannel // sent to the client as ChannelData
	RelayedToData    // sent to the client as a Data indication
	DropPeerStranger // a peer without a permission
	DropPeerClosed   // the relayed address has no allocation any more
	DropPeerSize     // longer than a Data indication can carry
	DropPeerRate     // the allocation's bytes or packets per second
	DropPeerPayload  // not what turn.peers.payload lets pass, from a peer that has not set up a session
	dispositions
)

var dispositionNames = [dispositions]string{
	DispositionUnknown: "unknown",
	RelayedChannel:     "relayed_channel", RelayedSend: "relayed_send", RelayedHairpin: "relayed_hairpin", PermissionOnly: "permission_only", Keepalive: "keepalive",
	AnsweredBinding: "answered_binding", AnsweredSuccess: "answered_success", AnsweredError: "answered_error",
	DropMalformed: "drop_malformed", DropFingerprint: "drop_fingerprint", DropMethod: "drop_method", DropClient: "drop_client",
	DropNoAllocation: "drop_no_allocation", DropAttributes: "drop_attributes", DropChannel: "drop_channel",
	DropNoPermission: "drop_no_permission", DropPeerFamily: "drop_peer_family", DropPeer: "drop_peer", DropPeerPort: "drop_peer_port",
	DropHairpin: "drop_hairpin", DropTableFull: "drop_table_full", DropQuota: "drop_quota", DropUnanswered: "drop_unanswered", DropPayload: "drop_payload", DropRate: "drop_rate", DropSize: "drop_size",
	DropReplyBudget: "drop_reply_budget", DropReplySize: "drop_reply_size",
	RelayedToChannel: "relayed_to_channel", RelayedToData: "relayed_to_data", DropPeerStranger: "drop_peer_stranger",
	DropPeerClosed: "drop_peer_closed", DropPeerSize: "drop_peer_size", DropPeerRate: "drop_peer_rate",
	DropPeerPayload: "drop_peer_payload",
}

// String is the metric label.
func (d Disposition) String() string {
	if d >= dispositions {
		return dispositionNames[DispositionUnknown]
	}
	return dispositionNames[d]
}

// Stats counts what one Core did since it was made. The sum of Packets is Read.
type Stats struct {
	Read    uint64               // packets given to FromClient and FromPeer, and hairpin deliveries
	Packets [dispositions]uint64 // by Disposition

	Refused [RuleCount]uint64 // policy refusals by Rule
	Errors  map[int]uint64    // error responses by code

	BytesToPeers, BytesToClients uint64 // payload
	Allocations                  int    // now
	Unconfirmed                  int    // now, of them
	Permissions, Channels        int    // now
	Flows                        int    // that the offload relays now
	Offloaded                    uint64 // packets that it has relayed; Read, Packets and the bytes have them as well
	Allocated                    uint64 // ever
	Recycled                     uint64 // unconfirmed allocations evicted whose port went to the newcomer at once
	Evicted                      uint64 // unconfirmed allocations evicted
	Ended                        [endReasons]uint64
	ModernRefused                uint64 // allocations refused or ended for speaking the modern dialect without credentials
	OpenFailed                   uint64 // relayed ports that the system would not open
}

// Add adds o to s, as a scrape over all shards does.
func (s *Stats) Add(o *Stats) {
	s.Read += o.Read
	for i, n := range o.Packets {
		s.Packets[i] += n
	}
	for i, n := range o.Refused {
		s.Refused[i] += n
	}
	for code, n := range o.Errors {
		if s.Errors == nil {
			s.Errors = make(map[int]uint64)
		}
		s.Errors[code] += n
	}
	for i, n := range o.Ended {
		s.Ended[i] += n
	}
	s.BytesToPeers += o.BytesToPeers
	s.BytesToClients += o.BytesToClients
	s.Allocations += o.Allocations
	s.Unconfirmed += o.Unconfirmed
	s.Permissions += o.Permissions
	s.Channels += o.Channels
	s.Flows += o.Flows
	s.Offloaded += o.Offloaded
	s.Allocated += o.Allocated
	s.Recycled += o.Recycled
	s.Evicted += o.Evicted
	s.ModernRefused += o.ModernRefused
	s.OpenFailed += o.OpenFailed
}

package logging

// The fields of a line, and the only place that names them. The administrator's API uses the same names.
const (
	FieldTime    = "time"    // RFC 3339, UTC, milliseconds
	FieldLevel   = "level"   // trace, debug, info, warn, error
	FieldMessage = "message" // what happened, a fixed text
	FieldError   = "error"

	FieldSession   = "session"   // ID of an allocation, as the control commands take it
	FieldClient    = "client"    // address and port that the server sees
	FieldUser      = "user"      // of long-term credentials; absent without
	FieldServer    = "server"    // address and port that the client sends to
	FieldTransport = "transport" // udp or tcp, between client and server
	FieldRelay     = "relay"     // relayed address and port, in its public form
	FieldDialect   = "dialect"   // draft-08, rfc8656 or unknown
	FieldPeer      = "peer"      // address of a peer, with its port where one is meant
	FieldPeerID    = "peer_id"   // of an RTMFP client, 64 hexadecimal digits
	FieldKey       = "key"       // name of a developer key; absent without
	FieldPeers     = "peers"     // how many peer addresses a session ever had a permission for
	FieldLastPeer  = "last_peer" // the one it sent to or heard from last

	FieldBytesUp     = "bytes_up"     // payload from the client to its peers
	FieldBytesDown   = "bytes_down"   // payload from peers to the client
	FieldPacketsUp   = "packets_up"   // likewise
	FieldPacketsDown = "packets_down" // likewise
	FieldDuration    = "duration_seconds"

	FieldIntroduced = "introduced" // times that a client was introduced to others
	FieldAsked      = "asked"      // introductions that it has asked for

	FieldReason = "reason" // why a session ended, as turn.EndReason or rtmfp.Reason; why a client was refused, as rendezvous.Refusal
	FieldRule   = "rule"   // why the policy refused, as turn.Rule
	FieldRemedy = "remedy" // what an administrator can do
	FieldCount  = "count"  // how many events one line stands for
	FieldAction = "action" // what somebody did through the control commands
	FieldRemote = "remote" // address and port of who did
)

// Fields are all of them, in the order of a console line.
var Fields = []string{
	FieldTime, FieldLevel, FieldMessage,
	FieldAction, FieldRemote,
	FieldSession, FieldClient, FieldPeerID, FieldUser, FieldKey, FieldServer, FieldTransport, FieldRelay, FieldDialect,
	FieldPeer, FieldPeers, FieldLastPeer,
	FieldBytesUp, FieldPacketsUp, FieldBytesDown, FieldPacketsDown, FieldIntroduced, FieldAsked, FieldDuration,
	FieldReason, FieldRule, FieldCount, FieldError, FieldRemedy,
}

package rtmfp

import "encoding/binary"

// sessionIDSize is the size of the Scrambled Session ID before the encrypted packet (§2.2.2).
const sessionIDSize = 4

// SessionID reports the session ID of a Multiplex packet, which names the session of its receiver; 0 is session startup
// (§2.2.2). ok is false if the datagram is too short to hold an encrypted packet.
func SessionID(datagram []byte) (id uint32, ok bool) {
	if len(datagram) <= sessionIDSize {
		return 0, false
	}
	return binary.BigEndian.Uint32(datagram) ^ scramble(datagram[sessionIDSize:]), true
}

// PutSessionID writes the scrambled id to the first four bytes of datagram, whose rest is the encrypted packet.
func PutSessionID(datagram []byte, id uint32) {
	binary.BigEndian.PutUint32(datagram, id^scramble(datagram[sessionIDSize:]))
}

// scramble is the exclusive-or of the first two words of the packet, as if zeros followed it (§2.2.2).
func scramble(packet []byte) uint32 {
	if len(packet) >= 8 {
		return binary.BigEndian.Uint32(packet) ^ binary.BigEndian.Uint32(packet[4:])
	}
	var first [8]byte
	copy(first[:], packet)
	return binary.BigEndian.Uint32(first[:]) ^ binary.BigEndian.Uint32(first[4:])
}

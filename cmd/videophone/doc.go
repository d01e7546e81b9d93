// Command videophone makes video calls from peer to peer over RTMFP, as Adobe's VideoPhone sample made them, with camera and microphone from a page in the
// browser.
//
//	browser ──WebSocket── hub ── phone ──NetConnection── rendezvous (stile serve), UDP 1935
//	(camera, WebCodecs)            │  └─────NetStream───── the other phone: direct, or by way of the TURN proxy of mms.cfg
//	                               └── directory: names to peer IDs over HTTP, port 8935
//
// The [switchboard] decides about calls and is pure; [phone] is the shell around it, with [hub] for the page and the streams of
// rtmfp/flash for peers. [frame] is coded media between page and phone, which goes to peers as Enhanced RTMP's audio and video messages. Two of
// these phones speak the protocol of Adobe's sample, so one of them can call the sample; what is ours beyond it (why a call was refused, codecs,
// conference, safety code, long-term keys) is sent by functions that the sample does not have and passes over.
//
// What proves who somebody is: a peer ID is a fresh one for each connection, and names are anybody's. So each name has an Ed25519 key on its
// machine, proved by a signature of the session's nonces, and friends' keys are remembered; and a six-digit code, made of the nonces and of
// random numbers that were committed to, can be read aloud. See safety.go and identity.go.
//
// # Limitations
//
// A conference has four phones at most: each member sends a copy to each other one. Pictures are 640×480. Speex, Nellymoser and H.263 of real players are
// recorded and not shown, and a Flash Player hears nothing of Opus: it gets H.264 where the browser encodes it. Sound and pictures are not kept
// in step beyond what the network does. The directory authenticates nobody. Behind a proxy that carries TCP only the directory is out of
// reach: call by ID.
package main

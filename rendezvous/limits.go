package rendezvous

import "time"

// From the specification.
const (
	maxKeepaliveMin = 5 * time.Second // clients take no shorter keepalive period (RFC 7425 §5.3.4)
)

// Ours to tune.
const (
	// connectWait is how long a session may be without a connect command.
	connectWait = 30 * time.Second
	// goodbyeWait is how long a refused client has to acknowledge why, before its session closes anyway.
	goodbyeWait = 5 * time.Second
	// partedWait is how long a client that has acknowledged everything has to close the session itself.
	partedWait = time.Second
	// claimWait is how long the holder of a peer ID has to answer when another session claims it.
	claimWait = 3 * time.Second
	// silenceLimit is how long a peer may leave a ping unanswered before it is introduced to nobody.
	silenceLimit = 6 * time.Second
	// freshness is how recently a peer must have been heard to be introduced without a ping beside.
	freshness = 2 * time.Second
	// maxReported bounds the addresses taken from setPeerInfo. A Redirect of three times an IHello holds about as many.
	maxReported = 16
	// maxAlternatives bounds the further FIHellos of an introduction behind one NAT, one for each reported address.
	maxAlternatives = 4
	// repeatWindow is how long an IHello that is the same in every respect is taken for a copy that the network has made. The
	// first retransmission comes after a second at the earliest.
	repeatWindow = 300 * time.Millisecond
	// recentHellos bounds the IHellos remembered for that; a power of two.
	recentHellos = 4096
	// maxMessage bounds a command message; connect has less than a kilobyte.
	maxMessage = 16 << 10
	// flowCapacity bounds what a client's flow may have on the way.
	flowCapacity = 16 << 10
	// maxFlows bounds a client's receiving flows, those that linger included.
	maxFlows = 8
	// maxCommands bounds the commands of a client a second, after connect.
	maxCommands = 20
	// maxPosts bounds the messages to other shards that wait in a core.
	maxPosts = 1 << 16
	// mixedInterval is how often the warning about private and public clients comes.
	mixedInterval = time.Hour
	// logInterval is how often one kind of refusal is told of.
	logInterval = 10 * time.Second
)

// Limits bound what clients and strangers may use. Zero means no limit, except where said.
type Limits struct {
	Sessions               int // all together; zero means 1,000,000
	PerAddress             int // sessions of one address
	HandshakesPerPrefix    int // new sessions a second from an IPv4 /24 or IPv6 /56
	IntroductionsPerPrefix int // introductions a second that an IPv4 /24 or IPv6 /56 may ask for
	IntroductionsPerPeer   int // introductions a second to one peer
	DirectoryPerPrefix     int // requests a second to the directory from an IPv4 /24 or IPv6 /56
}

// DefaultLimits are those of the configuration's defaults.
func DefaultLimits() Limits {
	return Limits{
		Sessions: 1_000_000, PerAddress: 4096, HandshakesPerPrefix: 500, IntroductionsPerPrefix: 200,
		IntroductionsPerPeer: 20, DirectoryPerPrefix: 50,
	}
}

// rates are limits as buckets take them.
type rates struct {
	handshakes, introductions, perPeer, directory rate
}

func (l *Limits) rates() rates {
	return rates{
		handshakes: perSecond(l.HandshakesPerPrefix, 4), introductions: perSecond(l.IntroductionsPerPrefix, 2), perPeer: perSecond(l.IntroductionsPerPeer, 2),
		directory: perSecond(l.DirectoryPerPrefix, 2),
	}
}

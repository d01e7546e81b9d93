//go:build e2e

package dataplane

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	pion2 "github.com/pion/turn/v2"
	pion5 "github.com/pion/turn/v5"
	"go.uber.org/goleak"

	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/turn"
)

// pionClient is what the clients of pion/turn v2 and v5 have in common.
type pionClient interface {
	Listen() error
	SendBindingRequest() (net.Addr, error)
	Allocate() (net.PacketConn, error)
	CreatePermission(...net.Addr) error
	Close()
}

// pions makes a client of each version on a socket, or on a stream if there is one.
var pions = map[string]func(conn net.PacketConn, stream net.Conn, server, user, password string) (pionClient, error){
	"v2": func(conn net.PacketConn, stream net.Conn, server, user, password string) (pionClient, error) {
		if stream != nil {
			conn = pion2.NewSTUNConn(stream)
		}
		return pion2.NewClient(&pion2.ClientConfig{
			STUNServerAddr: server, TURNServerAddr: server, Username: user, Password: password, Conn: conn,
		})
	},
	"v5": func(conn net.PacketConn, stream net.Conn, server, user, password string) (pionClient, error) {
		if stream != nil {
			conn = pion5.NewSTUNConn(stream)
		}
		return pion5.NewClient(&pion5.ClientConfig{
			STUNServerAddr: server, TURNServerAddr: server, Username: user, Password: password, Conn: conn,
		})
	},
}

// Credentials of the servers in this file.
const (
	interopUser     = "alice"
	interopPassword = "correct horse"
	interopSecret   = "the secret of the REST credentials"
)

// restCredentials are time-limited credentials that an application server would hand out.
func restCredentials(until time.Time) (user, password string) {
	user = strconv.FormatInt(until.Unix(), 10) + ":bob"
	mac := hmac.New(sha1.New, []byte(interopSecret))
	mac.Write([]byte(user))
	return user, base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// withAuth makes every listener of a configuration ask for credentials.
func withAuth(cfg *Config) {
	rules := *cfg.Rules
	rules.Auth = turn.Auth{
		Realm: "stile", Users: []turn.User{{Name: interopUser, Password: interopPassword}}, Secret: interopSecret, NonceKey: [32]byte{1},
	}
	rules.ModernWithoutCredentials = false
	cfg.Rules = &rules
	for i := range cfg.Listeners {
		cfg.Listeners[i].RequireAuth = true
	}
}

// startInterop serves on loopback with credentials, and returns where.
func startInterop(t *testing.T, engine Kind) (s *Server, udp, tcp string) {
	t.Helper()
	if engine == Plain {
		s = startPlain(t, withAuth)
		return s, s.plainUDP(), s.plainTCP()
	}
	cfg := socketConfig(t)
	cfg.Shards = 2
	withAuth(&cfg)
	s = startSocket(t, cfg)
	return s, s.address(0), s.address(1)
}

// dialPion connects a client to a server over network, on loopback.
func dialPion(t *testing.T, version, network, udp, tcp, user, password string) (pionClient, net.Addr) {
	t.Helper()
	if network == "tcp" {
		stream, err := net.Dial("tcp", tcp)
		if err != nil {
			t.Fatal(err)
		}
		return runPion(t, version, nil, stream, tcp, user, password), stream.LocalAddr()
	}
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return runPion(t, version, conn, nil, udp, user, password), conn.LocalAddr()
}

func runPion(t *testing.T, version string, conn net.PacketConn, stream net.Conn, server, user, password string) pionClient {
	t.Helper()
	c, err := pions[version](conn, stream, server, user, password)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if conn != nil {
			conn.Close()
		} else {
			stream.Close()
		}
	})
	return c
}

// passed checks that one datagram gets from a to b as it was and from the address that a is known by.
func passed(t *testing.T, a, b net.PacketConn, atA, atB net.Addr, data []byte) {
	t.Helper()
	if n, err := a.WriteTo(data, atB); err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	_ = b.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 4096)
	n, from, err := b.ReadFrom(buf)
	if err != nil {
		t.Fatalf("%d bytes from %v to %v: %v", len(data), atA, atB, err)
	}
	if from.String() != atA.String() || !bytes.Equal(buf[:n], data) {
		t.Fatalf("%d bytes from %v, want %d from %v", n, from, len(data), atA)
	}
}

func interopPeer(t *testing.T, address string) net.PacketConn {
	t.Helper()
	peer, err := net.ListenPacket("udp4", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	return peer
}

// onlySession is the only allocation of a server.
func (s *Server) onlySession(t *testing.T) turn.Session {
	t.Helper()
	all, err := s.Sessions(context.Background())
	if err != nil || len(all) != 1 {
		t.Fatalf("%d allocations, %v; want 1", len(all), err)
	}
	return all[0]
}

func (s *Server) counters(t *testing.T) Stats {
	t.Helper()
	stats, err := s.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return stats
}

// wait waits until the server's counters are as they should be.
func (s *Server) wait(t *testing.T, what string, ok func(Stats) bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if stats := s.counters(t); ok(stats) {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("%s: %+v", what, stats)
		}
	}
}

func TestPionClientsAllocatePermitAndBindChannels(t *testing.T) {
	for _, engine := range []Kind{Plain, Socket, Kernel} {
		for version := range pions {
			for _, network := range []string{"udp", "tcp"} {
				for _, credentials := range []string{"long-term", "time-limited"} {
					t.Run(fmt.Sprintf("%v/%s/%s/%s", engine, version, network, credentials), func(t *testing.T) {
						user, password := interopUser, interopPassword
						if credentials == "time-limited" {
							user, password = restCredentials(time.Now().Add(time.Hour))
						}
						s, udp, tcp := startInterop(t, engine)
						c, local := dialPion(t, version, network, udp, tcp, user, password)
						if network == "udp" {
							if mapped, err := c.SendBindingRequest(); err != nil || mapped.String() != local.String() {
								t.Errorf("Binding: %v, %v; want %v", mapped, err, local)
							}
						}
						relay, err := c.Allocate()
						if err != nil {
							t.Fatalf("Allocate: %v", err)
						}
						defer relay.Close()
						session := s.onlySession(t)
						if session.User != user || session.Dialect != turn.DialectModern || session.Client.String() != local.String() ||
							session.Relayed.String() != relay.LocalAddr().String() || session.Stream != (network == "tcp") {
							t.Errorf("the server has %+v; want user %s, client %v, relayed address %v", session, user, local, relay.LocalAddr())
						}

						// A peer may write as soon as it is permitted; nothing was sent to it.
						peer := interopPeer(t, "127.0.0.1:0")
						if err := c.CreatePermission(peer.LocalAddr()); err != nil {
							t.Fatalf("CreatePermission: %v", err)
						}
						passed(t, peer, relay, peer.LocalAddr(), relay.LocalAddr(), []byte("first"))
						// The first datagrams are indications; then the channel is there.
						for i := range 200 {
							size := 1 + i*7
							if network == "tcp" {
								size += 4 // up to 4 bytes on a channel make a frame that pion holds back until the next one comes
							}
							data := bytes.Repeat([]byte{byte(i)}, size)
							passed(t, relay, peer, relay.LocalAddr(), peer.LocalAddr(), data)
							passed(t, peer, relay, peer.LocalAddr(), relay.LocalAddr(), data)
						}
						stats := s.counters(t)
						for _, d := range []turn.Disposition{turn.RelayedSend, turn.RelayedChannel, turn.RelayedToData, turn.RelayedToChannel} {
							if stats.Packets[d] == 0 {
								t.Errorf("no packet is counted as %v", d)
							}
						}
						if stats.Channels != 1 || stats.Permissions != 1 {
							t.Errorf("%d channels and %d permissions, want one of each", stats.Channels, stats.Permissions)
						}

						// Every nonce becomes stale at once: 438 to the next request, and the client asks again with the new one.
						if stats.Errors[438] != 0 {
							t.Errorf("%d stale nonces too early", stats.Errors[438])
						}
						rules := *s.cfg.Rules
						rules.Auth.NonceKey[0]++
						if err := s.SetRules(context.Background(), &rules); err != nil {
							t.Fatal(err)
						}
						other := interopPeer(t, "127.0.0.2:0")
						for range 20 {
							passed(t, relay, other, relay.LocalAddr(), other.LocalAddr(), []byte("to the other"))
							passed(t, other, relay, other.LocalAddr(), relay.LocalAddr(), []byte("from the other"))
						}
						s.wait(t, "two channels and at least one stale nonce", func(st Stats) bool { return st.Errors[438] > 0 && st.Channels == 2 })

						if err := relay.Close(); err != nil {
							t.Errorf("Close: %v", err)
						}
						s.wait(t, "no allocation, released", func(st Stats) bool {
							return st.Allocations == 0 && st.Permissions == 0 && st.Channels == 0 && st.Ended[turn.EndReleased] == 1
						})
						for code, n := range s.counters(t).Errors {
							if code != 401 && code != 438 {
								t.Errorf("%d answers with the error %d", n, code)
							}
						}
					})
				}
			}
		}
	}
}

func TestPionClientsWithoutValidCredentialsGetNothing(t *testing.T) {
	for _, engine := range []Kind{Plain, Socket, Kernel} {
		for version := range pions {
			t.Run(fmt.Sprintf("%v/%s", engine, version), func(t *testing.T) {
				s, udp, tcp := startInterop(t, engine)
				old, oldPassword := restCredentials(time.Now().Add(-time.Minute))
				for name, with := range map[string][2]string{
					"wrong password": {interopUser, "wrong"}, "unknown user": {"mallory", interopPassword}, "expired": {old, oldPassword},
				} {
					for _, network := range []string{"udp", "tcp"} {
						c, _ := dialPion(t, version, network, udp, tcp, with[0], with[1])
						if relay, err := c.Allocate(); err == nil {
							t.Errorf("%s over %s: got %v", name, network, relay.LocalAddr())
						}
					}
				}
				if st := s.counters(t); st.Allocated != 0 || st.Errors[401] < 12 {
					t.Errorf("%d allocations were made, %d times 401; want none and 12 at least", st.Allocated, st.Errors[401])
				}
			})
		}
	}
}

func TestPionClientsOfTwoVersionsReachEachOther(t *testing.T) {
	for _, engine := range []Kind{Plain, Socket, Kernel} {
		t.Run(engine.String(), func(t *testing.T) {
			s, udp, tcp := startInterop(t, engine)
			relays := make(map[string]net.PacketConn)
			for version, network := range map[string]string{"v2": "udp", "v5": "tcp"} {
				c, _ := dialPion(t, version, network, udp, tcp, interopUser, interopPassword)
				relay, err := c.Allocate()
				if err != nil {
					t.Fatal(err)
				}
				defer relay.Close()
				relays[version] = relay
				if err := c.CreatePermission(&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 20000}); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 50 {
				data := bytes.Repeat([]byte{byte(i)}, 5+i*20)
				passed(t, relays["v2"], relays["v5"], relays["v2"].LocalAddr(), relays["v5"].LocalAddr(), data)
				passed(t, relays["v5"], relays["v2"], relays["v5"].LocalAddr(), relays["v2"].LocalAddr(), data)
			}
			if st := s.counters(t); st.Packets[turn.RelayedHairpin] != 100 {
				t.Errorf("%d of 100 datagrams were delivered within the server", st.Packets[turn.RelayedHairpin])
			}
		})
	}
}

// TestPionClientsLiveForHours: their timers refresh allocation, permissions and channel over three nonces, in virtual time.
func TestPionClientsLiveForHours(t *testing.T) {
	for version := range pions {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(version+"/"+network, func(t *testing.T) {
				defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
				natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
					liveForHours(t, n, version, network)
				})
			})
		}
	}
}

func liveForHours(t *testing.T, n *natlab.Net, version, network string) {
	local := netip.MustParseAddr("198.51.100.2")
	at := netip.AddrPortFrom(local, 3478)
	proxy, player := n.Internet().Host("proxy", local.String()), n.Internet().Host("player", "192.0.2.20")
	player.Link().Set(natlab.LinkConfig{Delay: 20 * time.Millisecond})
	cfg := Config{
		Engine: Plain, Listeners: []Listener{{Network: "udp", Address: at}, {Network: "tcp", Address: at}},
		Relays: []turn.RelayAddress{{Public: local, Local: local}}, Ports: turn.PortRange{First: 49152, Last: 65535},
		ListenPacket: proxy.ListenPacket, Listen: proxy.Listen,
	}
	policy, err := turn.NewPolicy(turn.PolicyConfig{Profile: turn.ProfilePublic, Relays: cfg.Relays, RelayPorts: cfg.Ports})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Rules = &turn.Rules{Policy: policy, Limits: turn.DefaultLimits()}
	withAuth(&cfg)
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error("Serve:", err)
		}
	}()

	var conn net.PacketConn
	var stream net.Conn
	if network == "tcp" {
		stream, err = player.DialContext(t.Context(), "tcp", at.String())
	} else {
		conn, err = player.ListenPacket(t.Context(), "udp4", ":0")
	}
	if err != nil {
		t.Fatal(err)
	}
	c := runPion(t, version, conn, stream, at.String(), interopUser, interopPassword)
	relay, err := c.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	peer, err := n.Internet().Host("peer", "203.0.113.7").ListenPacket(t.Context(), "udp4", "203.0.113.7:1935")
	if err != nil {
		t.Fatal(err)
	}
	begin := s.onlySession(t)
	for minute := range 3*60 + 10 {
		for range 3 {
			passed(t, relay, peer, relay.LocalAddr(), peer.LocalAddr(), []byte("to the peer"))
			passed(t, peer, relay, peer.LocalAddr(), relay.LocalAddr(), []byte("to the player"))
		}
		if session := s.onlySession(t); session.ID != begin.ID || session.Permissions != 1 || session.Channels != 1 {
			t.Fatalf("after %d minutes: %+v", minute, session)
		}
		time.Sleep(time.Minute)
	}
	st := s.counters(t)
	if st.Errors[438] < 3 || st.Packets[turn.RelayedChannel] < 3*3*60 {
		t.Errorf("%d stale nonces and %d packets by channel; want 3 and %d at least", st.Errors[438], st.Packets[turn.RelayedChannel], 3*3*60)
	}
	for code, n := range st.Errors {
		if code != 401 && code != 438 {
			t.Errorf("%d answers with the error %d", n, code)
		}
	}
	if err := relay.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	time.Sleep(time.Second)
	if st := s.counters(t); st.Allocations != 0 || st.Ended[turn.EndReleased] != 1 {
		t.Errorf("%d allocations are left", st.Allocations)
	}
}

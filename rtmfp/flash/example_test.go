package flash_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/rtmfp/flash"
)

// simulated is a rendezvous and two hosts in a simulated internet. In a real one Config{} is enough, and Connect names a real
// server.
func simulated() (alice, bob flash.Config, end func()) {
	n := natlab.New(1)
	in := &introducer{host: n.Internet().Host("introducer", introducerAddress), seed: 1}
	in.start()
	config := func(name, addr string) flash.Config {
		h := n.Internet().Host(name, addr)
		return flash.Config{
			ListenPacket: h.ListenPacket, LookupNetIP: h.LookupNetIP,
			InterfaceAddrs: func() ([]netip.Addr, error) { return h.Addrs(), nil },
		}
	}
	return config("alice", "203.0.113.1"), config("bob", "203.0.113.2"), func() { in.stop(); _ = n.Close() }
}

// Connect to a rendezvous, and learn this end's peer ID, by which others reach it.
func ExampleNetConnection_Connect() {
	cfg, _, end := simulated()
	defer end()
	nc := flash.NewNetConnection(cfg)
	nc.OnNetStatus = func(ev flash.NetStatusEvent) { fmt.Println(ev.Level, ev.Code) }
	if err := nc.Connect(context.Background(), "rtmfp://introducer/KEY"); err != nil {
		fmt.Println(err) // a *flash.StatusError with a code of Adobe's
		return
	}
	fmt.Println(len(nc.NearID().String()), "hexadecimal digits")
	nc.Close()
	<-nc.Done()
	// Unordered output:
	// status NetConnection.Connect.Success
	// 64 hexadecimal digits
	// status NetConnection.Connect.Closed
}

// One publishes, the other plays. Each would publish and play in a call.
func ExampleNetStream_Play() {
	a, b, end := simulated()
	defer end()
	alice, bob := flash.NewNetConnection(a), flash.NewNetConnection(b)
	defer alice.Close()
	defer bob.Close()
	for _, nc := range []*flash.NetConnection{alice, bob} {
		if err := nc.Connect(context.Background(), "rtmfp://introducer/KEY"); err != nil {
			fmt.Println(err)
			return
		}
	}

	camera := flash.NewNetStream(alice, flash.DirectConnections)
	if err := camera.Publish("cam"); err != nil {
		fmt.Println(err)
		return
	}

	screen := flash.NewNetStream(bob, alice.NearID())
	started, shown := make(chan struct{}), make(chan flash.Message, 10)
	screen.OnNetStatus = func(s flash.Status) {
		if s.Code == flash.NetStreamPlayStart {
			close(started)
		}
	}
	screen.OnMessage = func(m flash.Message) {
		if m.Type == flash.MessageVideo {
			shown <- m
		}
	}
	if err := screen.Play("cam"); err != nil {
		fmt.Println(err)
		return
	}
	<-started
	frame := flash.AppendVideoTag(nil, flash.VideoTag{Codec: flash.VP8, Packet: flash.CodedFrames, Frame: flash.KeyFrame, Data: []byte("a picture")})
	if err := camera.SendMessage(flash.Message{Type: flash.MessageVideo, Timestamp: 40, Payload: frame}); err != nil {
		fmt.Println(err)
		return
	}
	m := <-shown
	tag, err := flash.ParseVideoTag(m.Payload)
	fmt.Println(m.Timestamp, tag.Codec, string(tag.Data), err)
	// Output: 40 vp08 a picture <nil>
}

// Send calls a function of the Client at every subscriber, or at one.
func ExampleNetStream_Send() {
	a, b, end := simulated()
	defer end()
	alice, bob := flash.NewNetConnection(a), flash.NewNetConnection(b)
	defer alice.Close()
	defer bob.Close()
	for _, nc := range []*flash.NetConnection{alice, bob} {
		if err := nc.Connect(context.Background(), "rtmfp://introducer/KEY"); err != nil {
			fmt.Println(err)
			return
		}
	}

	talk := flash.NewNetStream(alice, flash.DirectConnections)
	started := make(chan struct{})
	listen := flash.NewNetStream(bob, alice.NearID())
	listen.OnNetStatus = func(s flash.Status) {
		if s.Code == flash.NetStreamPlayStart {
			close(started)
		}
	}
	said := make(chan string)
	listen.Client = map[string]func([]any){"onChat": func(args []any) { said <- fmt.Sprint(args...) }}
	if err := talk.Publish("chat"); err != nil {
		fmt.Println(err)
		return
	}
	if err := listen.Play("chat"); err != nil {
		fmt.Println(err)
		return
	}
	<-started
	if err := talk.Send("onChat", "hello"); err != nil {
		fmt.Println(err)
	}
	fmt.Println(<-said)
	if err := talk.PeerStreams()[0].Send("onChat", "you alone"); err != nil {
		fmt.Println(err)
	}
	fmt.Println(<-said)
	// Output:
	// hello
	// you alone
}

// OnPeerConnect refuses those who are not expected. They are told NetStream.Connect.Rejected.
func ExampleNetStream_refuse() {
	a, b, end := simulated()
	defer end()
	alice, bob := flash.NewNetConnection(a), flash.NewNetConnection(b)
	told := make(chan string, 10)
	bob.OnNetStatus = func(ev flash.NetStatusEvent) { told <- ev.Code }
	defer alice.Close()
	defer bob.Close()
	for _, nc := range []*flash.NetConnection{alice, bob} {
		if err := nc.Connect(context.Background(), "rtmfp://introducer/KEY"); err != nil {
			fmt.Println(err)
			return
		}
	}
	private := flash.NewNetStream(alice, flash.DirectConnections)
	friends := map[flash.PeerID]bool{}
	private.OnPeerConnect = func(subscriber *flash.NetStream) bool { return friends[subscriber.FarID()] }
	if err := private.Publish("private"); err != nil {
		fmt.Println(err)
		return
	}
	if err := flash.NewNetStream(bob, alice.NearID()).Play("private"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(<-told)
	fmt.Println(<-told)
	// Output:
	// NetConnection.Connect.Success
	// NetStream.Connect.Rejected
}

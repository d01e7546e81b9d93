package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/stilenet/stile/turn/client"
)

// A datagram goes to a peer by way of the relay, and the peer's answer comes back the same way.
func Example() {
	server, stop := client.StartEcho() // a draft-08 server in this process; an application has the address of its own
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := client.Dial(ctx, client.Config{Server: server})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	fmt.Println("peers reach us at", conn.LocalAddr())

	peer := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 210), Port: 18200}
	if _, err := conn.WriteTo([]byte("hello"), peer); err != nil {
		fmt.Println(err)
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 1500)
	n, from, err := conn.ReadFrom(b)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%q from %v\n", b[:n], from)
	// Output:
	// peers reach us at 192.0.2.15:50000
	// "hello" from 192.0.2.210:18200
}

// What went wrong decides what to do next.
func ExampleError() {
	_, err := client.Dial(context.Background(), client.Config{Server: "turns:turn.example.com"})
	var answer *client.Error
	switch {
	case err == nil:
	case errors.Is(err, client.ErrTimeout):
		fmt.Println("another server may answer")
	case errors.Is(err, client.ErrCredentialsWanted):
		fmt.Println("this server is not for everybody")
	case errors.As(err, &answer) && answer.RetryAfter > 0:
		fmt.Println("again in", answer.RetryAfter)
	default:
		fmt.Println(err)
	}
	// Output:
	// client: server "turns:turn.example.com": turns: TURN over TLS is not built: use turn:
}

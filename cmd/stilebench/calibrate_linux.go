package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func calibrateCommand() *cobra.Command {
	var asJSON bool
	var size, nice int
	cmd := &cobra.Command{
		Use:   "calibrate",
		Short: "Measure what the generator itself costs and the highest rate it produces (root)",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if size < probeSize || size > maxPayload {
				return fmt.Errorf("--size %d: must be %d to %d", size, probeSize, maxPayload)
			}
			cpus, err := place(nice)
			if err != nil {
				return err
			}
			lab, err := newNetlab(0, labOptions{serverCPU: max(cpus.server, 0)})
			if err != nil {
				return err
			}
			defer lab.close()
			c, err := calibrateIn(lab, size)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(os.Stdout, c)
			}
			tw := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintf(tw, "send\t%.2f µs per packet of %d bytes, discarded at the far end: %s packets/s\n", c.SendUs, c.SizeBytes, grouped(c.Bare))
			fmt.Fprintf(tw, "deliver\t%.2f µs, to a socket's buffer in the far namespace\n", c.DeliverUs)
			fmt.Fprintf(tw, "receive\t%.2f µs, out of the ring\n", c.ReceiveUs)
			fmt.Fprintf(tw, "highest rate\t%s packets/s through a server that costs nothing\n", grouped(c.Highest))
			return tw.Flush()
		},
	}
	cmd.Flags().IntVar(&size, "size", 172, "bytes of payload")
	cmd.Flags().IntVar(&nice, "nice", 0, "priority, -20 to 19")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON")
	return cmd
}

const (
	calibrateFor   = time.Second
	calibrateFlows = 100
)

// calibrateIn needs a laboratory without a server.
func calibrateIn(lab *netlab, size int) (*Calibration, error) {
	clients, err := lab.clientLink(0, calibrateFlows)
	if err != nil {
		return nil, err
	}
	defer clients.close()

	var sink *net.UDPConn
	var far *packetLink // the server's end of the clients' cable
	err = lab.server.do(func() error {
		var err error
		if sink, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(labServer, 3478))); err != nil {
			return err
		}
		far, err = newPacketLink(packetLinkConfig{ifname: lab.ifSC, mac: lab.macC, gw: macClient, addr: labServer, base: 3478, ports: 1})
		return err
	})
	if err != nil {
		return nil, err
	}
	defer sink.Close()
	defer far.close()
	_ = sink.SetReadBuffer(1 << 30) // as large as the limit lets it be; what does not fit is discarded late, at the same cost

	payload := make([]byte, size)
	frames := func(l *packetLink, to func(i int) netip.AddrPort, from func(i int) int) (fs []*frame) {
		for i := range calibrateFlows {
			fs = append(fs, l.frame(from(i), to(i), payload, 0))
		}
		return fs
	}
	toSink := frames(clients, func(int) netip.AddrPort { return sink.LocalAddr().(*net.UDPAddr).AddrPort() }, func(i int) int { return i })
	nowhere := frames(clients, func(int) netip.AddrPort { return netip.AddrPortFrom(labServer, 9) }, func(i int) int { return i })
	for _, f := range nowhere {
		f.wire[5] ^= 0x40 // another host's MAC
	}
	c := &Calibration{Version: 1, Facts: machineFacts(), SizeBytes: size}
	if c.SendUs, err = timeSends(clients, nowhere, nil); err != nil {
		return nil, err
	}
	drain := make([]byte, 2048)
	if c.DeliverUs, err = timeSends(clients, toSink, func(n int) {
		_ = sink.SetReadDeadline(time.Now().Add(time.Millisecond))
		for range n {
			if _, err := sink.Read(drain); err != nil {
				return
			}
		}
	}); err != nil {
		return nil, err
	}
	back := frames(far, clients.local, func(int) int { return 0 })
	received, spent := 0, time.Duration(0)
	for begin := time.Now(); time.Since(begin) < calibrateFor; {
		for range ringSlots / 2 / batchSize {
			if _, err := far.send(back[:batchSize]); err != nil {
				return nil, err
			}
		}
		start := time.Now()
		var h histogram
		for {
			n := clients.receive(func(a *arrival) {
				p, _ := parseProbe(a.payload)
				h.add(a.at - p.sent)
			})
			if received += n; n == 0 {
				break
			}
		}
		spent += time.Since(start)
	}
	if received == 0 {
		return nil, fmt.Errorf("calibrate: nothing arrived in the ring")
	}
	c.ReceiveUs = spent.Seconds() * 1e6 / float64(received)
	c.Highest = 1e6 / (c.DeliverUs + c.ReceiveUs)
	c.Bare = 1e6 / c.SendUs
	return c, nil
}

// timeSends repeats batches for a while and reports µs per packet. between is called outside of the measured time.
func timeSends(l link, frames []*frame, between func(n int)) (float64, error) {
	sent, spent := 0, time.Duration(0)
	for begin := time.Now(); time.Since(begin) < calibrateFor; {
		start := time.Now()
		for i := range frames[:batchSize] {
			putProbe(frames[i].probe, probe{tag: 1, sent: start.UnixNano()})
		}
		n, err := l.send(frames[:batchSize])
		if err != nil {
			return 0, err
		}
		sent += n
		spent += time.Since(start)
		if between != nil {
			between(n)
		}
	}
	if sent == 0 {
		return 0, fmt.Errorf("calibrate: the kernel took nothing")
	}
	return spent.Seconds() * 1e6 / float64(sent), nil
}

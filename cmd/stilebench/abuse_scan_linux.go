package main

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// Bounds of a scan of the internet by one client: hosts that never answer, and ports of one such host.
const (
	scanBurst   = 1100 // hosts in the first two seconds
	scanPerHost = 8    // hosts/s after that
	scanPorts   = 80   // ports of one silent host
)

// insidePorts are tried on every inside host: what a proxy refuses anyway, and what it may let through.
var insidePorts = []uint16{53, 161, 1935, 3478, 5000, disguisePort}

// abuseScan looks through the proxy at the inside networks and at the internet.
func abuseScan(ctx context.Context, a *arena, t *AbuseTrial) error {
	if !a.lab {
		return errNeedsLab
	}
	const clients = 4
	probes := 0
	for _, prefix := range a.inside {
		for host := prefix.Addr(); prefix.Contains(host); host = host.Next() {
			for _, port := range insidePorts {
				if err := a.witness.watch(netip.AddrPortFrom(host, port)); err != nil {
					return err
				}
			}
		}
	}
	for n, prefix := range a.inside {
		for host, i := prefix.Addr(), 0; prefix.Contains(host); host, i = host.Next(), i+1 {
			c, err := a.allocated(func() (*attacker, error) { return a.udp(20 + n%clients) })
			if err != nil {
				return err
			}
			for _, port := range insidePorts {
				if err := c.send(sendTo(netip.AddrPortFrom(host, port), mark(uint32(port), 20))); err != nil {
					return err
				}
				probes++
			}
			for ; i%40 != 39 && prefix.Contains(host.Next()); i++ { // forty hosts for each allocation
				host = host.Next()
				for _, port := range insidePorts {
					if err := c.send(sendTo(netip.AddrPortFrom(host, port), mark(uint32(port), 20))); err != nil {
						return err
					}
					probes++
				}
			}
			c.release()
			c.close()
		}
	}
	seen, err := a.witness.sightings()
	if err != nil {
		return err
	}
	hosts := map[netip.Addr]bool{}
	for _, s := range seen {
		hosts[s.to.Addr()] = true
	}
	t.figure("probes of inside networks", float64(probes), "")
	t.none("inside hosts reached", float64(len(hosts)), "")

	// The internet: one client takes allocation after allocation and names as many hosts as it may from each.
	if err := a.restart(); err != nil {
		return err
	}
	seconds := 8.0
	if a.scanSeconds > 0 {
		seconds = float64(a.scanSeconds)
	}
	for i := range scanBurst + 100 {
		if err := a.witness.watch(netip.AddrPortFrom(a.stranger(1000+i), disguisePort)); err != nil {
			return err
		}
	}
	begin := time.Now()
	var found struct{ first, later int }
	known := map[netip.Addr]bool{}
	look := func(later bool) error {
		seen, err := a.witness.sightings()
		for _, s := range seen {
			if known[s.to.Addr()] {
				continue
			}
			known[s.to.Addr()] = true
			if later {
				found.later++
			} else {
				found.first++
			}
		}
		return err
	}
	looked := time.Now()
	var kept []*attacker
	defer func() {
		for _, c := range kept {
			c.close()
		}
	}()
	for next := 0; time.Since(begin).Seconds() < seconds && ctx.Err() == nil; {
		c, err := a.udp(30)
		if err != nil {
			return err
		}
		if err := c.allocate(); err != nil {
			c.close()
			if r := (refusal{}); !errors.As(err, &r) && !errors.Is(err, errSilent) {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		} else {
			kept = append(kept, c)
			for range 128 {
				if err := c.send(sendTo(netip.AddrPortFrom(a.stranger(1000+next), disguisePort), mark(uint32(next), 20))); err != nil {
					return err
				}
				next = (next + 1) % 60000
			}
		}
		if time.Since(looked) > 500*time.Millisecond {
			if err := look(time.Since(begin) > 2*time.Second); err != nil {
				return err
			}
			looked = time.Now()
		}
	}
	if err := look(true); err != nil {
		return err
	}
	t.figure("allocations of one client", float64(len(kept)), "")
	t.bounded("silent internet hosts in the first two seconds", float64(found.first), "hosts", scanBurst)
	t.bounded("silent internet hosts after that", float64(found.later)/(seconds-2), "hosts/s", scanPerHost)

	// Ports of one silent host.
	c, err := a.udp(31)
	if err != nil {
		return err
	}
	defer c.close()
	for round := range 10 {
		if err := c.allocate(); err != nil {
			break
		}
		for i := range 200 {
			if err := c.send(sendTo(netip.AddrPortFrom(a.stranger(5), uint16(20000+round*200+i)), mark(uint32(i), 20))); err != nil {
				return err
			}
		}
		c.release()
	}
	if seen, err = a.witness.sightings(); err != nil {
		return err
	}
	ports := map[uint16]bool{}
	for _, s := range seen {
		if s.to.Addr() == a.stranger(5) {
			ports[s.to.Port()] = true
		}
	}
	t.bounded("ports of one silent internet host", float64(len(ports)), "ports", scanPorts)
	t.limit("a host that answers on one port can be sent to on all of its ordinary ports: a permission is for an address (§8)")
	return nil
}

var errNeedsLab = errors.New("this trial needs hosts around the server: use --netns with --server-cmd")

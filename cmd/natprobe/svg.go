package main

import (
	"fmt"
	"html"
	"net/netip"
	"strings"

	"github.com/stilenet/stile/nattest"
)

// svg is a picture that is being drawn. Texts are escaped here.
type svg struct{ b strings.Builder }

func (s *svg) draw(format string, args ...any) { fmt.Fprintf(&s.b, format+"\n", args...) }

func (s *svg) text(x, y int, class, text string) {
	s.draw(`<text x="%d" y="%d" class="%s">%s</text>`, x, y, class, html.EscapeString(text))
}

// arrow is a line with a head at its end.
func (s *svg) arrow(x1, y1, x2, y2 int, class string) {
	s.draw(`<line x1="%d" y1="%d" x2="%d" y2="%d" class="line %s" marker-end="url(#%s)"/>`, x1, y1, x2, y2, class, class)
}

func (s *svg) cross(x, y int) {
	s.draw(`<g class="cross"><circle cx="%d" cy="%d" r="9"/><path d="M%d %dl8 8m0 -8l-8 8"/></g>`, x, y, x-4, y-4)
}

func (s *svg) begin(width, height int, title string) {
	s.draw(`<svg viewBox="0 0 %d %d" role="img" aria-label="%s" xmlns="http://www.w3.org/2000/svg"><title>%s</title><defs>`, width, height,
		html.EscapeString(title), html.EscapeString(title))
	for _, class := range []string{"good", "fair", "bad", "unknown"} {
		s.draw(`<marker id="%s" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" class="head %s"/></marker>`, class, class)
	}
	s.draw(`</defs>`)
}

// pathNode is a thing on the way to the internet.
type pathNode struct {
	kind  string // computer, nat, firewall, internet, server
	name  string
	lines []string
}

// pathNodes are what stands between this machine and the server.
func (r *result) pathNodes() []pathNode {
	v := &r.Verdict
	nodes := []pathNode{{"computer", "this computer", []string{r.inside()}}}
	outside := ""
	if len(v.Public) > 0 {
		outside = list(v.Public)
	}
	class := fmt.Sprintf("%v / %v", v.Mapping, v.Filtering)
	switch {
	case v.UDP == nattest.UDPBlocked:
		nodes = append(nodes, pathNode{"firewall", "firewall", []string{"blocks UDP"}})
	case v.UDP == nattest.UDPUnknown:
		nodes = append(nodes, pathNode{"unknown", "unknown", []string{"nothing answered"}})
	case v.Mapping == nattest.MappingNone && v.Filtering == nattest.FilteringOpen:
	case v.Mapping == nattest.MappingNone:
		nodes = append(nodes, pathNode{"firewall", "firewall", []string{"no translation", "filter " + v.Filtering.String()}})
	case v.CGN == nattest.Yes:
		nodes = append(nodes, pathNode{"nat", "home router", nil}, pathNode{"nat", "carrier's NAT", []string{outside, class + " in all"}})
		for _, a := range r.Observations.Local {
			if a.Is4() && carriers.Contains(a) { // this machine is in the carrier's network itself
				nodes = append(nodes[:1], nodes[2])
				break
			}
		}
	default:
		nodes = append(nodes, pathNode{"nat", "NAT", []string{outside, class}})
	}
	name, at := r.server()
	lines := []string{name}
	if at.IsValid() && at.Addr().String() != name && at.String() != name {
		lines = append(lines, at.String())
	}
	return append(nodes, pathNode{"internet", "internet", nil}, pathNode{"server", "STUN server", lines})
}

var carriers = netip.MustParsePrefix("100.64.0.0/10")

const pathWidth, pathHeight = 920, 230

// pathPicture is the way from this machine through the NAT.
func (r *result) pathPicture() string {
	v := &r.Verdict
	var s svg
	s.begin(pathWidth, pathHeight, "The path from this computer through the NAT to the server")
	nodes := r.pathNodes()
	step := (pathWidth - 150) / (len(nodes) - 1)
	at := func(i int) int { return 75 + i*step }
	const y = 78
	tone := map[nattest.UDP]string{nattest.UDPOpen: "good", nattest.UDPSomePorts: "fair", nattest.UDPBlocked: "bad"}[v.UDP]
	if tone == "" {
		tone = "unknown"
	}
	passes := tone == "good" || tone == "fair"
	for i := 1; i < len(nodes); i++ {
		from, to := at(i-1)+44, at(i)-44
		if !passes && i > 1 {
			s.draw(`<line x1="%d" y1="%d" x2="%d" y2="%d" class="line gone"/>`, from, y-10, to, y-10)
		} else {
			s.arrow(from, y-10, to, y-10, tone)
		}
		if v.TCP == nattest.Yes {
			s.arrow(from, y+12, to, y+12, "good")
		}
		if i == 1 {
			s.text((from+to)/2, y-20, "small middle", "UDP")
			if v.TCP != nattest.AnswerUnknown {
				s.text((from+to)/2, y+30, "small middle", "TCP")
			}
		}
	}
	if tone == "bad" {
		s.cross(at(1)+56, y-10)
	}
	for i, n := range nodes {
		s.icon(at(i), y, n.kind)
		s.text(at(i), y+66, "name middle", n.name)
		for j, l := range n.lines {
			s.text(at(i), y+86+j*18, "small middle", shorten(l, 34))
		}
	}
	proxy := r.Proxy.Server
	if proxy != "" {
		state, tone := "gives no allocation", "bad"
		switch {
		case r.Proxy.UDP.State == stateAnswers && r.Proxy.TCP.State == stateAnswers:
			state, tone = "answers over UDP and TCP", "good"
		case r.Proxy.UDP.State == stateAnswers:
			state, tone = "answers over UDP", "good"
		case r.Proxy.TCP.State == stateAnswers:
			state, tone = "answers over TCP only", "fair"
		}
		s.draw(`<circle cx="30" cy="%d" r="6" class="dot %s"/>`, pathHeight-16, tone)
		s.text(44, pathHeight-11, "small", shorten("TURN proxy "+proxy+": "+state, 120))
	}
	s.draw(`</svg>`)
	return s.b.String()
}

func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// icon is a drawing of about 76 by 76 around a centre.
func (s *svg) icon(x, y int, kind string) {
	switch kind {
	case "computer":
		s.draw(`<g class="icon"><rect x="%d" y="%d" width="64" height="42" rx="4"/><rect x="%d" y="%d" width="52" height="30" class="screen"/><path d="M%d %dh24l4 10h-32z"/></g>`,
			x-32, y-34, x-26, y-28, x-12, y+8)
	case "nat":
		s.draw(`<g class="icon"><rect x="%d" y="%d" width="72" height="32" rx="6"/><circle cx="%d" cy="%d" r="3" class="led"/><circle cx="%d" cy="%d" r="3" class="led"/><path d="M%d %dv-24M%d %dv-24" class="wire"/></g>`,
			x-36, y-14, x-24, y+2, x-12, y+2, x-22, y-14, x+22, y-14)
	case "firewall":
		s.draw(`<g class="wall">`)
		for row := range 4 {
			for col := range 3 {
				shift := 0
				if row%2 == 1 {
					shift = 12
				}
				left := max(x-36, x-36+col*24+shift-12)
				width := min(x+36, x-36+col*24+shift+12) - left
				s.draw(`<rect x="%d" y="%d" width="%d" height="15" rx="1"/>`, left, y-34+row*16, width)
			}
			if row%2 == 0 {
				s.draw(`<rect x="%d" y="%d" width="12" height="15" rx="1"/>`, x+24, y-34+row*16)
			}
		}
		s.draw(`</g>`)
	case "internet":
		s.draw(`<path class="cloud" d="M%d %da20 20 0 0 1 4 -39a26 26 0 0 1 48 -8a21 21 0 0 1 14 41a10 10 0 0 1 -8 6z"/>`, x-26, y+18)
	case "server":
		for i := range 3 {
			s.draw(`<g class="icon"><rect x="%d" y="%d" width="56" height="20" rx="3"/><circle cx="%d" cy="%d" r="3" class="led"/><path d="M%d %dh20" class="slot"/></g>`,
				x-28, y-36+i*23, x-18, y-26+i*23, x-2, y-26+i*23)
		}
	default:
		s.draw(`<circle cx="%d" cy="%d" r="30" class="cloud"/>`, x, y)
		s.text(x, y+10, "huge middle", "?")
	}
}

// packetRow is what a probe asked, in plain words.
type packetRow struct {
	text, far string
	stranger  bool // the answer is to come from where nothing was sent
	held      bool
	x         nattest.Observation
}

// packetRows are the probes that a reader wants to see.
func (r *result) packetRows() (out []packetRow) {
	var controls nattest.Observation
	for _, x := range r.Observations.Probes {
		if x.Role == nattest.RoleFiltering && !x.Expect.IsValid() {
			continue // the server has no such place
		}
		row := packetRow{x: x, far: x.To.String(), held: x.Answered == 0}
		switch x.Role {
		case nattest.RoleControl:
			if controls.Name == "" {
				controls = x
				controls.Sent, controls.Answered = 0, 0
			}
			controls.Sent += x.Sent
			controls.Answered += x.Answered
			continue
		case nattest.RoleMapping:
			row.text = "asked " + x.To.String()
			if len(x.Replies) > 0 {
				row.text += ", which saw " + x.Replies[0].Mapped.String()
			}
		case nattest.RoleFiltering:
			row.text, row.stranger, row.far = "may another address of the server answer?", true, x.Expect.String()
			if x.Name == "filter-port" {
				row.text = "may another port of the server answer?"
			}
		case nattest.RoleRelayFiltering:
			row.text, row.stranger = "may a relay that was not asked send?", true
		case nattest.RoleReturn:
			row.text = "after a stranger has sent: asked " + x.To.String()
		case nattest.RoleFragment:
			row.text = "a request in fragments"
		case nattest.RolePort:
			row.text = fmt.Sprintf("another port: %d", x.To.Port())
		case nattest.RoleFamily:
			row.text = "IPv6"
		case nattest.RoleStream:
			row.text = fmt.Sprintf("TCP to port %d", x.To.Port())
		case nattest.RoleMTU:
			row.text = fmt.Sprintf("%d bytes in one piece", x.Bytes)
		case nattest.RoleStreamMapping:
			row.text = "TCP, asked " + x.To.String()
			if len(x.Replies) > 0 {
				row.text += ", which saw " + x.Replies[0].Mapped.String()
			}
		case nattest.RoleHairpin:
			row.text, row.far = "our own outside address (hairpin)", x.To.String()
		case nattest.RoleLifetime:
			row.text = fmt.Sprintf("after %d s of silence", x.AfterMS/1000)
		case nattest.RoleQuota:
			row.text = fmt.Sprintf("%d more sockets", x.Sent)
		default:
			continue
		}
		out = append(out, row)
	}
	if controls.Sent > 0 {
		row := packetRow{text: "control questions, to measure loss", far: controls.To.String(), x: controls, held: controls.Answered == 0}
		out = append([]packetRow{row}, out...)
	}
	return out[:min(len(out), maxRows)]
}

const (
	maxRows   = 32 // of the picture of packets
	rowHeight = 34
	laneLeft  = 400
	laneRight = 660
	wallAt    = 510
	countAt   = 912
)

// packetPicture shows which packets came back.
func (r *result) packetPicture() string {
	rows := r.packetRows()
	if len(rows) == 0 {
		return ""
	}
	var s svg
	height := 40 + len(rows)*rowHeight
	s.begin(pathWidth, height, "Which packets came back")
	s.text(laneLeft, 16, "small middle", "this computer")
	wall := r.Verdict.Mapping != nattest.MappingNone || r.Verdict.Filtering != nattest.FilteringOpen
	if wall {
		s.text(wallAt, 16, "small middle", "NAT, firewall")
		s.draw(`<rect x="%d" y="24" width="8" height="%d" rx="2" class="strip"/>`, wallAt-4, height-30)
	}
	s.text(laneRight, 16, "small middle", "outside")
	s.text(countAt, 16, "small end", "came back")
	for i, row := range rows {
		y := 42 + i*rowHeight
		s.text(8, y+5, "small", shorten(row.text, 56))
		s.arrow(laneLeft, y-5, laneRight, y-5, "unknown")
		switch {
		case !row.held:
			s.arrow(laneRight, y+5, laneLeft, y+5, "good")
		case row.stranger && row.x.Error == 0 && row.x.Ignored == 0:
			s.arrow(laneRight, y+5, wallAt+14, y+5, "bad")
			s.cross(wallAt+12, y+5)
		default:
			s.cross(laneRight-4, y+3)
		}
		s.text(laneRight+12, y+4, "tiny", row.far)
		n := row.x.Sent
		count := fmt.Sprintf("%d of %d", row.x.Answered, n)
		if len(row.x.Replies) > 0 && row.x.Replies[0].RTTms > 0 {
			count += fmt.Sprintf(", %.0f ms", row.x.Replies[0].RTTms)
		}
		tone := "good"
		if row.x.Answered == 0 {
			tone = "bad"
		}
		s.text(countAt, y+4, "tiny end "+tone, count)
	}
	s.draw(`</svg>`)
	return s.b.String()
}

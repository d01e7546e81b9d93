package main

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// view is what the page shows. It is sent whole: there is little of it, and a page that missed something would show the wrong call.
type view struct {
	Phase   string       `json:"phase"`
	Name    string       `json:"name"`
	ID      string       `json:"id"`
	Server  string       `json:"server"`
	Listed  bool         `json:"listed"`  // others find the name
	Relayed bool         `json:"relayed"` // the service is reached by way of the proxy
	Trouble string       `json:"trouble"`
	Calls   []viewCall   `json:"calls"`
	Friends []viewFriend `json:"friends"`
	Chat    []viewLine   `json:"chat"`
	Media   mediaTarget  `json:"media"`
	Nat     natView      `json:"nat"`
}

type viewCall struct {
	Leg       int       `json:"leg"`
	Peer      string    `json:"peer"`
	Name      string    `json:"name"`
	State     callState `json:"state"`
	Words     string    `json:"words"`
	Route     string    `json:"route"` // direct, relay, or empty
	Candidate string    `json:"candidate"`
	RTT       int64     `json:"rtt"` // ms
	Loss      float64   `json:"loss"`
	Up        int       `json:"up"` // bit/s
	Down      int       `json:"down"`
	Standing  standing  `json:"standing"`
	Code      string    `json:"code"`
	Tampered  bool      `json:"tampered"`
	Note      string    `json:"note,omitempty"`
}

type viewFriend struct {
	Name     string `json:"name"`
	Online   bool   `json:"online"`
	Verified bool   `json:"verified"`
}

type viewLine struct {
	Name string `json:"name"`
	Mine bool   `json:"mine"`
	Text string `json:"text"`
}

func (p *phone) view() view {
	p.media.target.Key = p.media.key
	v := view{Phase: p.phase, Name: p.name, Server: p.opt.server, Listed: p.listed, Trouble: cmp.Or(p.trouble, p.listing), Calls: []viewCall{}, Friends: []viewFriend{},
		Chat: []viewLine{}, Media: p.media.target, Nat: p.nat}
	if p.nc != nil && p.phase == "online" {
		v.Relayed = p.nc.Path().Relayed
	}
	if p.board != nil {
		v.ID = p.board.self
		for _, c := range p.board.calls {
			if c.state == stateIncoming && !c.reached {
				continue // nobody has said who it is
			}
			v.Calls = append(v.Calls, p.viewCall(c))
		}
	}
	for name, f := range p.book.Friends {
		if name != p.name {
			v.Friends = append(v.Friends, viewFriend{name, p.online[name] != "", f.Verified})
		}
	}
	slices.SortFunc(v.Friends, func(a, b viewFriend) int {
		if a.Online != b.Online {
			return map[bool]int{true: -1, false: 1}[a.Online]
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, s := range p.chat {
		v.Chat = append(v.Chat, viewLine{s.name, s.peer == "", s.text})
	}
	return v
}

func (p *phone) viewCall(c *call) viewCall {
	v := viewCall{Leg: c.leg, Peer: c.peer, Name: cmpName(c), State: c.state, Words: c.words()}
	l := p.lines[c.leg]
	if l == nil {
		return v
	}
	if l.in != nil && c.state == stateInCall {
		path := l.in.Info().Path
		v.Route, v.Candidate, v.RTT, v.Loss = routeOf(path), path.Remote.String(), path.RTT.Milliseconds(), path.Loss
		if l.out != nil {
			v.Loss = l.out.Info().Path.Loss
		}
	}
	v.Up, v.Down, v.Standing = l.up, l.down, l.standing
	if c.state == stateInCall {
		v.Note = l.note
	}
	if l.safety != nil {
		v.Code, v.Tampered = l.safety.code, l.safety.failed
	}
	if l.differs {
		v.Tampered = true
	}
	return v
}

// command does what the page asks for.
func (p *phone) command(c pageCommand) {
	now := time.Now()
	p.update(func() {
		switch c.Do {
		case "can":
			p.media.video, p.media.audio, p.media.encode = bounded(c.Video), bounded(c.Audio), bounded(c.Encode)
			p.media.key++
			for _, l := range p.lines {
				if l.greeted {
					video, audio := p.media.shows()
					p.tell(l, action{text: onCodecs, args: []string{video, audio}})
					p.tell(l, action{text: onNeedKey})
				}
			}
		case "name":
			if p.phase == "name" {
				p.phase = "connecting"
				p.setName(c.Name)
			}
		case "check-network":
			if p.nat.State != "running" {
				p.nat.State = "running"
				go p.check(context.Background())
			}
		case "add-friend", "drop-friend":
			change := map[string]func(string) error{"add-friend": p.book.add, "drop-friend": p.book.drop}[c.Do]
			if err := change(clip(c.Name, maxName)); err != nil {
				p.trouble = err.Error()
			}
		}
		if p.board == nil {
			return
		}
		l := p.lines[c.Leg]
		switch c.Do {
		case "call":
			go p.dial(context.Background(), strings.TrimSpace(c.Name))
		case "accept":
			p.board.accept(now, c.Leg)
		case "end":
			p.board.hangUp(now, c.Leg)
		case "end-all":
			p.board.hangUpAll(now)
		case "dismiss":
			p.board.dismiss(c.Leg)
		case "say":
			p.board.say(now, c.Text)
		case "need-key":
			if l != nil {
				p.tell(l, action{text: onNeedKey})
			}
		case "codes-match":
			if call := p.board.byLeg(c.Leg); l != nil && call != nil && l.key != "" && l.safety != nil && l.safety.code != "" {
				if err := p.book.trust(call.name, l.key); err != nil {
					p.trouble = err.Error()
				}
				l.standing, l.differs = standingVerified, false
			}
		case "codes-differ":
			if l != nil {
				l.differs = true
			}
		}
		p.settle()
	})
}

// bounded is a list of codecs as a page may name them.
func bounded(names []string) []string {
	kept := []string{}
	for _, n := range names {
		if len(n) == 4 && len(kept) < 8 {
			kept = append(kept, n)
		}
	}
	return kept
}

func upper(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"html/template"
	"net/netip"
	"slices"
	"strings"

	"github.com/stilenet/stile/nattest"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"path": pathWords, "upper": strings.ToUpper,
}).Parse(pageText))

// page is the result as one HTML file without references to anything outside.
func (r *result) page() ([]byte, error) {
	raw, err := json.Marshal(r) // escapes <, > and &
	if err != nil {
		return nil, err
	}
	v := &r.Verdict
	data := struct {
		*result
		V        *nattest.Verdict
		Tone     string
		NAT      string
		Filter   string
		UDP      string
		Proxy    string
		Rdv      string
		When     string
		Seen     string
		Rare     string
		Path     template.HTML
		Packets  template.HTML
		Kinds    []kindRow
		Grid     []gridRow
		Others   []nattest.Finding
		Servers  []nattest.ServerSeen
		Evidence []nattest.Judgement
		JSON     template.HTML
	}{
		result: r, V: v, Tone: tone(v), NAT: natWords(v), Filter: filterWords(v), UDP: udpWords(v), Proxy: r.Proxy.words(), Rdv: r.Rendezvous.words(),
		When: r.At.UTC().Format("2 January 2006, 15:04 UTC"), Seen: list(v.Public), Path: template.HTML(r.pathPicture()),
		Packets: template.HTML(r.packetPicture()), Kinds: r.kindRows(), Grid: r.gridRows(), Servers: r.Observations.Servers, Evidence: v.Judgements,
		JSON: template.HTML(jsonBegin + string(raw) + jsonEnd),
	}
	if v.Confidence > 0 {
		data.Rare = rare(1 - v.Confidence)
	}
	for _, f := range r.Findings {
		if !slices.Contains(told, f.Code) {
			data.Others = append(data.Others, f)
		}
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, data); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// tone is the colour of the verdict: good, fair, bad or unknown.
func tone(v *nattest.Verdict) string {
	switch v.Relay {
	case nattest.RelayNever:
		return "good"
	case nattest.RelaySometimes:
		return "fair"
	case nattest.RelayAlways:
		return "bad"
	}
	return "unknown"
}

type kindRow struct{ Name, Words, Tone string }

func pathTone(p nattest.Path) string {
	return [...]string{nattest.PathUnknown: "unknown", nattest.PathDirect: "good", nattest.PathTechnique: "fair", nattest.PathRelay: "bad"}[min(p, nattest.PathRelay)]
}

func (r *result) kindRows() (out []kindRow) {
	for _, k := range kinds {
		for _, p := range r.Peers {
			if p.Mapping == k.mapping && p.Filtering == k.filtering {
				out = append(out, kindRow{k.name, pathWords(p), pathTone(p.Path)})
			}
		}
	}
	return out
}

// gridRow is the part of the pair table for peers of one mapping.
type gridRow struct {
	Name  string
	Cells []gridCell
}

type gridCell struct{ Word, Words, Why, Tone string }

func (r *result) gridRows() (out []gridRow) {
	names := []string{"cone (EIM)", "symmetric by address (ADM)", "symmetric (APDM)"}
	for i, p := range r.Peers {
		if i%3 == 0 {
			out = append(out, gridRow{Name: names[min(i/3, 2)]})
		}
		word := map[nattest.Path]string{nattest.PathDirect: "direct", nattest.PathTechnique: "technique", nattest.PathRelay: "relay"}[p.Path]
		if word == "" {
			word = "?"
		}
		extra := ""
		if p.Path == nattest.PathTechnique {
			extra = techniqueWords(p.Techniques)
		}
		row := &out[len(out)-1]
		row.Cells = append(row.Cells, gridCell{word, extra, p.Why, pathTone(p.Path)})
	}
	return out
}

// inside is the address that packets leave from, as far as it is known.
func (r *result) inside() string {
	for _, x := range r.Observations.Probes {
		if a := x.Local.Addr(); x.Role == nattest.RoleMapping && a.IsValid() && !a.IsUnspecified() {
			return a.String()
		}
	}
	six := false
	if len(r.Observations.Servers) > 0 {
		six = r.Observations.Servers[0].Addr.Addr().Is6()
	}
	for _, a := range r.Observations.Local {
		if a.Is6() == six && a.IsGlobalUnicast() {
			return a.String()
		}
	}
	return ""
}

func (r *result) server() (name string, at netip.AddrPort) {
	if len(r.Observations.Servers) == 0 {
		return "", at
	}
	s := r.Observations.Servers[0]
	return s.Name, s.Addr
}

package nattest_test

import (
	"encoding/json"
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/nattest/natlab"
)

// sample is the report of a run in the laboratory, as JSON.
func sample(t testing.TB) []byte {
	r := nattest.Report{Version: nattest.Version, Verdict: nattest.Verdict{Mapping: nattest.EIM, Filtering: nattest.APDF, Confidence: 0.5,
		Relay: nattest.RelaySometimes, Public: []netip.Addr{netip.MustParseAddr("203.0.113.1")}}, Findings: []nattest.Finding{{Code: nattest.BehindNAT}}}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReportHasTheWordsOfTheContract(t *testing.T) {
	s := string(sample(t))
	for _, want := range []string{`"version":1`, `"mapping":"EIM"`, `"filtering":"APDF"`, `"confidence":0.5`, `"relay":"sometimes"`, `"findings":[`, `"observations":{`} {
		if !strings.Contains(s, want) {
			t.Errorf("no %s in %s", want, s)
		}
	}
}

func TestReportSurvivesAFile(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		r := newLab(t, n, nat(natlab.NATConfig{}), near, &discovery, nil).probe(t, nil)
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := nattest.ParseReport(b)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := json.Marshal(again)
		if string(b) != string(c) {
			t.Errorf("%s\n%s", b, c)
		}
		v, _ := nattest.Classify(again.Observations)
		if v.Mapping != r.Verdict.Mapping || v.Filtering != r.Verdict.Filtering || v.Confidence != r.Verdict.Confidence {
			t.Errorf("classified again it is %v/%v", v.Mapping, v.Filtering)
		}
		if len(b) > 64<<10 {
			t.Errorf("%d bytes", len(b))
		}
	})
}

func TestHostileReportsAreRefused(t *testing.T) {
	good := string(sample(t))
	for name, tc := range map[string]struct {
		text string
		want error
	}{
		"nothing":             {"", nattest.ErrReport},
		"half":                {good[:len(good)/2], nattest.ErrReport},
		"two":                 {good + good, nattest.ErrReport},
		"another version":     {strings.Replace(good, `"version":1`, `"version":2`, 1), nattest.ErrReportVersion},
		"no version":          {`{}`, nattest.ErrReportVersion},
		"an unknown word":     {strings.Replace(good, `"EIM"`, `"cone"`, 1), nattest.ErrReport},
		"too sure":            {strings.Replace(good, `"confidence":0.5`, `"confidence":1.5`, 1), nattest.ErrReport},
		"too long":            {strings.Repeat(" ", 1<<20) + good, nattest.ErrReportSize},
		"too many findings":   {strings.Replace(good, `"findings":[`, `"findings":[`+strings.Repeat(`{"code":"","text":""},`, 300), 1), nattest.ErrReport},
		"impossible":          {strings.Replace(good, `"probes":null`, `"probes":[{"sent":1,"judged":2}]`, 1), nattest.ErrReport},
		"more answers":        {strings.Replace(good, `"probes":null`, `"probes":[{"sent":1,"answered":2}]`, 1), nattest.ErrReport},
		"a negative number":   {strings.Replace(good, `"probes":null`, `"probes":[{"sent":-1}]`, 1), nattest.ErrReport},
		"impossible controls": {strings.Replace(good, `"probes":null`, `"probes":[{"controls":1,"controls_lost":2}]`, 1), nattest.ErrReport},
	} {
		if _, err := nattest.ParseReport([]byte(tc.text)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReport(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte(`{"version":1,"observations":{"probes":[{"name":"filter-both","role":"filtering","sent":9,"judged":9,"controls":20,"to":"1.2.3.4:5","expect":"1.2.3.5:6"},` +
		`{"name":"map-primary","role":"mapping","sent":1,"answered":1,"replies":[{"from":"1.2.3.4:5","mapped":"9.9.9.9:9"}]}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := nattest.ParseReport(b)
		if err != nil {
			return
		}
		v, _ := nattest.Classify(r.Observations)
		if math.IsNaN(v.Confidence) || v.Confidence < 0 || v.Confidence > 1 {
			t.Errorf("confidence %v", v.Confidence)
		}
		nattest.Predict(r.Verdict, v)
		nattest.Predict(v, r.Verdict)
		if _, err := json.Marshal(nattest.Report{Version: 1, Verdict: v}); err != nil {
			t.Error(err)
		}
	})
}

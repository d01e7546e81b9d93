package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/rtmfp/flash"
)

func TestMistakesInTheCommandLineNameTheFlag(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"--server http://example.com", exitUsage, "--server"},
		{"--server rtmfp://0.0.0.0/", exitUsage, "--server"},
		{"--accept sometimes", exitUsage, "--accept"},
		{"--call ben", exitUsage, "--name"},
		{"--record x.flv", exitUsage, "--name"},
		{"--name a\tb", exitUsage, "--name"},
		{"ben", exitUsage, "videophone --help"},
		{"--nonsense", exitUsage, "--nonsense"},
		{"--name a --publish /nonexistent.flv", exitFailure, "--publish"},
		{"--name a --http 0.0.0.0:0", exitFailure, "--http"},
		{"--name a --mms-config /nonexistent.cfg", exitFailure, "--mms-config"},
	} {
		var out, errOut bytes.Buffer
		if code := run(t.Context(), strings.Split(c.args, " "), &out, &errOut); code != c.code || !strings.Contains(errOut.String(), c.want) {
			t.Errorf("%s: %d, %s", c.args, code, &errOut)
		}
	}
	var out bytes.Buffer
	if code := run(t.Context(), []string{"--version"}, &out, &out); code != 0 || !strings.HasPrefix(out.String(), "videophone ") {
		t.Errorf("%d, %s", code, &out)
	}
}

func TestWordsForAServiceThatIsNotThereNameTheRemedy(t *testing.T) {
	failed := &flash.StatusError{Status: flash.Status{Code: flash.NetConnectionConnectFailed}}
	if w := connectWords(failed, "rtmfp://h/", ""); !strings.Contains(w, "RTMFPTURNProxy") {
		t.Error(w)
	}
	if w := connectWords(failed, "rtmfp://h/", "proxy:3478"); !strings.Contains(w, "proxy:3478") {
		t.Error(w)
	}
	rejected := &flash.StatusError{Status: flash.Status{Code: flash.NetConnectionConnectRejected, Description: "no such key"}}
	if w := connectWords(rejected, "rtmfp://h/", ""); !strings.Contains(w, "no such key") {
		t.Error(w)
	}
}

func TestRecorderKeepsWhatWasPublishedAndNotOurCalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.flv")
	r, err := newRecorder(path, 2)
	if err != nil {
		t.Fatal(err)
	}
	data := func(handler string) flash.Message {
		b, err := flash.AppendData(nil, flash.AMF0, 5, flash.Data{Handler: handler, Arguments: []any{"x"}})
		if err != nil {
			t.Fatal(err)
		}
		m, _ := flash.ParseMessage(b)
		return m
	}
	speex := flash.Message{Type: flash.MessageAudio, Timestamp: 7, Payload: []byte("\xb2sound")}
	for _, m := range []flash.Message{data(onIm), data("onMetaData"), data("|RtmpSampleAccess"), speex, {Type: flash.MessageUserControl}} {
		r.write(m)
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(strings.TrimSuffix(path, ".flv") + "-2.flv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flv := flash.NewFLVReader(f)
	first, err1 := flv.Next()
	kind := first.Type
	second, err2 := flv.Next()
	if err1 != nil || err2 != nil || kind != flash.MessageDataAMF0 || second.Timestamp != 7 || string(second.Payload) != "\xb2sound" {
		t.Errorf("%v %v %+v", err1, err2, second)
	}
	if _, err := newRecorder(filepath.Join(t.TempDir(), "no", "r.flv"), 1); err == nil || !strings.Contains(err.Error(), "--record") {
		t.Errorf("%v", err)
	}
}

func TestReportIsWrittenAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	want := report{Version: reportVersion, Peer: id("a"), Path: "relay", Candidate: "192.0.2.1:5", SetupMS: 12, Nat: &nattest.Verdict{Mapping: nattest.EIM}}
	for range 2 {
		if err := want.write(path); err != nil {
			t.Fatal(err)
		}
	}
	b, _ := os.ReadFile(path)
	var fields map[string]any
	var got report
	if err := errors.Join(json.Unmarshal(b, &got), json.Unmarshal(b, &fields)); err != nil || got.Nat.Mapping != nattest.EIM || got.Peer != want.Peer {
		t.Errorf("%v\n%s", err, b)
	}
	for _, f := range []string{"version", "peer", "path", "candidate", "setup_ms", "nat"} {
		if _, ok := fields[f]; !ok {
			t.Errorf("no %s", f)
		}
	}
	if err := want.write(filepath.Join(path, "below")); err == nil || !strings.Contains(err.Error(), "--report") {
		t.Errorf("%v", err)
	}
}

func TestVerdictsAreToldInWords(t *testing.T) {
	title, lines := tell(&nattest.Report{Verdict: nattest.Verdict{Mapping: nattest.APDM, Filtering: nattest.APDF, Relay: nattest.RelaySometimes, UDP: nattest.UDPOpen}})
	if title == "" || len(lines) != 2 || !lines[0].Warn || !strings.Contains(lines[0].Text, "symmetric") {
		t.Errorf("%s %+v", title, lines)
	}
	if _, lines := tell(&nattest.Report{Verdict: nattest.Verdict{UDP: nattest.UDPBlocked, Relay: nattest.RelayAlways}}); len(lines) == 0 || !strings.Contains(lines[0].Text, "UDP") {
		t.Errorf("%+v", lines)
	}
}

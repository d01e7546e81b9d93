package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/stilenet/stile/nattest"
)

// report is what --report writes: the newest call of this run.
type report struct {
	Version   int              `json:"version"`
	Program   string           `json:"program"`
	Self      string           `json:"self"` // our peer ID, as soon as there is one
	Name      string           `json:"name"`
	Peer      string           `json:"peer"` // peer ID; empty before a call
	PeerName  string           `json:"peer_name"`
	State     callState        `json:"state"`
	End       endReason        `json:"end,omitempty"`
	Code      string           `json:"code,omitempty"` // the status code behind the end
	Path      string           `json:"path"`           // direct or relay; empty while there is none
	Candidate string           `json:"candidate"`      // the peer's address that is used
	SetupMS   int64            `json:"setup_ms"`       // from the call's begin to its acceptance
	RTTms     float64          `json:"rtt_ms"`
	Service   string           `json:"service"` // how the rendezvous is reached: direct or relay
	Nat       *nattest.Verdict `json:"nat"`
}

const reportVersion = 1

// write replaces the file at once, so that a reader never sees half of it.
func (r report) write(path string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".report-*")
	if err != nil {
		return fmt.Errorf("videophone: --report: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("videophone: --report: %w", err)
	}
	return nil
}

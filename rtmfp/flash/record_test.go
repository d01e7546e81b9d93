//go:build interop

package flash_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// TestInteropRecord records the exchanges that TestRecordedExchanges replays, if STILE_RECORD has the version of the programs.
func TestInteropRecord(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { record(t, s) })
	}
}

func record(t *testing.T, s scenario) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	local := conn.LocalAddr().(*net.UDPAddr)
	other, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	far := other.LocalAddr().(*net.UDPAddr).AddrPort()
	other.Close()
	args := append(s.args, "-4", "-v", local.IP.String(), strconv.Itoa(local.Port))
	if s.epd != nil {
		args = append(s.args, "-B", far.String(), "-v")
	}
	out, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("stdbuf", append([]string{"-oL", filepath.Join(os.Getenv("STILE_RTMFP_CPP"), s.program)}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	time.Sleep(300 * time.Millisecond)

	r := recording{Program: s.program, Version: "zenomt/rtmfp-cpp " + os.Getenv("STILE_RECORD"), Begin: time.Now().UTC().Round(0)}
	for _, a := range s.args {
		r.Program += " " + a
	}
	p := newReplayer(t, s, r.Begin)
	p.begin(t, r.Begin, far)
	buf := make([]byte, 2048)
	now := r.Begin
	for end := r.Begin.Add(3 * time.Second); now.Before(end) && len(r.Steps) < 25; now = time.Now().UTC().Round(0) {
		for _, d := range p.drain(now) {
			if _, err := conn.WriteToUDPAddrPort(d.Data, d.To); err != nil {
				t.Fatal(err)
			}
		}
		deadline := time.Now().Add(500 * time.Millisecond)
		if at, ok := p.e.NextTimer(); ok && at.Before(deadline) {
			deadline = at
		}
		if err := conn.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		now := time.Now().UTC().Round(0)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.e.Tick(now)
			r.Steps = append(r.Steps, step{At: now.Sub(r.Begin)})
		case err != nil:
			t.Fatal(err)
		default:
			far = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			r.Steps = append(r.Steps, step{At: now.Sub(r.Begin), Packet: hex.EncodeToString(buf[:n])})
			p.e.Receive(now, 0, far, buf[:n])
		}
	}
	said, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	r.Far, r.Nonces = far.String(), nonces(string(said))
	p.check(t, r)
	if t.Failed() {
		t.Logf("%s", said)
	}
	if os.Getenv("STILE_RECORD") == "" || t.Failed() {
		return
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("testdata/recorded", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/recorded/"+s.name+".json", append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

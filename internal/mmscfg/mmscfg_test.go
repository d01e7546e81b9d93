package mmscfg

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func findings(fs []Finding) string {
	var b strings.Builder
	for _, f := range fs {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}

func TestADeployedFileHasNoFindings(t *testing.T) {
	const text = "# Stile\r\n\r\nAutoUpdateDisable = 1\r\nRTMFPTURNProxy=turn.example.com\r\nRTMFPP2PDisable = 0\r\n"
	f, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := findings(f.Check()); got != "" {
		t.Errorf("findings:\n%s", got)
	}
	if p, ok := f.RTMFPTURNProxy(); !ok || p != (Proxy{"turn.example.com", 3478}) {
		t.Errorf("proxy %v %v", p, ok)
	}
	if f.RTMFPP2PDisable() {
		t.Error("peer-to-peer is off")
	}
	want := []Setting{{3, "AutoUpdateDisable", "1"}, {4, "RTMFPTURNProxy", "turn.example.com"}, {5, "RTMFPP2PDisable", "0"}}
	if got := f.Settings(); !slices.Equal(got, want) {
		t.Errorf("settings %v, want %v", got, want)
	}
}

func TestCheckNamesLineProblemAndRemedy(t *testing.T) {
	const ok = "RTMFPTURNProxy=turn.example.com\n"
	for name, tt := range map[string]struct{ text, want string }{
		"empty file": {"", "warning: the file does not set RTMFPTURNProxy, so players have no proxy to fall back to: add RTMFPTURNProxy=your-proxy\n"},
		"byte order mark": {"\xEF\xBB\xBF" + ok, "line 1: warning: the file begins with a byte order mark, which the player may take for a part of the first name: " +
			"save it as UTF-8 without a mark, or begin it with an empty line\n"},
		"UTF-16 LE": {"\xFF\xFER\x00T\x00M\x00F\x00P\x00T\x00U\x00R\x00N\x00P\x00r\x00o\x00x\x00y\x00=\x00a\x00.\x00b\x00",
			"error: the file is saved as UTF-16: save it as UTF-8 (in Notepad: Save As, encoding UTF-8 or ANSI)\n"},
		"UTF-16 BE": {"\xFE\xFF\x00R\x00T\x00M\x00F\x00P\x00T\x00U\x00R\x00N\x00P\x00r\x00o\x00x\x00y\x00=\x00a\x00.\x00b",
			"error: the file is saved as UTF-16: save it as UTF-8 (in Notepad: Save As, encoding UTF-8 or ANSI)\n"},
		"CR line ends":     {"# a\rRTMFPP2PDisable=0\r" + ok, ""},
		"no equals sign":   {ok + "RTMFPP2PDisable 1\n", "line 2: error: \"RTMFPP2PDisable 1\" is not a setting: write name = value, or begin the line with # if it is a comment\n"},
		"no name":          {ok + "= 1\n", "line 2: error: \"= 1\" has no name before the =: write name = value\n"},
		"semicolon":        {ok + "; note\n", "line 2: error: \"; note\" is not a comment in this file: begin comments with #\n"},
		"slashes":          {ok + "// a = b\n", "line 2: error: \"// a = b\" is not a comment in this file: begin comments with #\n"},
		"NUL":              {ok + "a=\x00\n", "line 2: error: the line holds a NUL byte: write the file again with a text editor, as UTF-8\n"},
		"latin-1":          {ok + "a=\xE9\n", "line 2: warning: the line is not UTF-8: save the file as UTF-8\n"},
		"letter case":      {"rtmfpTurnProxy=a.b\n", "line 1: warning: \"rtmfpTurnProxy\" differs from RTMFPTURNProxy in letter case, and the player may tell them apart: write RTMFPTURNProxy\n"},
		"misspelt":         {ok + "RTMPTURNProxy=a.b\n", "line 2: warning: \"RTMPTURNProxy\" is not a known setting: did you mean RTMFPTURNProxy?\n"},
		"misspelt p2p":     {ok + "RTMFPP2PDisabled=1\n", "line 2: warning: \"RTMFPP2PDisabled\" is not a known setting: did you mean RTMFPP2PDisable?\n"},
		"unknown kept":     {ok + "SomethingNew=1\n", ""},
		"repeatable":       {ok + "EnableSocketsTo=a\nEnableSocketsTo=b\n", ""},
		"same twice":       {ok + ok, "line 2: info: RTMFPTURNProxy is already on line 1 with the same value: remove one of the two lines\n"},
		"twice, different": {ok + "RTMFPTURNProxy=b.c\n", "line 2: warning: RTMFPTURNProxy is already on line 1 as \"turn.example.com\"; the last one, this, is taken here, and which one the player takes is not documented: remove one of the two lines\n"},
		"first of two bad": {"RTMFPTURNProxy=a b\n" + ok, "line 1: error: \"a b\" has a space in it: write the address or name alone, as in RTMFPTURNProxy=proxy.example.com\n" +
			"line 2: warning: RTMFPTURNProxy is already on line 1 as \"a b\"; the last one, this, is taken here, and which one the player takes is not documented: remove one of the two lines\n"},
		"p2p off":   {ok + "RTMFPP2PDisable=1\n", "line 2: warning: RTMFPP2PDisable is 1: players refuse peer-to-peer connections, and use the proxy only to reach the service: write 0 if players shall reach each other\n"},
		"p2p true":  {ok + "RTMFPP2PDisable=true\n", "line 2: error: \"true\" is not a value of RTMFPP2PDisable: write 0 (peer-to-peer on) or 1 (off)\n"},
		"p2p empty": {ok + "RTMFPP2PDisable=\n", "line 2: error: \"\" is not a value of RTMFPP2PDisable: write 0 (peer-to-peer on) or 1 (off)\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := findings(Check([]byte(tt.text))); got != tt.want {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
		})
	}
}

func TestTheLastDuplicateIsTaken(t *testing.T) {
	f, err := Parse([]byte("RTMFPTURNProxy=a.example\nrtmfpturnproxy=b.example\n"))
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := f.RTMFPTURNProxy(); !ok || p.Host != "b.example" {
		t.Errorf("proxy %v %v", p, ok)
	}
}

func TestParseProxyReadsWhatAnAdministratorMayMean(t *testing.T) {
	for value, want := range map[string]struct {
		proxy Proxy
		text  string // the value to deploy
		note  string // severity of the gravest finding, "" for none
	}{
		"turn.example.com":        {Proxy{"turn.example.com", 3478}, "turn.example.com", ""},
		" 192.0.2.1 ":             {Proxy{"192.0.2.1", 3478}, "192.0.2.1", ""},
		"192.0.2.1:3478":          {Proxy{"192.0.2.1", 3478}, "192.0.2.1", "info"},
		"192.0.2.1:80":            {Proxy{"192.0.2.1", 80}, "192.0.2.1:80", "warning"},
		"turn:3478":               {Proxy{"turn", 3478}, "turn", "info"},
		"2001:db8::1":             {Proxy{"2001:db8::1", 3478}, "2001:db8::1", "info"},
		"2001:DB8:0:0::1":         {Proxy{"2001:db8::1", 3478}, "2001:db8::1", "info"},
		"[2001:db8::1]":           {Proxy{"2001:db8::1", 3478}, "2001:db8::1", "warning"},
		"[2001:db8::1]:443":       {Proxy{"2001:db8::1", 443}, "[2001:db8::1]:443", "warning"},
		"::ffff:192.0.2.1":        {Proxy{"192.0.2.1", 3478}, "192.0.2.1", "warning"},
		"turn.example.com.":       {Proxy{"turn.example.com", 3478}, "turn.example.com", "warning"},
		"proxy":                   {Proxy{"proxy", 3478}, "proxy", "info"},
		"localhost":               {Proxy{"localhost", 3478}, "localhost", "warning"},
		"127.0.0.1":               {Proxy{"127.0.0.1", 3478}, "127.0.0.1", "warning"},
		"169.254.1.1":             {Proxy{"169.254.1.1", 3478}, "169.254.1.1", "warning"},
		"my_proxy.example.com":    {Proxy{"my_proxy.example.com", 3478}, "my_proxy.example.com", "warning"},
		"xn--bcher-kva.example":   {Proxy{"xn--bcher-kva.example", 3478}, "xn--bcher-kva.example", ""},
		"1e100.example.com:19350": {Proxy{"1e100.example.com", 19350}, "1e100.example.com:19350", "warning"},
	} {
		t.Run(value, func(t *testing.T) {
			p, found, err := parseProxy(value)
			if err != nil || p != want.proxy {
				t.Fatalf("got %v %v, want %v", p, err, want.proxy)
			}
			if p.String() != want.text {
				t.Errorf("to deploy: %s, want %s", p, want.text)
			}
			var worst Severity
			for _, n := range found {
				worst = max(worst, n.Severity)
			}
			if note := worst.String(); note != want.note && (worst != 0 || want.note != "") {
				t.Errorf("findings %v, want gravest %q", found, want.note)
			}
		})
	}
}

func TestParseProxyRefusesWithProblemAndRemedy(t *testing.T) {
	const alone = ": write the address or name alone, as in RTMFPTURNProxy=proxy.example.com"
	const port = " is not a port: write a port from 1 to 65535, or none for 3478"
	for value, want := range map[string]string{
		"":                              "the proxy is empty" + alone,
		"   ":                           "the proxy is empty" + alone,
		"turn://a.b":                    `"turn://a.b" is a URL` + alone,
		"turn:a.b":                      `"turn:a.b" is a URL` + alone,
		"STUN:a.b:3478":                 `"STUN:a.b:3478" is a URL` + alone,
		"rtmfp://a.b/key":               `"rtmfp://a.b/key" is a URL` + alone,
		"a.b/":                          `"a.b/" has a path` + alone,
		"a.b?transport=udp":             `"a.b?transport=udp" has a path` + alone,
		"user@a.b":                      `"user@a.b" has a user name: remove what stands before the @: the player sends no credentials`,
		`"a.b"`:                         `"\"a.b\"" has quotes, which would be a part of the name: remove the quotes`,
		"a.b # ours":                    `"a.b # ours" has a comment behind the value: put the comment on a line of its own`,
		"a.b,c.d":                       `"a.b,c.d" is a list: name one proxy; for several, give one name several addresses in DNS`,
		"a.b 3478":                      `"a.b 3478" has a space in it` + alone,
		"a.b:0":                         `"0"` + port,
		"a.b:65536":                     `"65536"` + port,
		"a.b:":                          `""` + port,
		"a.b:+1":                        `"+1"` + port,
		"a.b:http":                      `"http"` + port,
		":3478":                         "the host before the port is empty: write host:port",
		"[2001:db8::1":                  `"[2001:db8::1" has no closing bracket: write [address]:port, or the address without brackets`,
		"[2001:db8::1]3478":             `"[2001:db8::1]3478" has "3478" behind the bracket: write [address]:port`,
		"[192.0.2.1]:3478":              `"192.0.2.1" is an IPv4 address in brackets: write 192.0.2.1`,
		"[a.b]:3478":                    `"a.b" is not an IPv6 address: brackets are for IPv6 addresses`,
		"2001:db8::zz":                  `"2001:db8::zz" is neither an IPv6 address nor host:port: write an IPv6 address, or host:port`,
		"fe80::1%eth0":                  `"fe80::1%eth0" has a zone, which means something on one machine only: write an address that is reachable from every player`,
		"0.0.0.0":                       `"0.0.0.0" is no address of a machine: write the address that the players reach`,
		"::":                            `"::" is no address of a machine: write the address that the players reach`,
		"224.0.0.1":                     `"224.0.0.1" is a multicast or broadcast address: write the address of one machine`,
		"255.255.255.255":               `"255.255.255.255" is a multicast or broadcast address: write the address of one machine`,
		"192.0.2.256":                   `"192.0.2.256" is not an IPv4 address: write four decimal numbers from 0 to 255 without leading zeros`,
		"192.0.2":                       `"192.0.2" is not an IPv4 address: write four decimal numbers from 0 to 255 without leading zeros`,
		"192.0.2.01":                    `"192.0.2.01" is not an IPv4 address: write four decimal numbers from 0 to 255 without leading zeros`,
		"0x7f000001":                    `"0x7f000001" is not an IPv4 address: write four decimal numbers from 0 to 255 without leading zeros`,
		"a..b":                          `"a..b" has an empty part between dots: remove it`,
		".":                             "the host is empty: write an address or a name",
		"-a.b":                          `"-a.b" has a part that begins or ends with a hyphen: remove the hyphen`,
		"bücher.example":                `"bücher.example" has letters outside ASCII: write the name in its ASCII form (xn--…)`,
		"a!b":                           `"a!b" has the character '!': write letters, digits, hyphens and dots`,
		strings.Repeat("a", 64) + ".b":  `"` + strings.Repeat("a", 60) + `…" has a part of 64 bytes: write parts of at most 63 bytes`,
		strings.Repeat("a.", 127) + "b": "the name has 255 bytes: write a name of at most 253 bytes",
	} {
		t.Run(value, func(t *testing.T) {
			_, err := ParseProxy(value)
			var perr *ProxyError
			if !errors.As(err, &perr) {
				t.Fatalf("error %v, want a ProxyError", err)
			}
			if err.Error() != "mmscfg: "+want {
				t.Errorf("got  %v\nwant mmscfg: %s", err, want)
			}
		})
	}
}

func TestLineHasBracketsOnlyWithAPort(t *testing.T) {
	for host, want := range map[string]string{
		"turn.example.com":   "RTMFPTURNProxy=turn.example.com",
		"turn.example.com:1": "RTMFPTURNProxy=turn.example.com:1",
		"2001:db8::1":        "RTMFPTURNProxy=2001:db8::1",
		"[2001:db8::1]:3478": "RTMFPTURNProxy=2001:db8::1",
		"[2001:db8::1]:3479": "RTMFPTURNProxy=[2001:db8::1]:3479",
	} {
		got, err := Line(host)
		if err != nil || got != want {
			t.Errorf("Line(%q) = %q, %v, want %q", host, got, err, want)
		}
		f, err := Parse([]byte(got))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := f.RTMFPTURNProxy(); !ok {
			t.Errorf("Line(%q) = %q is not read back", host, got)
		}
	}
	if line, err := Line("turn:a.b"); err == nil {
		t.Errorf("Line of a URL is %q", line)
	}
}

func TestFileAboveTheLimitIsRefused(t *testing.T) {
	if _, err := Parse(make([]byte, MaxSize+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v", err)
	}
	if _, err := Parse(make([]byte, MaxSize)); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if got := findings(Check(make([]byte, MaxSize+1))); got != "error: the file has 65537 bytes, more than 65536: check that this is mms.cfg\n" {
		t.Errorf("check: %s", got)
	}
}

func TestFindingsAreBounded(t *testing.T) {
	found := Check([]byte(strings.Repeat("x\n", 1000)))
	if len(found) != MaxFindings {
		t.Errorf("%d findings, want %d", len(found), MaxFindings)
	}
	if found[0].Problem != "there are more findings than the first 99" {
		t.Errorf("first finding %v", found[0])
	}
}

func TestLocationsFollowTheSystem(t *testing.T) {
	windows := func(name string) string {
		return map[string]string{"WINDIR": `D:\WIN\`, "LOCALAPPDATA": `C:\Users\x\AppData\Local`}[name]
	}
	home := func(name string) string { return map[string]string{"HOME": "/home/x"}[name] }
	for _, tt := range []struct {
		goos     string
		env      func(string) string
		want     []string
		expanded []bool
	}{
		{"windows", windows, []string{`D:\WIN\SysWow64\Macromed\Flash\mms.cfg`, `D:\WIN\System32\Macromed\Flash\mms.cfg`,
			`C:\Users\x\AppData\Local\Google\Chrome\User Data\Default\Pepper Data\Shockwave Flash\System\mms.cfg`}, []bool{true, true, true}},
		{"windows", nil, []string{`%WINDIR%\SysWow64\Macromed\Flash\mms.cfg`, `%WINDIR%\System32\Macromed\Flash\mms.cfg`,
			`%LOCALAPPDATA%\Google\Chrome\User Data\Default\Pepper Data\Shockwave Flash\System\mms.cfg`}, []bool{false, false, false}},
		{"darwin", nil, []string{"/Library/Application Support/Macromedia/mms.cfg",
			"~/Library/Application Support/Google/Chrome/Default/Pepper Data/Shockwave Flash/System/mms.cfg"}, []bool{true, false}},
		{"linux", home, []string{"/etc/adobe/mms.cfg", "/home/x/.config/google-chrome/Default/Pepper Data/Shockwave Flash/System/mms.cfg",
			"/home/x/.config/chromium/Default/Pepper Data/Shockwave Flash/System/mms.cfg"}, []bool{true, true, true}},
		{"plan9", nil, nil, nil},
	} {
		var paths []string
		var expanded []bool
		for _, l := range Locations(tt.goos, tt.env) {
			paths, expanded = append(paths, l.Path), append(expanded, l.Expanded)
			if l.Player == "" {
				t.Errorf("%s: nobody reads %s", tt.goos, l.Path)
			}
		}
		if !slices.Equal(paths, tt.want) || !slices.Equal(expanded, tt.expanded) {
			t.Errorf("%s: %q %v, want %q %v", tt.goos, paths, expanded, tt.want, tt.expanded)
		}
	}
}

func TestTheFirstExistingLocationIsRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mms.cfg")
	if err := os.WriteFile(path, []byte("RTMFPTURNProxy=a.b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	absent := Location{Path: filepath.Join(dir, "absent"), Expanded: true}
	f, l, err := readFirst([]Location{{Path: "~/mms.cfg"}, absent, {Path: path, Expanded: true}})
	if err != nil || l.Path != path {
		t.Fatalf("read %q: %v", l.Path, err)
	}
	if p, ok := f.RTMFPTURNProxy(); !ok || p.HostPort() != "a.b:3478" {
		t.Errorf("proxy %v %v", p, ok)
	}
	if _, _, err := readFirst([]Location{absent}); !errors.Is(err, fs.ErrNotExist) || err.Error() != "mmscfg: this machine has no mms.cfg: file does not exist" {
		t.Errorf("without a file: %v", err)
	}
	if err := os.WriteFile(path, make([]byte, MaxSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestShippedProbeConfigurationIsTheDefault(t *testing.T) {
	c, err := LoadProbe("../../configs/natprobe.yaml")
	if err != nil || len(c.Servers) != 0 || c.Turn != "" || c.RTMFP != "" {
		t.Errorf("%+v, %v", c, err)
	}
	b, err := os.ReadFile("../../configs/natprobe.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for i := range reflect.TypeFor[Probe]().NumField() {
		if name := strings.ToLower(reflect.TypeFor[Probe]().Field(i).Name); !strings.Contains(string(b), "\n"+name+":") {
			t.Errorf("configs/natprobe.yaml has no %s", name)
		}
	}
}

func TestProbeConfigurationIsStrict(t *testing.T) {
	for text, want := range map[string]string{
		"servers: [a, 'b:3479']\nturn: turn:c?transport=tcp\nrtmfp: d\n": "",
		"":                           "",
		"server: a\n":                "servers (a list)",
		"servers: a b\n":             "servers (a list)",
		"servers: ['a b']\n":         "not a host",
		"servers: ['']\n":            "empty",
		"servers: [a, b, c, d, e]\n": "at most 4",
		"turn: ' a'\n":               "not a host",
		"servers: {\n":               "line",
	} {
		path := filepath.Join(t.TempDir(), "natprobe.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadProbe(path)
		if (want == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Probe is the configuration of natprobe, which is another file than the server's.
type Probe struct {
	Servers []string // STUN servers, host or host:port, at most 4
	Turn    string   // a TURN proxy, host, host:port or an RFC 7065 URI
	RTMFP   string   // a rendezvous, host or host:port
}

const maxProbeServers = 4 // nattest asks no more

// LoadProbe reads natprobe's configuration. Errors: those of reading the file, wrapped, and Errors for what is wrong in it.
func LoadProbe(path string) (Probe, error) {
	b, err := readBounded(path, maxFile)
	if err != nil {
		return Probe{}, err
	}
	var raw struct {
		Servers []string `yaml:"servers"`
		Turn    string   `yaml:"turn"`
		RTMFP   string   `yaml:"rtmfp"`
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&raw); err != nil && !errors.Is(err, io.EOF) {
		return Probe{}, fmt.Errorf("config: %s: %s: the keys are servers (a list), turn and rtmfp", path,
			strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " "))
	}
	if len(raw.Servers) > maxProbeServers {
		return Probe{}, fmt.Errorf("config: %s: servers: %d are too many: name at most %d", path, len(raw.Servers), maxProbeServers)
	}
	for _, s := range append([]string{raw.Turn, raw.RTMFP}, raw.Servers...) {
		if s != strings.TrimSpace(s) || strings.ContainsAny(s, " /\t") {
			return Probe{}, fmt.Errorf("config: %s: %q is not a host or host:port: write it as turn.example.net:3478", path, s)
		}
	}
	for _, s := range raw.Servers {
		if s == "" {
			return Probe{}, fmt.Errorf("config: %s: servers: one of them is empty: remove it", path)
		}
	}
	return Probe{Servers: raw.Servers, Turn: raw.Turn, RTMFP: raw.RTMFP}, nil
}

package main

import (
	"errors"
	"fmt"
	"strings"
)

// serverSpec is a server to start: NAME=COMMAND, or the name of a preset.
type serverSpec struct {
	Name    string `json:"name"`
	Command string `json:"command"` // with placeholders
}

// placeholders says what a server's command line may contain.
const placeholders = `{ip} and {port} to listen on, {relay_ip}, {min_port} and {max_port} of relayed addresses, {dir} for files; it may begin with a preset in braces, as "{stile} --turn.engine socket"`

// presets are commands that need no explanation: what Debian installs, and our own as `make bench` builds it. Ours has
// the limits of one client raised, because all clients of the laboratory have one address, and kept in force.
var presets = map[string]string{
	"coturn": "turnserver -n -z --server-relay -L {ip} -p {port} -E {relay_ip} --min-port {min_port} --max-port {max_port}" +
		" --no-tls --no-dtls --no-cli --allow-loopback-peers --no-stdout-log -l {dir}/log --pidfile {dir}/pid -b {dir}/db",
	"stile": "./build/stile serve --rendezvous.listen= --turn.listen udp://{ip}:{port} --turn.relay.addresses {relay_ip} --turn.relay.ports {min_port}-{max_port}" +
		" --turn.limits.per_client 100000 --turn.limits.per_client_prefix 100000 --turn.limits.packets_per_second 1000000" +
		" --turn.limits.bytes_per_second 2000000000 --turn.limits.reply_bytes_per_prefix 2000000000 --turn.peers.payload any --admin.listen 127.0.0.1:0 --state.dir {dir} --log.level warn",
	"rendezvous": "./build/stile serve --rendezvous.listen udp://{ip}:{port} --rendezvous.dh_groups 2,5,14,16 --rendezvous.directory.listen= --turn.listen udp://127.0.0.1:0" +
		" --rendezvous.limits.introductions_per_peer 0 --rendezvous.limits.introductions_per_prefix 0 --rendezvous.limits.handshakes_per_prefix 0" +
		" --admin.listen 127.0.0.1:0 --state.dir {dir} --log.level warn",
}

func parseServerSpec(s string) (serverSpec, error) {
	if cmd, ok := presets[s]; ok {
		return serverSpec{Name: s, Command: cmd}, nil
	}
	name, cmd, ok := strings.Cut(s, "=")
	if !ok || name == "" || strings.TrimSpace(cmd) == "" || strings.ContainsAny(name, " \t/{") {
		return serverSpec{}, fmt.Errorf("%q is neither NAME=COMMAND nor a preset (coturn, stile, rendezvous)", s)
	}
	for preset, whole := range presets {
		if rest, ok := strings.CutPrefix(cmd, "{"+preset+"}"); ok {
			return serverSpec{Name: name, Command: whole + rest}, nil
		}
	}
	return serverSpec{Name: name, Command: cmd}, nil
}

// expand replaces placeholders and splits the line into arguments. Only {words} that are no placeholder are an
// error; other braces stay.
func expand(line string, vars map[string]string) ([]string, error) {
	args, err := splitCommand(line)
	if err != nil {
		return nil, err
	}
	for i, arg := range args {
		for name, value := range vars {
			arg = strings.ReplaceAll(arg, "{"+name+"}", value)
		}
		args[i] = arg
	}
	return args, nil
}

// splitCommand splits at white space outside of 'single' and "double" quotes, as a shell does without variables.
func splitCommand(line string) (args []string, err error) {
	var arg strings.Builder
	var quote rune
	inArg := false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			arg.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inArg = r, true
		case strings.ContainsRune(" \t\n", r):
			if inArg {
				args = append(args, arg.String())
				arg.Reset()
			}
			inArg = false
		default:
			arg.WriteRune(r)
			inArg = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a command ends inside %c: %s", quote, line)
	}
	if inArg {
		args = append(args, arg.String())
	}
	if len(args) == 0 {
		return nil, errors.New("an empty command")
	}
	return args, nil
}

package config

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// Ours to tune: nobody writes configurations or secrets of this size.
const (
	maxFile       = 1 << 20 // bytes of the configuration
	maxSecretFile = 1 << 16 // bytes of a file of users or of a secret
)

// ConfigVariable names the configuration file when neither Source.File nor --config does.
const ConfigVariable = "STILE_CONFIG"

// Source says where a configuration comes from. The zero value gives the defaults, except that state.dir cannot be resolved.
type Source struct {
	File    string         // path of the YAML file; empty: --config of Flags, else STILE_CONFIG of Environ, else no file
	Flags   *pflag.FlagSet // parsed, with the flags of [Flags]; nil: none
	Environ []string       // "NAME=value", as os.Environ returns; nil: none
}

// layer is what one source says, by key.
type layer map[string]entry

type entry struct {
	value  value
	origin Origin
	lines  []int // of the items of a list in a file
}

// at returns the origin of an item of the value.
func (e entry) at(item int) Origin {
	o := e.origin
	if item >= 0 && item < len(e.lines) {
		o.Line = e.lines[item]
	}
	return o
}

// Load reads, judges and returns a configuration. The error is [Errors]: every mistake in every source, also in a value that another source covers.
// Load reads the file, and those of turn.auth.secret_file and turn.auth.users_file.
func Load(src Source) (*Config, error) {
	var errs Errors
	env := environment(src.Environ)
	path := configPath(src, env)

	var file layer
	if path != "" {
		b, err := readBounded(path, maxFile)
		if err != nil {
			return nil, Errors{{Problem: err.Error(), Remedy: "name a readable file with --config or " + ConfigVariable}}
		}
		var fileErrs Errors
		file, fileErrs = parseFile(path, b)
		errs = append(errs, fileErrs...)
	}
	vars, varErrs := parseEnvironment(env)
	errs = append(errs, varErrs...)
	flags, flagErrs := parseFlags(src.Flags)
	errs = append(errs, flagErrs...)

	// Every layer is judged by itself, so that a covered mistake is reported before it surprises.
	for _, l := range []layer{file, vars, flags} {
		for i := range keys {
			k := &keys[i]
			e, ok := l[k.name]
			if !ok {
				continue
			}
			if pr := k.set(&Config{}, e.value); pr != nil {
				errs = append(errs, &Error{Key: k.name, Problem: pr.what, Remedy: pr.remedy, Origin: e.at(pr.item)})
			}
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}

	c := merge(file, vars, flags)
	errs = append(errs, c.resolve(env)...)
	if len(errs) > 0 {
		return nil, errs
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c.warn(path)
	return c, nil
}

// merge lets viper choose the value of each key: flags over environment over file over default. The layers hold good values only.
func merge(file, vars, flags layer) *Config {
	v := viper.New()
	// viper reads variables from the process and values of flags by its own rules of types; maps give it ours, in its order of precedence.
	must := func(err error) {
		if err != nil {
			panic("BUG: config: " + err.Error())
		}
	}
	must(v.MergeConfigMap(file.nested()))
	must(v.MergeConfigMap(vars.nested()))
	for name, e := range flags {
		v.Set(name, []string(e.value))
	}
	c := &Config{origins: map[string]Origin{}}
	for i := range keys {
		k := &keys[i]
		v.SetDefault(k.name, []string(k.def))
		if pr := k.set(c, v.GetStringSlice(k.name)); pr != nil {
			panic("BUG: config: " + k.name + ": " + pr.what)
		}
		for _, l := range []layer{flags, vars, file} {
			if e, ok := l[k.name]; ok {
				c.origins[k.name] = e.origin
				break
			}
		}
	}
	return c
}

// nested returns the layer as nested maps, as a file would be decoded.
func (l layer) nested() map[string]any {
	root := map[string]any{}
	for name, e := range l {
		at, parts := root, strings.Split(name, ".")
		for _, group := range parts[:len(parts)-1] {
			if at[group] == nil {
				at[group] = map[string]any{}
			}
			at = at[group].(map[string]any)
		}
		at[parts[len(parts)-1]] = []string(e.value)
	}
	return root
}

// Defaults returns the configuration of an empty source. admin.token_file and state.dir are "auto": only [Load] resolves them.
func Defaults() *Config { return merge(nil, nil, nil) }

// readBounded reads a file of at most most bytes.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		var pathErr *os.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	case int64(len(b)) > most:
		return nil, fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return b, nil
}

// environment returns the variables that begin with STILE_ and those that name directories. An empty variable counts as not set, as ${X:-} in
// a container's description makes them.
func environment(environ []string) map[string]string {
	env := map[string]string{}
	for _, line := range environ {
		if name, text, ok := strings.Cut(line, "="); ok && text != "" {
			env[name] = text
		}
	}
	return env
}

func configPath(src Source, env map[string]string) string {
	if src.File != "" {
		return src.File
	}
	if src.Flags != nil {
		if f := src.Flags.Lookup(configFlag); f != nil && f.Changed {
			return f.Value.String()
		}
	}
	return env[ConfigVariable]
}

// serviceVariable matches what Kubernetes and container links set for a service whose name begins with stile. A key that ends like
// this wins: stun.alternate.port does, so no service may be called stile-stun-alternate.
var serviceVariable = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)$`)

func parseEnvironment(env map[string]string) (layer, Errors) {
	l := layer{}
	var errs Errors
	byVariable := map[string]*key{}
	var known []string
	for i := range keys {
		byVariable[keys[i].variable()] = &keys[i]
		known = append(known, keys[i].variable())
	}
	slices.Sort(known)
	var names []string
	for name := range env {
		if strings.HasPrefix(name, "STILE_") && name != ConfigVariable {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		origin := Origin{Kind: Environment, Name: name}
		k := byVariable[name]
		if k == nil {
			if serviceVariable.MatchString(name) {
				continue
			}
			remedy := "remove it; `stile config print` shows the keys, and a variable is STILE_ and the key in capitals with _ for ."
			if near := nearest(name, known); near != "" {
				remedy = "did you mean " + near + "?"
			}
			errs = append(errs, &Error{Problem: "no key has the variable " + name, Remedy: remedy, Origin: origin})
			continue
		}
		v, pr := k.split(env[name])
		if pr != nil {
			errs = append(errs, &Error{Key: k.name, Problem: pr.what, Remedy: pr.remedy, Origin: origin})
			continue
		}
		l[k.name] = entry{value: v, origin: origin}
	}
	return l, errs
}

// split makes a value of the text of a variable or flag: the items of a list are separated by commas, and quoted as in CSV when they hold one.
func (k *key) split(text string) (value, *problem) {
	if !k.kind.list() {
		return value{text}, nil
	}
	if text == "" {
		return value{}, nil
	}
	r := csv.NewReader(strings.NewReader(text))
	items, err := r.Read()
	if err == nil {
		if _, more := r.Read(); more != io.EOF {
			err = errors.New("a second line")
		}
	}
	if err != nil {
		return nil, bad(`separate the items by commas, and put an item that holds a comma in "quotes"`, "the list cannot be read")
	}
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	return items, nil
}

// resolve reads the files that hold secrets and finds the directories that are "auto".
func (c *Config) resolve(env map[string]string) Errors {
	var errs Errors
	fail := func(name, what, remedy string) {
		errs = append(errs, &Error{Key: name, Problem: what, Remedy: remedy, Origin: c.origins[name]})
	}
	auth := &c.Turn.Auth
	switch {
	case auth.SecretFile == "":
	case auth.Secret != "":
		fail("turn.auth.secret_file", "turn.auth.secret is set as well", "set one of the two")
	default:
		b, err := readBounded(auth.SecretFile, maxSecretFile)
		if err != nil {
			fail("turn.auth.secret_file", err.Error(), "name a file that the server can read")
			break
		}
		auth.Secret = Secret(strings.TrimRight(string(b), "\r\n"))
		if auth.Secret == "" || strings.ContainsFunc(string(auth.Secret), isControl) {
			fail("turn.auth.secret_file", auth.SecretFile+" does not hold one line of text", "write the secret into it, as in: openssl rand -hex 32 > FILE")
		}
	}
	switch {
	case auth.UsersFile == "":
	case len(auth.Users) > 0:
		fail("turn.auth.users_file", "turn.auth.users is set as well", "set one of the two")
	default:
		b, err := readBounded(auth.UsersFile, maxSecretFile)
		if err != nil {
			fail("turn.auth.users_file", err.Error(), "name a file that the server can read")
			break
		}
		if pr := setUsersFile(c, auth.UsersFile, string(b)); pr != nil {
			fail("turn.auth.users_file", pr.what, pr.remedy)
		}
	}
	if c.State.Dir == "auto" {
		dir := stateDir(runtime.GOOS, os.Geteuid() == 0, env)
		if dir == "" {
			fail("state.dir", "auto finds no directory, because neither STATE_DIRECTORY nor a home directory is set", "write a directory")
		}
		c.State.Dir = dir
	}
	if c.Admin.TokenFile == "auto" {
		c.Admin.TokenFile = strings.TrimRight(c.State.Dir, `/\`) + string(os.PathSeparator) + "admin.token"
	}
	return errs
}

func setUsersFile(c *Config, path, text string) *problem {
	var v value
	var lines []int
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			v, lines = append(v, line), append(lines, i+1)
		}
	}
	if len(v) == 0 {
		return bad("write a line name:key for each user", "%s has no users", path)
	}
	if pr := setUsers(c, v); pr != nil {
		pr.what = fmt.Sprintf("%s line %d: %s", path, lines[pr.item], pr.what)
		return pr
	}
	return nil
}

// stateDir is where state lives by default: what systemd made, else the system's directory for root, else the user's.
func stateDir(goos string, root bool, env map[string]string) string {
	if dirs := env["STATE_DIRECTORY"]; dirs != "" {
		first, _, _ := strings.Cut(dirs, ":") // systemd.exec(5): several are separated by colons
		return first
	}
	under := func(dir, path string) string {
		if dir == "" {
			return ""
		}
		return strings.TrimRight(dir, `/\`) + path
	}
	switch {
	case goos == "windows":
		return under(env["LOCALAPPDATA"], `\stile`)
	case root && goos == "darwin":
		return "/Library/Application Support/stile"
	case root:
		return "/var/lib/stile"
	case goos == "darwin":
		return under(env["HOME"], "/Library/Application Support/stile")
	case env["XDG_STATE_HOME"] != "":
		return under(env["XDG_STATE_HOME"], "/stile")
	}
	return under(env["HOME"], "/.local/state/stile")
}

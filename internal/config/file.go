package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parseFile reads the YAML of a configuration into values by key. It walks the nodes itself, because only they have lines.
func parseFile(path string, b []byte) (layer, Errors) {
	p := &fileParser{path: path, found: layer{}}
	d := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return p.found, nil // empty, or comments only
	case err != nil:
		p.syntax(err)
		return p.found, p.errs
	}
	p.group(doc.Content[0], "")
	var more yaml.Node
	if err := d.Decode(&more); err == nil {
		p.fail("", more.Line, bad("write one document", "the file has a second document"))
	} else if !errors.Is(err, io.EOF) {
		p.syntax(err)
	}
	return p.found, p.errs
}

type fileParser struct {
	path  string
	found layer
	errs  Errors
}

func (p *fileParser) fail(key string, line int, pr *problem) {
	p.errs = append(p.errs, &Error{Key: key, Problem: pr.what, Remedy: pr.remedy, Origin: Origin{Kind: File, Name: p.path, Line: line}})
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntax reports what the YAML library found, with its line as ours.
func (p *fileParser) syntax(err error) {
	text, line := err.Error(), 0
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		text = text[len(m[0]):]
		line, _ = strconv.Atoi(m[1])
	}
	if strings.HasPrefix(text, "unknown anchor") {
		text = "an alias has no anchor" // the library names it, and *x may be the beginning of a secret
	}
	p.fail("", line, bad(`check the indentation, and put values with special characters in "quotes"`, "the file is not YAML: %s", text))
}

// group reads a mapping of keys. name is its own key, "" at the top.
func (p *fileParser) group(n *yaml.Node, name string) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return // a group whose keys are all commented out
	case n.Kind != yaml.MappingNode && name == "":
		p.fail("", n.Line, bad("write keys and values, as in configs/stile.yaml", "the file holds no keys"))
		return
	case n.Kind != yaml.MappingNode:
		p.fail(name, n.Line, bad("write its keys below it, indented", "it is a group of keys, not a value"))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
			p.fail(name, k.Line, bad("write the keys out", "aliases and merge keys are not read"))
			continue
		}
		full := k.Value
		if name != "" {
			full = name + "." + full
		}
		if line, twice := seen[k.Value]; twice {
			p.fail(full, k.Line, bad("remove one of them", "it is on line %d already", line))
			continue
		}
		seen[k.Value] = k.Line
		dotted := name == "" && strings.Contains(k.Value, ".")
		switch known := keyByName[full]; {
		case known != nil && !dotted:
			p.value(known, v)
		case groups[full] && !dotted:
			p.group(v, full)
		default:
			p.fail(full, k.Line, unknownKey(name, k.Value))
		}
	}
}

func (p *fileParser) value(k *key, n *yaml.Node) {
	e := entry{origin: Origin{Kind: File, Name: p.path, Line: n.Line}}
	switch {
	case n.Kind == yaml.AliasNode:
		p.fail(k.name, n.Line, bad("write the value out", "aliases are not read"))
		return
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		p.fail(k.name, n.Line, bad("write a value, or remove the line for the default", "it has no value"))
		return
	case !k.kind.list():
		text, pr := scalar(k, n)
		if pr != nil {
			p.fail(k.name, n.Line, pr)
			return
		}
		e.value = value{text}
	case n.Kind != yaml.SequenceNode:
		form := "write a list, one item on a line after a hyphen"
		if k.kind == listKind && n.Kind == yaml.ScalarNode && !tagged(n) {
			form = "write [" + strconv.Quote(n.Value) + "]"
		}
		p.fail(k.name, n.Line, bad(form, "it is not a list"))
		return
	default:
		e.value = value{}
		good := true
		for _, item := range n.Content {
			read := scalar
			if k.kind == usersKind {
				read = user
			}
			text, pr := read(k, item)
			if pr != nil {
				p.fail(k.name, item.Line, pr)
				good = false
				continue
			}
			e.value, e.lines = append(e.value, text), append(e.lines, item.Line)
		}
		if !good {
			return
		}
	}
	p.found[k.name] = e
}

// tagged reports an explicit tag of the file's own, which is what !1900 without quotes is.
func tagged(n *yaml.Node) bool {
	return strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!")
}

// scalar returns the text of a single value of the key's type.
func scalar(k *key, n *yaml.Node) (string, *problem) {
	quoted := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0
	switch {
	case n.Kind == yaml.AliasNode:
		return "", bad("write the value out", "aliases are not read")
	case tagged(n):
		return "", bad(fmt.Sprintf("put it in quotes: %q", strings.TrimSpace(n.Tag+" "+n.Value)), "%s without quotes is a YAML tag, not a value", n.Tag)
	case n.Kind != yaml.ScalarNode:
		return "", bad("write one value", "it is a list or a group where one value belongs")
	case n.Tag == "!!null":
		return "", bad("write a value, or remove the item", "an item is empty")
	case quoted && (k.kind == numberKind || k.kind == boolKind):
		if k.secret {
			return "", bad("remove the quotes", "it is text, not a %s", k.kind)
		}
		return "", bad("remove the quotes", "%q is text, not a %s", n.Value, k.kind)
	}
	return n.Value, nil
}

// user returns a {name, key} mapping as name:key. No message shows a key.
func user(_ *key, n *yaml.Node) (string, *problem) {
	const form = "write {name: NAME, key: KEY}"
	if n.Kind != yaml.MappingNode {
		return "", bad(form, "a user is not a name and a key")
	}
	fields := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		_, twice := fields[k.Value]
		switch {
		case k.Value != "name" && k.Value != "key":
			return "", bad(form, "a user has the unknown field %q", k.Value)
		case twice:
			return "", bad(form, "a user has the field %s twice", k.Value)
		case v.Kind != yaml.ScalarNode || v.Tag == "!!null" || tagged(v):
			return "", bad(form+`, in "quotes" if it has special characters`, "the %s of a user is not text", k.Value)
		}
		fields[k.Value] = v.Value
	}
	name, key := fields["name"], fields["key"]
	switch {
	case name == "":
		return "", bad(form, "a user has no name")
	case key == "":
		return "", bad(form, "user %q has no key", name)
	case strings.Contains(name, ":"):
		return "", bad("write a name without it; time-limited credentials use it", "user %q has a colon in the name", name)
	}
	return name + ":" + key, nil
}

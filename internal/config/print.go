package config

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// shown is the value as it is printed: secrets hidden, and those that came from a file of their own left to that file.
func (k *key) shown(c *Config) value {
	v := k.get(c)
	auth := &c.Turn.Auth
	if k.name == "turn.auth.secret" && auth.SecretFile != "" {
		return value{""}
	}
	if k.name == "turn.auth.users" && auth.UsersFile != "" {
		return value{}
	}
	if !k.secret {
		return v
	}
	v = slices.Clone(v)
	for i, item := range v {
		if name, _, ok := strings.Cut(item, ":"); ok && k.kind == usersKind {
			v[i] = name + ":" + hidden
		} else if item != "" {
			v[i] = hidden
		}
	}
	return v
}

// Print writes the effective configuration as YAML, every key, secrets hidden. With origins each value has a comment that says where it came from.
func Print(w io.Writer, c *Config, origins bool) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	at := map[string]*yaml.Node{"": root}
	var group func(name string) *yaml.Node
	group = func(name string) *yaml.Node {
		if at[name] == nil {
			parent, last := splitName(name)
			at[name] = &yaml.Node{Kind: yaml.MappingNode}
			up := group(parent)
			up.Content = append(up.Content, text(last), at[name])
		}
		return at[name]
	}
	for i := range keys {
		k := &keys[i]
		parent, last := splitName(k.name)
		name, n := text(last), k.node(k.shown(c))
		if origins {
			commented := n
			if n.Kind == yaml.SequenceNode && len(n.Content) > 0 {
				commented = name // a comment behind a block list would stand behind its last item
			}
			commented.LineComment = c.origins[k.name].String()
		}
		to := group(parent)
		to.Content = append(to.Content, name, n)
	}
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(root); err != nil {
		return fmt.Errorf("config: print: %w", err)
	}
	return e.Close()
}

func text(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

// node writes a value in the type that a file must have.
func (k *key) node(v value) *yaml.Node {
	scalar := func(s string) *yaml.Node {
		n := text(s)
		switch k.kind {
		case numberKind:
			n.Tag = "!!int"
		case boolKind:
			n.Tag = "!!bool"
		}
		return n
	}
	if !k.kind.list() {
		return scalar(v[0])
	}
	list := &yaml.Node{Kind: yaml.SequenceNode}
	if len(v) == 0 {
		list.Style = yaml.FlowStyle
	}
	for _, item := range v {
		if k.kind != usersKind {
			list.Content = append(list.Content, scalar(item))
			continue
		}
		name, secret, _ := strings.Cut(item, ":")
		list.Content = append(list.Content, &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle,
			Content: []*yaml.Node{text("name"), text(name), text("key"), text(secret)}})
	}
	return list
}

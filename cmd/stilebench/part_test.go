package main

import "testing"

func TestAPartReplacesTheOneWithItsTitle(t *testing.T) {
	page := replacePart("# Benchmarks\n\nBy hand.\n", "A", "## A\n\none\n")
	page = replacePart(page, "B", "## B\n")
	page += "\nBehind.\n"
	if got := replacePart(page, "A", "## A\n\ntwo"); got != `# Benchmarks

By hand.

<!-- begin: A -->
## A

two
<!-- end: A -->

<!-- begin: B -->
## B
<!-- end: B -->

Behind.
` {
		t.Errorf("%s", got)
	}
	if again := replacePart(page, "A", "## A\n\none\n"); again != page {
		t.Errorf("the same part changes the page:\n%s", again)
	}
}

func TestACommandMayBeginWithAPreset(t *testing.T) {
	got, err := parseServerSpec("socket={stile} --turn.engine socket")
	if err != nil || got.Name != "socket" || got.Command != presets["stile"]+" --turn.engine socket" {
		t.Errorf("%+v, %v", got, err)
	}
}

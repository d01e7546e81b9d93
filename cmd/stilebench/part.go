package main

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

// writePart puts text into the page at path: between the marks of that title, which stay, or at the end of the page with new marks.
// What people wrote around the parts is kept.
func writePart(path, title, text string) error {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, []byte(replacePart(string(b), title, text)), 0o644)
}

func replacePart(page, title, text string) string {
	begin, end := "<!-- begin: "+title+" -->\n", "<!-- end: "+title+" -->\n"
	part := begin + strings.TrimSpace(text) + "\n" + end
	if before, rest, ok := strings.Cut(page, begin); ok {
		if _, after, ok := strings.Cut(rest, end); ok {
			return before + part + after
		}
	}
	if page != "" {
		page = strings.TrimRight(page, "\n") + "\n\n"
	}
	return page + part
}

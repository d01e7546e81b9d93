package mmscfg

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
)

// Location is a place where a player looks for its mms.cfg.
type Location struct {
	Path     string // with the separators of its system
	Player   string // which player reads it there, in words
	Expanded bool   // false: Path still holds a variable such as %WINDIR%, because its value was not known
}

// Locations returns where mms.cfg lives on a system, the players that most have first. goos is a GOOS value; a system that never had a player has none.
// env looks a variable up as os.Getenv does; nil, or an empty answer, leaves the variable in the path, which is right for telling somebody about
// another machine.
func Locations(goos string, env func(string) string) []Location {
	if env == nil {
		env = func(string) string { return "" }
	}
	const pepper = "Pepper Data/Shockwave Flash/System/mms.cfg"
	// place joins a variable's value and a path. symbol stands for an unknown value.
	place := func(player, variable, symbol, path string) Location {
		l := Location{Player: player, Path: path, Expanded: true}
		if variable != "" {
			value := strings.TrimRight(env(variable), `/\`)
			if l.Expanded = value != ""; !l.Expanded {
				value = symbol
			}
			l.Path = value + "/" + path
		}
		if goos == "windows" {
			l.Path = strings.ReplaceAll(l.Path, "/", `\`)
		}
		return l
	}
	switch goos {
	case "windows":
		return []Location{
			place("32-bit players on 64-bit Windows", "WINDIR", "%WINDIR%", "SysWow64/Macromed/Flash/mms.cfg"),
			place("64-bit players, and all on 32-bit Windows", "WINDIR", "%WINDIR%", "System32/Macromed/Flash/mms.cfg"),
			place("Google Chrome's own player (default profile)", "LOCALAPPDATA", "%LOCALAPPDATA%", "Google/Chrome/User Data/Default/"+pepper),
		}
	case "darwin":
		return []Location{
			place("all players", "", "", "/Library/Application Support/Macromedia/mms.cfg"),
			place("Google Chrome's own player (default profile)", "HOME", "~", "Library/Application Support/Google/Chrome/Default/"+pepper),
		}
	case "linux":
		return []Location{
			place("all players", "", "", "/etc/adobe/mms.cfg"),
			place("Google Chrome's own player (default profile)", "HOME", "~", ".config/google-chrome/Default/"+pepper),
			place("Chromium's own player (default profile)", "HOME", "~", ".config/chromium/Default/"+pepper),
		}
	}
	return nil
}

// Read reads and parses the file at path. Errors: those of opening and reading it, and [ErrTooLarge], wrapped.
func Read(path string) (*File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("mmscfg: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("mmscfg: %w", err)
	}
	f, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// ReadLocal reads the file of this machine: the first of its [Locations] that exists. The error wraps fs.ErrNotExist when none does.
func ReadLocal() (*File, Location, error) { return readFirst(Locations(runtime.GOOS, os.Getenv)) }

func readFirst(locations []Location) (*File, Location, error) {
	for _, l := range locations {
		if !l.Expanded {
			continue
		}
		f, err := Read(l.Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return f, l, err
	}
	return nil, Location{}, fmt.Errorf("mmscfg: this machine has no mms.cfg: %w", fs.ErrNotExist)
}

package logging

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// Config says where the log goes and how it looks.
type Config struct {
	Out      io.Writer
	Terminal bool   // Out is a terminal: colours, and console under auto
	Level    string // trace, debug, info, warn or error; empty: info
	Format   string // auto, json or console; empty: auto
}

// Log is a zerolog.Logger whose level can be changed. It is safe for concurrent use; a line is one Write.
type Log struct {
	zerolog.Logger
	bare  zerolog.Logger // without the hook that says what time it is
	level *level
}

// New makes the log. Its errors name the key of the configuration.
func New(cfg Config) (*Log, error) {
	out := zerolog.SyncWriter(cfg.Out)
	switch cfg.Format {
	case "json":
	case "console":
		out = console(cfg)
	case "auto", "":
		if cfg.Terminal {
			out = console(cfg)
		}
	default:
		return nil, fmt.Errorf("log.format: %q is no format: write auto, json or console", cfg.Format)
	}
	l := &Log{level: new(level)}
	if err := l.SetLevel(cfg.Level); err != nil {
		return nil, err
	}
	l.bare = zerolog.New(out).Level(zerolog.TraceLevel).Sample(l.level)
	l.Logger = l.bare.Hook(clock{})
	return l, nil
}

// SetLevel changes the least severity that is written, also in loggers that were derived before. Empty means info.
func (l *Log) SetLevel(name string) error {
	switch name {
	case "":
		name = "info"
	case "trace", "debug", "info", "warn", "error":
	default:
		return fmt.Errorf("log.level: %q is no level: write trace, debug, info, warn or error", name)
	}
	lvl, err := zerolog.ParseLevel(name)
	if err != nil {
		return fmt.Errorf("log.level: %w", err)
	}
	l.level.Store(int32(lvl))
	return nil
}

// level is a sampler because zerolog asks one before it builds an event, and copies of a logger share it.
type level struct{ atomic.Int32 }

// Sample implements zerolog.Sampler.
func (l *level) Sample(lvl zerolog.Level) bool { return lvl >= zerolog.Level(l.Load()) }

const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// clock says what time it is. zerolog's own Timestamp is as fine as a package variable of zerolog's says: a second.
type clock struct{}

// Run implements zerolog.Hook.
func (clock) Run(e *zerolog.Event, _ zerolog.Level, _ string) { stamp(e, time.Now()) }

func stamp(e *zerolog.Event, t time.Time) { e.Str(FieldTime, t.UTC().Format(timeFormat)) }

func console(cfg Config) io.Writer {
	return zerolog.SyncWriter(zerolog.ConsoleWriter{
		Out: cfg.Out, NoColor: !cfg.Terminal, TimeFormat: "15:04:05.000", TimeLocation: time.Local, FieldsOrder: Fields,
	})
}

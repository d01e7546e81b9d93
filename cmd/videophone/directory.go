package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Ours to tune.
const (
	directoryPort    = "8935"
	directoryTimeout = 5 * time.Second
	maxDirectoryPage = 64 << 10
	// directoryRefresh is how often a name is taken again: the sample's service forgot a name after an hour, ours when its peer leaves.
	directoryRefresh = 60 * time.Second
	// maxLookups is how many names are asked for at once; ours takes 16.
	maxLookups = 16
)

// Errors of a directory.
var (
	errNameRefused = errors.New("the directory does not give the name: somebody has it, or the request did not come from this phone's address")
	errNotOnline   = errors.New("nobody of this name is online")
)

// directory is the ID exchange of the VideoPhone sample over HTTP: names to peer IDs, and nothing else. It proves nothing; the keys of
// friends do.
type directory struct {
	base   string // such as http://127.0.0.1:8935/
	client *http.Client
}

func newDirectory(base string) *directory {
	return &directory{base, &http.Client{Timeout: directoryTimeout}}
}

// directoryAnswer is the XML of the service.
type directoryAnswer struct {
	Update string `xml:"update"`
	Friend []struct {
		User     string `xml:"user"`
		Identity string `xml:"identity"`
	} `xml:"friend"`
}

func (d *directory) ask(ctx context.Context, query url.Values) (directoryAnswer, error) {
	var a directoryAnswer
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.base+"?"+query.Encode(), nil)
	if err != nil {
		return a, err
	}
	res, err := d.client.Do(req)
	if err != nil {
		return a, fmt.Errorf("the directory does not answer: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return a, fmt.Errorf("the directory answers %s", res.Status)
	}
	if err := xml.NewDecoder(io.LimitReader(res.Body, maxDirectoryPage)).Decode(&a); err != nil {
		return a, fmt.Errorf("the directory's answer makes no sense: %w", err)
	}
	return a, nil
}

// register takes a name for our peer ID, or refreshes it. The error is errNameRefused, or says what went wrong.
func (d *directory) register(ctx context.Context, name, id string) error {
	a, err := d.ask(ctx, url.Values{"username": {name}, "identity": {id}})
	if err != nil {
		return err
	}
	if ok, _ := strconv.ParseBool(strings.TrimSpace(a.Update)); !ok {
		return errNameRefused
	}
	return nil
}

// release gives a name back; identity 0 is how the sample said it.
func (d *directory) release(ctx context.Context, name string) error {
	return d.register(ctx, name, "0")
}

// lookup finds who of the names is online. A peer ID that is none is left out.
func (d *directory) lookup(ctx context.Context, names []string) (map[string]string, error) {
	online := map[string]string{}
	for len(names) > 0 {
		n := min(len(names), maxLookups)
		a, err := d.ask(ctx, url.Values{"friends": names[:n]})
		if err != nil {
			return online, err
		}
		for _, f := range a.Friend {
			if id := strings.ToLower(strings.TrimSpace(f.Identity)); isPeerID(id) {
				online[f.User] = id
			}
		}
		names = names[n:]
	}
	return online, nil
}

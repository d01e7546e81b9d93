package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// sampleService answers as the web service of the sample did.
func sampleService(t *testing.T, have map[string]string) *directory {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if name := q.Get("username"); name != "" {
			have[name] = q.Get("identity")
			fmt.Fprintf(w, "<?xml version=\"1.0\"?>\n<result><update>%v</update></result>", name != "taken")
			return
		}
		fmt.Fprint(w, "<result>")
		if len(q["friends"]) > 16 {
			http.Error(w, "too many", http.StatusBadRequest)
			return
		}
		for _, f := range q["friends"] {
			fmt.Fprintf(w, "<friend><user>%s</user>", f)
			if id := have[f]; id != "" {
				fmt.Fprintf(w, "<identity>%s</identity>", id)
			}
			fmt.Fprint(w, "</friend>")
		}
		fmt.Fprint(w, "</result>")
	}))
	t.Cleanup(s.Close)
	return newDirectory(s.URL + "/")
}

func TestDirectoryRegistersAndFinds(t *testing.T) {
	have := map[string]string{"bad": "not an id", "loud": strings.ToUpper(id("e"))}
	d := sampleService(t, have)
	if err := d.register(t.Context(), "ann", id("a")); err != nil || have["ann"] != id("a") {
		t.Fatalf("%v, %v", err, have)
	}
	names := []string{"ann", "bad", "loud", "nobody"}
	for i := range 30 {
		names = append(names, fmt.Sprint("more", i))
	}
	online, err := d.lookup(t.Context(), names)
	if err != nil || len(online) != 2 || online["ann"] != id("a") || online["loud"] != id("e") {
		t.Errorf("%v, %v", online, err)
	}
	if err := d.register(t.Context(), "taken", id("b")); !errors.Is(err, errNameRefused) {
		t.Errorf("%v", err)
	}
	if err := d.release(t.Context(), "ann"); err != nil || have["ann"] != "0" {
		t.Errorf("%v, %v", err, have)
	}
}

func TestDirectorySaysWhatIsWrong(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/down") {
			http.Error(w, "no", http.StatusServiceUnavailable)
		} else {
			fmt.Fprint(w, "<html>")
		}
	}))
	defer s.Close()
	for _, c := range []struct{ path, want string }{{"/down", "503"}, {"/page", "makes no sense"}} {
		if _, err := newDirectory(s.URL+c.path).lookup(t.Context(), []string{"a"}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.path, err)
		}
	}
	s.Close()
	if err := newDirectory(s.URL+"/").register(t.Context(), "a", id("a")); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("%v", err)
	}
}

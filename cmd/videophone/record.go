package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/stilenet/stile/rtmfp/flash"
)

// recorder writes what a peer sends to an FLV file, tag by tag as it came. What cannot be shown is recorded all the same.
type recorder struct {
	path string
	file *os.File
	w    *bufio.Writer
	flv  *flash.FLVWriter
	err  error // the first one; nothing is written after it
}

// newRecorder makes the file for the nth call of this run: F.flv, F-2.flv, …
func newRecorder(path string, nth int) (*recorder, error) {
	if nth > 1 {
		ext := filepath.Ext(path)
		path = fmt.Sprintf("%s-%d%s", strings.TrimSuffix(path, ext), nth, ext)
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("videophone: --record: %w", err)
	}
	r := &recorder{path: path, file: f, w: bufio.NewWriter(f)}
	if r.flv, err = flash.NewFLVWriter(r.w, true, true); err != nil {
		f.Close()
		return nil, fmt.Errorf("videophone: --record: %w", err)
	}
	return r, nil
}

// write takes a message. This program's own calls, and what Flash Player sends at a stream's begin, are not part of what was published.
func (r *recorder) write(m flash.Message) {
	if r.err != nil {
		return
	}
	switch m.Type {
	case flash.MessageAudio, flash.MessageVideo:
	case flash.MessageDataAMF0:
		if d, err := flash.ParseData(m); err == nil && isCallFunction(d.Handler) {
			return
		}
	default:
		return
	}
	r.err = r.flv.WriteTag(m)
}

// flush makes what was written readable by others.
func (r *recorder) flush() {
	if err := r.w.Flush(); r.err == nil {
		r.err = err
	}
}

func (r *recorder) close() error {
	r.flush()
	if err := errors.Join(r.err, r.file.Close()); err != nil {
		return fmt.Errorf("videophone: --record %s: %w", r.path, err)
	}
	return nil
}

// callFunctions are what peers call by send().
var callFunctions = []string{onIncomingCall, onCallAccepted, onIm, onCallRefused, onMember, onCodecs, onVerify1, onVerify2, onVerify3, onIdentity, onNeedKey}

func isCallFunction(name string) bool {
	if name == "|RtmpSampleAccess" {
		return true
	}
	for _, f := range callFunctions {
		if f == name {
			return true
		}
	}
	return false
}

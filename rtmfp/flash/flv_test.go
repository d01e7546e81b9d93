package flash

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// flvFile is written by hand after annex E: the header, a script tag, an audio tag past 2^24 ms, an empty video tag.
var flvFile = []byte("FLV\x01\x05\x00\x00\x00\x09\x00\x00\x00\x00" +
	"\x12\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01x\x00\x00\x00\x0f" +
	"\x08\x00\x00\x03\x02\x03\x04\x01\x00\x00\x00\xb2ab\x00\x00\x00\x0e" +
	"\x09\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x0b")

var flvTags = []Message{
	{MessageDataAMF0, 0, []byte("\x02\x00\x01x")},
	{MessageAudio, 0x01020304, []byte("\xb2ab")},
	{MessageVideo, 0xffffffff, nil},
}

func readFLV(b []byte) (tags []Message, err error) {
	r := NewFLVReader(bytes.NewReader(b))
	for {
		t, err := r.Next()
		if err != nil {
			return tags, err
		}
		t.Payload = bytes.Clone(t.Payload)
		tags = append(tags, t)
	}
}

func sameTags(a, b []Message) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Type != b[i].Type || a[i].Timestamp != b[i].Timestamp || !bytes.Equal(a[i].Payload, b[i].Payload) {
			return false
		}
	}
	return true
}

func TestFLVReaderReadsTheTagsOfAFile(t *testing.T) {
	got, err := readFLV(flvFile)
	if !errors.Is(err, io.EOF) || !sameTags(got, flvTags) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestFLVWriterWritesTheSameBytes(t *testing.T) {
	var b bytes.Buffer
	w, err := NewFLVWriter(&b, true, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range flvTags {
		if err := w.WriteTag(tag); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(b.Bytes(), flvFile) {
		t.Errorf("%x\nwant\n%x", b.Bytes(), flvFile)
	}
	for _, bad := range []Message{{Type: 20}, {Type: MessageVideo, Payload: make([]byte, 1<<24)}} {
		if err := w.WriteTag(bad); !errors.Is(err, ErrFLVTag) {
			t.Errorf("type %d of %d bytes: %v", bad.Type, len(bad.Payload), err)
		}
	}
	if b.Len() != len(flvFile) {
		t.Error("a refused tag was written")
	}
}

func TestTruncatedFLVGivesItsWholeTagsAndThenAnError(t *testing.T) {
	ends := map[int]int{13: 0} // bytes after which a file may end, and how many tags it then has
	at := 13
	for i, tag := range flvTags {
		at += 11 + len(tag.Payload)
		for cut := range 4 { // PreviousTagSize may be missing
			ends[at+cut] = i + 1
		}
		at += 4
		ends[at] = i + 1
	}
	for n := range flvFile {
		tags, err := readFLV(flvFile[:n])
		whole, border := ends[n]
		switch {
		case n < 9:
			if !errors.Is(err, ErrNotFLV) {
				t.Errorf("%d bytes: %v", n, err)
			}
		case n < 13, border:
			if !errors.Is(err, io.EOF) || !sameTags(tags, flvTags[:whole]) {
				t.Errorf("%d bytes: %d tags, %v", n, len(tags), err)
			}
		case !errors.Is(err, ErrFLVTruncated) || !sameTags(tags, flvTags[:len(tags)]):
			t.Errorf("%d bytes: %d tags, %v", n, len(tags), err)
		}
	}
}

func TestFLVReaderRefusesWhatItCannotPlay(t *testing.T) {
	edit := func(at int, with string) []byte {
		b := bytes.Clone(flvFile)
		copy(b[at:], with)
		return b
	}
	for _, c := range []struct {
		name string
		file []byte
		want error
		tags int
	}{
		{"another format", []byte("RIFF....AVI LIST"), ErrNotFLV, 0},
		{"version 0", edit(3, "\x00"), ErrNotFLV, 0},
		{"a header of 8 bytes", edit(5, "\x00\x00\x00\x08"), ErrNotFLV, 0},
		{"a header of 4 GiB", edit(5, "\xff\xff\xff\xff"), ErrNotFLV, 0},
		{"an encrypted tag", edit(13, "\x32"), ErrFLVTag, 0},
		{"a tag of 16 MiB", edit(32+1, "\xff\xff\xff"), ErrFLVTag, 1},
		{"a tag of 3 MiB in a short file", edit(32+1, "\x30\x00\x00"), ErrFLVTruncated, 1},
		{"a reserved type, passed over", edit(13, "\x0f"), io.EOF, 2},
		{"wrong back pointers", edit(28, "\xff\xff\xff\xff"), io.EOF, 3},
	} {
		tags, err := readFLV(c.file)
		if !errors.Is(err, c.want) || len(tags) != c.tags {
			t.Errorf("%s: %d tags, %v", c.name, len(tags), err)
		}
	}
}

// FuzzFLV holds that a file of anybody's gives only tags that a file can hold, and that they survive being written.
func FuzzFLV(f *testing.F) {
	f.Add(flvFile)
	f.Fuzz(func(t *testing.T, b []byte) {
		tags, err := readFLV(b)
		if err == nil {
			t.Fatal("no end")
		}
		if sum := 9 + len(tags)*11; sum > len(b) && len(tags) > 0 {
			t.Fatalf("%d tags of %d bytes", len(tags), len(b))
		}
		var out bytes.Buffer
		w, _ := NewFLVWriter(&out, true, true)
		for _, tag := range tags {
			if err := w.WriteTag(tag); err != nil {
				t.Fatal(err)
			}
		}
		if again, err := readFLV(out.Bytes()); !errors.Is(err, io.EOF) || !sameTags(tags, again) {
			t.Fatalf("%v, %v became %v", err, tags, again)
		}
	})
}

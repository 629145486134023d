package rdbstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/iotest"
)

// FuzzReader feeds anything: there is no panic, what is read does not depend on how the bytes come in, no byte is counted that is not
// there, and each key's payload has the size that was said.
func FuzzReader(f *testing.F) {
	for _, p := range goldens(f) {
		if len(p) < 8<<10 {
			f.Add(p)
		}
	}
	for _, magic := range []string{"REDIS0012", "REDIS0015", "VALKEY080"} {
		f.Add(everything(magic))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		br := bufio.NewReaderSize(bytes.NewReader(p), 64<<10)
		r := NewReader(br)
		got, err := readAll(r)
		left, _ := io.Copy(io.Discard, br)
		if r.Offset()+left != int64(len(p)) {
			t.Fatalf("%d bytes read and %d left of %d", r.Offset(), left, len(p))
		}
		again, errAgain := readAll(NewReader(bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(p)), 16)))
		if !reflect.DeepEqual(got, again) {
			t.Fatalf("byte by byte: %+v, whole: %+v", again, got)
		}
		if (err == nil) != (errAgain == nil) || err != nil && err.Error() != errAgain.Error() {
			t.Fatalf("byte by byte: %v, whole: %v", errAgain, err)
		}
		last := int64(0)
		for i := range got {
			e := &got[i]
			if e.Offset < last || e.End <= e.Offset || e.End > r.Offset() {
				t.Fatalf("entry from %d to %d, behind %d", e.Offset, e.End, last)
			}
			last = e.End
			if e.Kind != KindKey {
				continue
			}
			dst, err := AppendDump(nil, e)
			if err != nil && !errors.Is(err, ErrNotDumpable) || err == nil && len(dst) != DumpSize(e) {
				t.Fatalf("dump of %d bytes, %v", len(dst), err)
			}
		}
	})
}

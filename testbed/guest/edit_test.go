package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestApplyWritesReplacesRemovesAndAppends(t *testing.T) {
	var before bytes.Buffer
	w := tar.NewWriter(&before)
	for _, entry := range []struct{ name, text string }{
		{"./usr/lib/libx.so", "x"}, {"./usr/bin/old", "old"}, {"./usr/share/doc/a", "a"}, {"./etc/keep", "kept"},
	} {
		if err := w.WriteHeader(&tar.Header{Name: entry.name, Typeflag: tar.TypeReg, Mode: 0o644,
			Size: int64(len(entry.text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, entry.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	packed := before.Bytes()
	var after bytes.Buffer
	err := Apply(bytes.NewReader(packed), &after, []Edit{
		Append("/libx.so", "\x00"), Write("usr/bin/old", 0o755, "new"), Remove("usr/share/doc"),
		Link("usr/lib/new/link", "../libx.so"),
		Copy("usr/lib/copy", "usr/lib/libx.so", "+"),
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for r := tar.NewReader(&after); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[header.Name] = string(text) + header.Linkname
	}
	for name, text := range map[string]string{
		"./usr/lib/libx.so": "x\x00", "usr/bin/old": "new", "./etc/keep": "kept", "usr/lib/new/link": "../libx.so",
		"usr/lib/new/": "", "usr/lib/copy": "x+",
	} {
		if have, there := got[name]; !there || have != text {
			t.Errorf("%s is %q (%v), want %q", name, have, there, text)
		}
	}
	if _, there := got["./usr/share/doc/a"]; there {
		t.Error("a removed directory is still there")
	}
	err = Apply(bytes.NewReader(packed), io.Discard, []Edit{Append("/liby.so", "\x00")})
	if err == nil || !strings.Contains(err.Error(), "liby") {
		t.Errorf("an edit of a file that is not there: %v", err)
	}
}

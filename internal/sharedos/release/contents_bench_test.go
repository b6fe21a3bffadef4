package release

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// BenchmarkDiffContents compares two lists of ten thousand entries each, of which half differ.
func BenchmarkDiffContents(b *testing.B) {
	list := func(version string) []byte {
		entries := []tree.Entry{{Path: tree.Root, Type: tree.Directory, Mode: 0o755},
			{Path: "usr", Type: tree.Directory, Mode: 0o755}}
		for i := range 10_000 {
			content := fmt.Sprint("same", i)
			if i%2 == 0 {
				content = version
			}
			entries = append(entries, tree.Entry{
				Path: fmt.Sprintf("usr/lib-x86_64-linux-gnu-package-%05d.so.0.14.0", i), Type: tree.Regular,
				Mode: 0o644, Size: 4711, Digest: digestOf(content),
			})
		}
		var text bytes.Buffer
		if _, err := WriteContents(&text, entries); err != nil {
			b.Fatal(err)
		}
		return text.Bytes()
	}
	old, new := list("old"), list("new")
	b.ReportAllocs()
	for b.Loop() {
		count := 0
		err := DiffContents(bytes.NewReader(old), bytes.NewReader(new),
			func(string, *tree.Entry, *tree.Entry) error { count++; return nil })
		if err != nil || count != 5_000 {
			b.Fatal(count, err)
		}
	}
}

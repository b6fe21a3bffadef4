package release

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// drawEntries draws the entries of a small tree with unusual names and all kinds of attributes.
func drawEntries(t *rapid.T, label string) []tree.Entry {
	name := rapid.OneOf(rapid.SampledFrom([]string{"a", "b", "a-b", "-", "!", "a b", "%41", "a=b", "é",
		"\xff\xfe", "\n", "..."}),
		rapid.Map(rapid.SliceOfN(rapid.ByteRange(1, 255), 1, 4), func(b []byte) string {
			return strings.ReplaceAll(string(b), "/", "_") + "x"
		}))
	entries := []tree.Entry{{Path: tree.Root, Type: tree.Directory, Mode: 0o755}}
	directories := []string{""}
	taken := map[string]bool{}
	for range rapid.IntRange(0, 12).Draw(t, label+" entries") {
		e := tree.Entry{
			Path: rapid.SampledFrom(directories).Draw(t, "parent") + name.Draw(t, "name"),
			Type: tree.Type(rapid.IntRange(int(tree.Directory), int(tree.FIFO)).Draw(t, "type")),
			Mode: rapid.Uint32Range(0, 0o7777).Draw(t, "mode"),
			UID:  rapid.Uint32().Draw(t, "uid"), GID: rapid.Uint32().Draw(t, "gid"),
		}
		if taken[e.Path] {
			continue
		}
		taken[e.Path] = true
		switch e.Type {
		case tree.Directory:
			directories = append(directories, e.Path+"/")
		case tree.Regular:
			e.Size = rapid.Int64Range(0, 1<<40).Draw(t, "size")
			e.Digest = digestOf(rapid.StringN(0, 2, 2).Draw(t, "content"))
		case tree.Symlink:
			e.Link = name.Draw(t, "target")
		case tree.CharDevice, tree.BlockDevice:
			e.Major, e.Minor = rapid.Uint32().Draw(t, "major"), rapid.Uint32().Draw(t, "minor")
		}
		if rapid.IntRange(0, 3).Draw(t, "attributes") == 0 {
			e.Xattrs = rapid.MapOfN(rapid.SampledFrom([]string{"user.a", "user.=%", "security.capability"}),
				rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 6), func(b []byte) string { return string(b) }), 1, 3).Draw(t,
				"xattrs")
		}
		entries = append(entries, e)
	}
	made, err := tree.New(entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	return made.Entries
}

func contentsOf(t rapid.TB, entries []tree.Entry) ([]byte, Blob) {
	t.Helper()
	var list bytes.Buffer
	blob, err := WriteContents(&list, entries)
	if err != nil {
		t.Fatal(err)
	}
	return list.Bytes(), blob
}

func TestContentsReadBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := drawEntries(t, "tree")
		list, blob := contentsOf(t, entries)
		if blob.Digest != tree.Sum(list) || blob.Size != int64(len(list)) {
			t.Fatalf("the list is named %v", blob)
		}
		reader := NewContentsReader(Verified(bytes.NewReader(list), blob))
		for _, want := range entries {
			got, err := reader.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !tree.Equal(want, got) {
				t.Fatalf("wrote %+v, read %+v", want, got)
			}
		}
		if _, err := reader.Next(); err != io.EOF {
			t.Fatalf("got %v at the end, want io.EOF", err)
		}
	})
}

func TestDiffContentsReportsExactlyTheDifferences(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, new := drawEntries(t, "old"), drawEntries(t, "new")
		if rapid.Bool().Draw(t, "related") {
			new = append([]tree.Entry(nil), old...)
			for i := range new {
				switch touch := rapid.IntRange(0, 8).Draw(t, "touch"); {
				case touch == 0:
					new[i].Mode ^= 0o1
				case touch == 1 && new[i].Type == tree.Regular:
					new[i].Digest[0] ^= 1
				case touch == 2 && new[i].Type == tree.Symlink:
					new[i].Link += "x"
				case touch == 3:
					new[i].Xattrs = map[string]string{"user.touched": "yes"}
				}
			}
		}
		type change struct{ Old, New tree.Entry }
		want := map[string]change{}
		for _, e := range old {
			want[e.Path] = change{Old: e}
		}
		for _, e := range new {
			before := want[e.Path].Old
			if before.Path != "" && tree.Equal(before, e) {
				delete(want, e.Path)
				continue
			}
			want[e.Path] = change{before, e}
		}
		oldList, _ := contentsOf(t, old)
		newList, _ := contentsOf(t, new)
		got := map[string]change{}
		last := ""
		err := DiffContents(bytes.NewReader(oldList), bytes.NewReader(newList),
			func(path string, old, new *tree.Entry) error {
				if last != "" && tree.Compare(last, path) >= 0 {
					t.Fatalf("%q came after %q", path, last)
				}
				last = path
				var c change
				if old != nil {
					c.Old = *old
				}
				if new != nil {
					c.New = *new
				}
				got[path] = c
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(tree.Equal)); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	})
}

func TestDiffContentsRefusesALineThatIsLikeAGoodOneUpToItsPath(t *testing.T) {
	entries := []tree.Entry{
		{Path: tree.Root, Type: tree.Directory, Mode: 0o755},
		{Path: "a", Type: tree.Regular, Mode: 0o644, Size: 1, Digest: tree.Sum([]byte("a"))},
	}
	good, _ := contentsOf(t, entries)
	for name, change := range map[string][2]string{
		"no size":           {"a 1 ", "a  "},
		"no digest":         {" " + entries[1].Digest.Hex() + "\n", "\n"},
		"a digest cut off":  {entries[1].Digest.Hex() + "\n", entries[1].Digest.Hex()[:63] + "\n"},
		"a field too many":  {entries[1].Digest.Hex() + "\n", entries[1].Digest.Hex() + " more\n"},
		"a size with zeros": {"a 1 ", "a 01 "},
	} {
		bad := strings.Replace(string(good), change[0], change[1], 1)
		if bad == string(good) {
			t.Fatalf("%s: nothing was changed", name)
		}
		for _, lists := range [][2]string{{string(good), bad}, {bad, string(good)}} {
			err := DiffContents(strings.NewReader(lists[0]), strings.NewReader(lists[1]),
				func(string, *tree.Entry, *tree.Entry) error { return nil })
			if !errors.Is(err, ErrContents) {
				t.Errorf("%s: got error %v", name, err)
			}
		}
	}
}

func TestDiffContentsEndsWithTheCallersError(t *testing.T) {
	list, _ := contentsOf(t, []tree.Entry{{Path: ".", Type: tree.Directory, Mode: 0o755}})
	other, _ := contentsOf(t, []tree.Entry{{Path: ".", Type: tree.Directory, Mode: 0o700}})
	stop := errors.New("stop")
	err := DiffContents(bytes.NewReader(list), bytes.NewReader(other),
		func(string, *tree.Entry, *tree.Entry) error { return stop })
	if !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

const (
	rootLine = "d 755 0 0 .\n"
	zeros    = "0000000000000000000000000000000000000000000000000000000000000000"
)

func TestAContentsListHasOneForm(t *testing.T) {
	head := contentsHeader + "\n"
	good := head + rootLine + "f 644 0 0 a 3 " + zeros + " user.a=%00b\nend 2\n"
	if _, err := readAll([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, list := range map[string]string{
		"nothing":                      "",
		"another format":               "contents 1\n" + rootLine + "end 1\n",
		"no entry":                     head + "end 0\n",
		"no end":                       head + rootLine,
		"no newline at the end":        head + rootLine + "end 1",
		"a wrong count":                head + rootLine + "end 2\n",
		"a count with a zero before":   head + rootLine + "end 01\n",
		"bytes after the end":          head + rootLine + "end 1\n\n",
		"no root":                      head + "f 644 0 0 a 3 " + zeros + "\nend 1\n",
		"a root that is a file":        head + "f 644 0 0 . 3 " + zeros + "\nend 1\n",
		"a path twice":                 head + rootLine + "p 644 0 0 a\np 644 0 0 a\nend 3\n",
		"paths out of order":           head + rootLine + "p 644 0 0 b\np 644 0 0 a\nend 3\n",
		"an absolute path":             head + rootLine + "p 644 0 0 /a\nend 2\n",
		"a path that leaves the tree":  head + rootLine + "p 644 0 0 ../a\nend 2\n",
		"a path that is not clean":     head + rootLine + "p 644 0 0 a//b\nend 2\n",
		"an empty path":                head + rootLine + "p 644 0 0 \nend 2\n",
		"an unknown type":              head + rootLine + "s 644 0 0 a\nend 2\n",
		"no type":                      head + rootLine + " 644 0 0 a\nend 2\n",
		"a mode beyond permissions":    head + rootLine + "p 10644 0 0 a\nend 2\n",
		"a mode with a zero before":    head + rootLine + "p 0644 0 0 a\nend 2\n",
		"a uid of 33 bits":             head + rootLine + "p 644 4294967296 0 a\nend 2\n",
		"a number with a sign":         head + rootLine + "p 644 +1 0 a\nend 2\n",
		"a negative size":              head + rootLine + "f 644 0 0 a -1 " + zeros + "\nend 2\n",
		"a size beyond 63 bits":        head + rootLine + "f 644 0 0 a 9223372036854775808 " + zeros + "\nend 2\n",
		"a short digest":               head + rootLine + "f 644 0 0 a 1 00\nend 2\n",
		"a digest in capitals":         head + rootLine + "f 644 0 0 a 1 A" + zeros[1:] + "\nend 2\n",
		"a missing field":              head + rootLine + "f 644 0 0 a 1\nend 2\n",
		"a link without target":        head + rootLine + "l 644 0 0 a \nend 2\n",
		"a target with a NUL":          head + rootLine + "l 644 0 0 a %00\nend 2\n",
		"two spaces":                   head + rootLine + "p 644  0 0 a\nend 2\n",
		"a space at the end":           head + rootLine + "p 644 0 0 a \nend 2\n",
		"a needless escape":            head + rootLine + "p 644 0 0 %61\nend 2\n",
		"an escape in small letters":   head + rootLine + "p 644 0 0 %ff\nend 2\n",
		"half an escape":               head + rootLine + "p 644 0 0 a%F\nend 2\n",
		"a byte that must be escaped":  head + rootLine + "p 644 0 0 \xff\nend 2\n",
		"attributes out of order":      head + rootLine + "p 644 0 0 a user.b=1 user.a=1\nend 2\n",
		"one attribute twice":          head + rootLine + "p 644 0 0 a user.b=1 user.b=1\nend 2\n",
		"an attribute without a name":  head + rootLine + "p 644 0 0 a =1\nend 2\n",
		"an attribute without a value": head + rootLine + "p 644 0 0 a user.a\nend 2\n",
		"a name of 256 bytes":          head + rootLine + "p 644 0 0 " + strings.Repeat("a", 256) + "\nend 2\n",
		"a line without end":           head + rootLine + "p 644 0 0 " + strings.Repeat("a", maxLine+1) + "\nend 2\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := readAll([]byte(list)); !errors.Is(err, ErrContents) {
				t.Errorf("got %v, want ErrContents", err)
			}
		})
	}
}

func TestVerifiedReturnsEOFOnlyForTheBytesOfTheBlob(t *testing.T) {
	blob := blobOf("contents")
	for text, want := range map[string]error{
		"contents": nil, "contentS": ErrContents, "content": ErrContents, "contents ": ErrContents, "": ErrContents,
	} {
		got, err := io.ReadAll(Verified(strings.NewReader(text), blob))
		if !errors.Is(err, want) || int64(len(got)) > blob.Size {
			t.Errorf("%q: read %q, %v; want %v", text, got, err, want)
		}
	}
}

func TestWriteContentsRefusesWhatCannotBeRead(t *testing.T) {
	root := tree.Entry{Path: ".", Type: tree.Directory, Mode: 0o755}
	for name, entries := range map[string][]tree.Entry{
		"nothing":               nil,
		"no root":               {{Path: "a", Type: tree.FIFO}},
		"out of order":          {root, {Path: "b", Type: tree.FIFO}, {Path: "a", Type: tree.FIFO}},
		"no type":               {root, {Path: "b"}},
		"an enormous attribute": {root, {Path: "b", Type: tree.FIFO, Xattrs: map[string]string{"user.a": strings.Repeat("a", MaxXattr+1)}}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := WriteContents(io.Discard, entries); !errors.Is(err, ErrContents) {
				t.Errorf("got %v, want ErrContents", err)
			}
		})
	}
}

func readAll(list []byte) ([]tree.Entry, error) {
	reader := NewContentsReader(bytes.NewReader(list))
	var entries []tree.Entry
	for {
		e, err := reader.Next()
		if err == io.EOF {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
}

func TestAContentsListOfAnotherVersionSaysWhatToDo(t *testing.T) {
	_, err := readAll([]byte("sharedos-contents 2\n" + rootLine + "end 1\n"))
	if !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), `version "2"`) ||
		!strings.Contains(err.Error(), "use the version of the program that wrote it") {
		t.Errorf("got %v, want ErrSchema with both versions and what to do", err)
	}
}

func FuzzContentsReader(f *testing.F) {
	f.Add([]byte(contentsHeader + "\n" + rootLine + "f 644 0 0 a 3 " + zeros + " user.a=%00b\nend 2\n"))
	f.Add([]byte(contentsHeader + "\n" + rootLine + "l 777 0 0 a b\nc 600 0 5 b 4 64\nend 3\n"))
	f.Add([]byte(contentsHeader + "\n" + rootLine + "p 644 0 0 ../a\nend 2\n"))
	f.Fuzz(func(t *testing.T, list []byte) {
		entries, err := readAll(list)
		if err != nil {
			if !errors.Is(err, ErrContents) && !errors.Is(err, ErrSchema) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		var again bytes.Buffer
		if _, err := WriteContents(&again, entries); err != nil || !bytes.Equal(again.Bytes(), list) {
			t.Fatalf("accepted, but not in its one form: %q, %q, %v", list, again.Bytes(), err)
		}
	})
}

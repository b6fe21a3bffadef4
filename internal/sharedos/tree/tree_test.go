package tree_test

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func dir(p string) tree.Entry { return tree.Entry{Path: p, Type: tree.Directory, Mode: 0o755} }

func file(p, content string) tree.Entry {
	return tree.Entry{
		Path: p, Type: tree.Regular, Mode: 0o644, Size: int64(len(content)), Digest: tree.Sum([]byte(content)),
	}
}

func link(p, target string) tree.Entry {
	return tree.Entry{Path: p, Type: tree.Symlink, Mode: 0o777, Link: target}
}

func TestNewSortsTheRootFirst(t *testing.T) {
	got, err := tree.New([]tree.Entry{dir("a"), file("a/b", ""), file("a-b", ""), file("-", ""), dir(".")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, e := range got.Entries {
		paths = append(paths, e.Path)
	}
	if want := []string{".", "-", "a", "a-b", "a/b"}; !slices.Equal(paths, want) {
		t.Errorf("order %q, want %q", paths, want)
	}
}

func TestNewRefusesWhatIsNoTree(t *testing.T) {
	long := strings.Repeat("n", tree.MaxName+1)
	deep := strings.Repeat("d/", tree.MaxPath/2) + "dd"
	for name, c := range map[string]struct {
		entries []tree.Entry
		want    string
	}{
		"nothing at all":          {nil, "root"},
		"no root":                 {[]tree.Entry{dir("a")}, "root"},
		"root is a file":          {[]tree.Entry{file(".", "")}, "root"},
		"a path twice":            {[]tree.Entry{dir("."), dir("a"), dir("a")}, "twice"},
		"no parent":               {[]tree.Entry{dir("."), file("a/b", "")}, "no parent"},
		"below a file":            {[]tree.Entry{dir("."), file("a", ""), file("a/b", "")}, "below a regular file"},
		"below a link":            {[]tree.Entry{dir("."), link("a", "b"), file("a/b", "")}, "below a symbolic link"},
		"empty path":              {[]tree.Entry{dir("."), dir("")}, "empty"},
		"absolute":                {[]tree.Entry{dir("."), dir("/a")}, "absolute"},
		"dot dot":                 {[]tree.Entry{dir("."), dir("..")}, "outside"},
		"dot dot first":           {[]tree.Entry{dir("."), dir("../a")}, "outside"},
		"dot dot inside":          {[]tree.Entry{dir("."), dir("a"), dir("a/../b")}, "not clean"},
		"trailing slash":          {[]tree.Entry{dir("."), dir("a/")}, "not clean"},
		"NUL":                     {[]tree.Entry{dir("."), dir("a\x00b")}, "NUL"},
		"long name":               {[]tree.Entry{dir("."), dir(long)}, "name of 256"},
		"long path":               {[]tree.Entry{dir("."), dir(deep)}, "path of 4096"},
		"no type":                 {[]tree.Entry{dir("."), {Path: "a"}}, "unknown type"},
		"type bits in mode":       {[]tree.Entry{dir("."), {Path: "a", Type: tree.Directory, Mode: 0o40755}}, "mode"},
		"file without digest":     {[]tree.Entry{dir("."), {Path: "a", Type: tree.Regular}}, "digest"},
		"link without target":     {[]tree.Entry{dir("."), link("a", "")}, "target"},
		"directory with size":     {[]tree.Entry{dir("."), {Path: "a", Type: tree.Directory, Size: 1}}, "content"},
		"directory with target":   {[]tree.Entry{dir("."), {Path: "a", Type: tree.Directory, Link: "x"}}, "target"},
		"fifo with device number": {[]tree.Entry{dir("."), {Path: "a", Type: tree.FIFO, Major: 1}}, "device"},
		"attribute without a name": {[]tree.Entry{{Path: ".", Type: tree.Directory,
			Xattrs: map[string]string{"": ""}}}, "attribute"},
		"attribute with a NUL name": {[]tree.Entry{{Path: ".", Type: tree.Directory, Xattrs: map[string]string{"a\x00": ""}}}, "attribute"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tree.New(c.entries, nil)
			if !errors.Is(err, tree.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want ErrInvalid that says %q", err, c.want)
			}
		})
	}
}

func TestEqualIgnoresOnlyTime(t *testing.T) {
	a := file("a", "x")
	same := a
	same.ModTime = same.ModTime.AddDate(1, 0, 0)
	same.Xattrs = map[string]string{}
	if !tree.Equal(a, same) {
		t.Error("entries that differ in time alone are not equal")
	}
	for name, change := range map[string]func(*tree.Entry){
		"path":   func(e *tree.Entry) { e.Path = "b" },
		"type":   func(e *tree.Entry) { e.Type = tree.FIFO },
		"mode":   func(e *tree.Entry) { e.Mode = 0o4644 },
		"uid":    func(e *tree.Entry) { e.UID = 1 },
		"gid":    func(e *tree.Entry) { e.GID = 1 },
		"xattr":  func(e *tree.Entry) { e.Xattrs = map[string]string{"user.a": ""} },
		"link":   func(e *tree.Entry) { e.Link = "b" },
		"major":  func(e *tree.Entry) { e.Major = 1 },
		"minor":  func(e *tree.Entry) { e.Minor = 1 },
		"size":   func(e *tree.Entry) { e.Size++ },
		"digest": func(e *tree.Entry) { e.Digest[0]++ },
	} {
		b := a
		change(&b)
		if tree.Equal(a, b) {
			t.Errorf("entries that differ in %s are equal", name)
		}
	}
}

// contents holds contents by digest.
type contents map[tree.Digest]string

func (c contents) Open(d tree.Digest) (io.ReadCloser, error) {
	text, ok := c[d]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func TestResolveFollowsLinksInsideTheTree(t *testing.T) {
	tr, err := tree.New([]tree.Entry{
		dir("."), dir("usr"), dir("usr/lib"), file("usr/lib/init", "x"), dir("etc"),
		link("lib", "usr/lib"), link("sbin", "/usr/../lib"), link("out", "../../../usr/lib/init"),
		link("loop", "loop"), link("etc/here", "."), link("dead", "nowhere"),
	}, contents{tree.Sum([]byte("x")): "x"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"lib/init": "usr/lib/init", "/sbin/init": "usr/lib/init", "out": "usr/lib/init", "": ".", "/": ".",
		"etc/here/here/../lib/init": "usr/lib/init", "usr//lib/./init": "usr/lib/init", "..": ".",
	} {
		e, err := tr.Resolve(name)
		if err != nil || e.Path != want {
			t.Errorf("Resolve(%q) = %v, %v, want %q", name, e, err, want)
		}
	}
	if _, err := tr.Resolve("loop"); !errors.Is(err, tree.ErrLoop) {
		t.Errorf("a link to itself: %v, want ErrLoop", err)
	}
	for _, name := range []string{"dead", "usr/none", "lib/init/below"} {
		if _, err := tr.Resolve(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Resolve(%q): %v, want fs.ErrNotExist", name, err)
		}
	}
	if data, err := tr.ReadFile("sbin/init", 1); err != nil || string(data) != "x" {
		t.Errorf("ReadFile: %q, %v", data, err)
	}
	if _, err := tr.ReadFile("sbin/init", 0); !errors.Is(err, tree.ErrTooLarge) {
		t.Errorf("ReadFile over its limit: %v, want ErrTooLarge", err)
	}
	if _, err := tr.ReadFile("etc", 9); err == nil {
		t.Error("a directory was read as a file")
	}
}

// Whatever the order of entries, New finds every one again and puts parents first.
func TestNewAcceptsAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := []tree.Entry{dir(".")}
		seen := map[string]bool{}
		for range rapid.IntRange(0, 30).Draw(t, "n") {
			parents := slices.DeleteFunc(slices.Clone(entries),
				func(e tree.Entry) bool { return e.Type != tree.Directory })
			parent := rapid.SampledFrom(parents).Draw(t, "parent").Path
			p := path.Join(parent, rapid.StringMatching(`[-+. a/]{1,3}`).Filter(func(s string) bool {
				return !strings.Contains(s, "/") && s != "." && s != ".."
			}).Draw(t, "name"))
			if seen[p] {
				continue
			}
			seen[p] = true
			if rapid.Bool().Draw(t, "directory") {
				entries = append(entries, dir(p))
			} else {
				entries = append(entries, file(p, ""))
			}
		}
		given := rapid.Permutation(entries).Draw(t, "order")
		tr, err := tree.New(slices.Clone(given), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(tr.Entries) != len(given) {
			t.Fatalf("%d entries of %d", len(tr.Entries), len(given))
		}
		at := map[string]int{}
		for i, e := range tr.Entries {
			at[e.Path] = i
			if e.Path != tree.Root && at[tree.Parent(e.Path)] >= i {
				t.Fatalf("%q stands before its parent", e.Path)
			}
		}
		for _, e := range given {
			if got, ok := tr.Lookup(e.Path); !ok || !tree.Equal(*got, e) {
				t.Fatalf("%q is not found", e.Path)
			}
		}
	})
}

func TestDigestRoundTrip(t *testing.T) {
	d := tree.Sum([]byte("x"))
	if back, err := tree.ParseDigest(d.String()); err != nil || back != d {
		t.Errorf("%v, %v", back, err)
	}
	for _, bad := range []string{"", d.Hex(), "sha256:" + strings.ToUpper(d.Hex()), d.String() + "0",
		"sha256:" + strings.Repeat("g", 64)} {
		if _, err := tree.ParseDigest(bad); !errors.Is(err, tree.ErrDigest) {
			t.Errorf("ParseDigest(%q): %v, want ErrDigest", bad, err)
		}
	}
}

package source_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// item is one entry of a tar stream in the making.
type item struct {
	tar.Header
	content string
}

func dirItem(name string) item {
	return item{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}

func fileItem(name, content string) item {
	return item{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, content: content}
}

func linkItem(name, target string) item {
	return item{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}}
}

func hardItem(name, target string) item {
	return item{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target, Mode: 0o644}}
}

// fataler is what tests and fuzz targets and rapid checks have in common.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

func makeTar(t fataler, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		i.Size = int64(len(i.content))
		if err := w.WriteHeader(&i.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, i.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readTar reads a stream whole and closes its spool with the test.
func readTar(t *testing.T, stream []byte) *tree.Tree {
	t.Helper()
	tr, closer, err := source.ReadTar(t.Context(), bytes.NewReader(stream), t.TempDir(), source.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closer.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

func paths(tr *tree.Tree) []string {
	var all []string
	for _, e := range tr.Entries {
		all = append(all, e.Path)
	}
	return all
}

func TestReadTarKeepsAllOfAnEntry(t *testing.T) {
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	ping := fileItem("./bin/ping", "ping")
	ping.Mode, ping.Uid, ping.Gid = 0o4755, 0, 4_000_000_000
	ping.ModTime = time.Unix(1_700_000_000, 0)
	ping.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": capability, "comment": "no attribute"}
	null := item{Header: tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}}
	tr := readTar(t, makeTar(t, dirItem("./"), dirItem("/bin/"), ping, null, linkItem("sh", "bin/ping"),
		item{Header: tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o600}},
		item{Header: tar.Header{Name: "disk", Typeflag: tar.TypeBlock, Devmajor: 259, Devminor: 1048575}},
		hardItem("bin/ping6", "./bin/ping"), fileItem("not-\xff-utf8", "")))
	digest := tree.Sum([]byte("ping"))
	want := tree.Entry{
		Path: "bin/ping", Type: tree.Regular, Mode: 0o4755, GID: 4_000_000_000, Size: 4, Digest: digest,
		Xattrs: map[string]string{"security.capability": capability},
	}
	got, ok := tr.Lookup("bin/ping")
	if !ok || !tree.Equal(*got, want) || !got.ModTime.Equal(ping.ModTime) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	want.Path = "bin/ping6"
	if got, ok = tr.Lookup("bin/ping6"); !ok || !tree.Equal(*got, want) {
		t.Errorf("hard link %+v\nwant %+v", got, want)
	}
	if e, ok := tr.Lookup("dev/null"); !ok || e.Type != tree.CharDevice || e.Major != 1 || e.Minor != 3 {
		t.Errorf("device %+v", e)
	}
	if e, ok := tr.Lookup("disk"); !ok || e.Type != tree.BlockDevice || e.Major != 259 || e.Minor != 1048575 {
		t.Errorf("device %+v", e)
	}
	if e, ok := tr.Lookup("sh"); !ok || e.Type != tree.Symlink || e.Link != "bin/ping" {
		t.Errorf("link %+v", e)
	}
	if e, ok := tr.Lookup("dev"); !ok || e.Type != tree.Directory || e.Mode != 0o755 || e.UID != 0 {
		t.Errorf("made parent %+v", e)
	}
	if _, ok := tr.Lookup("not-\xff-utf8"); !ok {
		t.Errorf("name that is not UTF-8 is lost: %q", paths(tr))
	}
	if data, err := tr.ReadFile("sh", 4); err != nil || string(data) != "ping" {
		t.Errorf("content %q, %v", data, err)
	}
}

func TestReadTarTakesTheLaterOfTwo(t *testing.T) {
	tr := readTar(t, makeTar(t, fileItem("d/a", "old"), hardItem("kept", "d/a"), fileItem("d/a", "new"),
		item{Header: tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o700}}))
	for name, want := range map[string]string{"d/a": "new", "kept": "old"} {
		if data, err := tr.ReadFile(name, 3); err != nil || string(data) != want {
			t.Errorf("%s is %q, %v, want %q", name, data, err, want)
		}
	}
	if e, _ := tr.Lookup("d"); e.Mode != 0o700 {
		t.Errorf("mode %#o: a directory that comes after what is in it is not taken over", e.Mode)
	}
}

func TestReadTarRefusesHostileStreams(t *testing.T) {
	xattr := func(key, value string) item {
		i := fileItem("evil", "")
		i.PAXRecords = map[string]string{key: value}
		return i
	}
	header := func(h tar.Header) item { return item{Header: h} }
	for name, c := range map[string]struct {
		items []item
		err   error
		want  string
	}{
		"dot dot":                 {[]item{fileItem("../evil", "")}, source.ErrRefused, `"../evil"`},
		"dot dot inside":          {[]item{fileItem("a/../../evil", "")}, source.ErrRefused, `"a/../../evil"`},
		"dot dot last":            {[]item{dirItem("a/..")}, source.ErrRefused, `"a/.."`},
		"dot dot alone":           {[]item{dirItem("..")}, source.ErrRefused, `".."`},
		"absolute dot dot":        {[]item{fileItem("/../evil", "")}, source.ErrRefused, `"/../evil"`},
		"double slash":            {[]item{fileItem("//evil", "")}, source.ErrRefused, `"//evil"`},
		"double slash inside":     {[]item{fileItem("a//evil", "")}, source.ErrRefused, `"a//evil"`},
		"dot slash slash":         {[]item{fileItem(".//evil", "")}, source.ErrRefused, `".//evil"`},
		"name over 255":           {[]item{fileItem(strings.Repeat("n", 256), "")}, source.ErrRefused, "256 bytes"},
		"path over 4095":          {[]item{fileItem(strings.Repeat("d/", 2048)+"evil", "")}, source.ErrRefused, "4100 bytes"},
		"below a link":            {[]item{linkItem("a", "/etc"), fileItem("a/evil", "")}, source.ErrRefused, `"a/evil"`},
		"far below a link":        {[]item{linkItem("a", "/etc"), fileItem("a/b/evil", "")}, source.ErrRefused, `"a/b/evil"`},
		"below a file":            {[]item{fileItem("a", ""), fileItem("a/evil", "")}, source.ErrRefused, `"a/evil"`},
		"link over a directory":   {[]item{fileItem("a/b", ""), linkItem("a", "/etc")}, source.ErrRefused, "was a directory"},
		"file over a link":        {[]item{linkItem("a", "/etc"), fileItem("a", "")}, source.ErrRefused, "was a symbolic link"},
		"root as a link":          {[]item{linkItem("./", "/etc")}, source.ErrRefused, "root"},
		"hard link to nothing":    {[]item{hardItem("evil", "none")}, source.ErrRefused, `"none"`},
		"hard link out":           {[]item{hardItem("evil", "../x")}, source.ErrRefused, `"../x"`},
		"hard link to later":      {[]item{hardItem("evil", "a"), fileItem("a", "")}, source.ErrRefused, `"a"`},
		"hard link to itself":     {[]item{hardItem("evil", "evil")}, source.ErrRefused, `"evil"`},
		"hard link to directory":  {[]item{dirItem("a"), hardItem("evil", "a")}, source.ErrRefused, "directory"},
		"overlay attribute":       {[]item{xattr("SCHILY.xattr.trusted.overlay.opaque", "y")}, source.ErrRefused, "trusted.overlay.opaque"},
		"user overlay attribute":  {[]item{xattr("SCHILY.xattr.user.overlay.whiteout", "y")}, source.ErrRefused, "user.overlay.whiteout"},
		"attribute without name":  {[]item{xattr("SCHILY.xattr.", "y")}, source.ErrRefused, "invalid name"},
		"attribute over 64 KiB":   {[]item{xattr("SCHILY.xattr.user.a", strings.Repeat("a", 65<<10))}, source.ErrLimit, "attributes"},
		"ACL as text":             {[]item{xattr("SCHILY.acl.access", "user::rwx")}, source.ErrRefused, "--xattrs"},
		"whiteout device":         {[]item{header(tar.Header{Name: "evil", Typeflag: tar.TypeChar})}, source.ErrRefused, "0:0"},
		"impossible device":       {[]item{header(tar.Header{Name: "evil", Typeflag: tar.TypeBlock, Devmajor: 4096})}, source.ErrRefused, "4096:0"},
		"uid that means none":     {[]item{header(tar.Header{Name: "evil", Typeflag: tar.TypeDir, Uid: 1<<32 - 1})}, source.ErrRefused, "uid"},
		"gid out of range":        {[]item{header(tar.Header{Name: "evil", Typeflag: tar.TypeDir, Gid: 1 << 40})}, source.ErrRefused, "gid"},
		"link with a long target": {[]item{linkItem("evil", strings.Repeat("x", 4096))}, source.ErrRefused, "target"},
		"unknown type":            {[]item{header(tar.Header{Name: "evil", Typeflag: 'Z'})}, source.ErrRefused, "'Z'"},
	} {
		t.Run(name, func(t *testing.T) {
			stream := makeTar(t, c.items...)
			tr, closer, err := source.ReadTar(t.Context(), bytes.NewReader(stream), t.TempDir(), source.Limits{})
			if tr != nil || closer != nil {
				t.Error("a refused stream yields a tree")
			}
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %v that says %s", err, c.err, c.want)
			}
		})
	}
}

func TestReadTarHoldsItsLimits(t *testing.T) {
	stream := makeTar(t, fileItem("a", "12345"), fileItem("b", "12345"), fileItem("deep/er/c", ""))
	for name, c := range map[string]struct {
		limits source.Limits
		want   string
	}{
		"content":  {source.Limits{Content: 9}, `"b"`},
		"entries":  {source.Limits{Entries: 4}, `"deep/er/c"`},
		"metadata": {source.Limits{Metadata: 6}, `"deep/er/c"`},
	} {
		_, _, err := source.ReadTar(t.Context(), bytes.NewReader(stream), t.TempDir(), c.limits)
		if !errors.Is(err, source.ErrLimit) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want ErrLimit about %s", name, err, c.want)
		}
	}
	exact := source.Limits{Content: 10, Entries: 6, Metadata: 4096}
	_, closer, err := source.ReadTar(t.Context(), bytes.NewReader(stream), t.TempDir(), exact)
	if err != nil {
		t.Fatalf("a stream that is just within its limits: %v", err)
	}
	if err := closer.Close(); err != nil {
		t.Error(err)
	}
}

func TestReadTarSeesEveryTruncation(t *testing.T) {
	stream := makeTar(t, fileItem("zeros", strings.Repeat("\x00", 1024)), fileItem("b", "b"))
	end := len(stream) - 1024
	for n := 0; n < end+512; n += 64 {
		_, _, err := source.ReadTar(t.Context(), bytes.NewReader(stream[:n]), t.TempDir(), source.Limits{})
		if !errors.Is(err, source.ErrCorrupt) {
			t.Errorf("cut off at %d of %d: error %v, want ErrCorrupt", n, len(stream), err)
		}
	}
}

func TestReadTarRefusesAnEmptyArchive(t *testing.T) {
	_, _, err := source.ReadTar(t.Context(), bytes.NewReader(makeTar(t)), t.TempDir(), source.Limits{})
	if !errors.Is(err, source.ErrCorrupt) {
		t.Errorf("error %v, want ErrCorrupt", err)
	}
}

func TestReadTarRefusesWhatFollowsTheEnd(t *testing.T) {
	one := makeTar(t, fileItem("a", ""))
	for name, stream := range map[string][]byte{
		"a second archive": slices.Concat(one, makeTar(t, fileItem("b", ""))),
		"a stray byte":     slices.Concat(one, make([]byte, 5000), []byte{1}),
	} {
		_, _, err := source.ReadTar(t.Context(), bytes.NewReader(stream), t.TempDir(), source.Limits{})
		if !errors.Is(err, source.ErrCorrupt) {
			t.Errorf("%s: error %v, want ErrCorrupt", name, err)
		}
	}
	if got := paths(readTar(t, slices.Concat(one, make([]byte, 10240)))); !slices.Equal(got, []string{".", "a"}) {
		t.Errorf("padding is refused or read: %q", got)
	}
}

func TestReadTarStoresEachContentOnce(t *testing.T) {
	dir := t.TempDir()
	content := strings.Repeat("content ", 100_000)
	stream := makeTar(t, fileItem("a", content), fileItem("b", content), hardItem("c", "a"), fileItem("d", "other"))
	tr, closer, err := source.ReadTar(t.Context(), bytes.NewReader(stream), dir, source.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the spool has a name: %v, %v", left, err)
	}
	for name, want := range map[string]string{"a": content, "b": content, "c": content, "d": "other"} {
		if data, err := tr.ReadFile(name, 1<<20); err != nil || string(data) != want {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}
	if err := closer.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.ReadFile("a", 1<<20); !errors.Is(err, os.ErrClosed) {
		t.Errorf("reading after Close: %v, want os.ErrClosed", err)
	}
}

func TestReadTarEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	_, _, err := source.ReadTar(ctx, bytes.NewReader(makeTar(t, fileItem("a", ""))), t.TempDir(), source.Limits{})
	if !errors.Is(err, stop) || errors.Is(err, source.ErrCorrupt) {
		t.Errorf("error %v, want the cause of the cancellation alone", err)
	}
}

// A tree that is written as a tar stream comes back as it was.
func TestTarRoundTrip(t *testing.T) {
	spoolDir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		want, contents := drawTree(t)
		var items []item
		for _, e := range want.Entries {
			items = append(items, itemOf(e, contents[e.Digest]))
		}
		got, closer, err := source.ReadTar(t.Context(), bytes.NewReader(makeTar(t, items...)), spoolDir, source.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := closer.Close(); err != nil {
				t.Error(err)
			}
		}()
		if !slices.EqualFunc(got.Entries, want.Entries, func(a, b tree.Entry) bool {
			return tree.Equal(a, b) && a.ModTime.Equal(b.ModTime)
		}) {
			t.Fatalf("got\n%+v\nwant\n%+v", got.Entries, want.Entries)
		}
		for _, e := range got.Entries {
			if e.Type != tree.Regular {
				continue
			}
			if data, err := got.ReadFile(e.Path, 100); err != nil || string(data) != contents[e.Digest] {
				t.Fatalf("%s: %q, %v", e.Path, data, err)
			}
		}
	})
}

// drawTree draws a small tree and its contents.
func drawTree(t *rapid.T) (*tree.Tree, map[tree.Digest]string) {
	contents := map[tree.Digest]string{}
	number := rapid.Uint32Range(0, 1<<32-2)
	attributes := rapid.MapOfN(rapid.SampledFrom([]string{"user.a", "security.capability", "trusted.b", "system.posix_acl_access"}),
		rapid.StringN(1, 5, 20), 0, 3)
	entries := []tree.Entry{{Path: ".", Type: tree.Directory, Mode: 0o755, ModTime: time.Unix(1, 0)}}
	seen := map[string]bool{}
	for range rapid.IntRange(0, 20).Draw(t, "entries") {
		parents := slices.DeleteFunc(slices.Clone(entries), func(e tree.Entry) bool { return e.Type != tree.Directory })
		p := path.Join(rapid.SampledFrom(parents).Draw(t, "parent").Path,
			rapid.SampledFrom([]string{"a", "b", "a b", "\xff\n", "ä", "-", strings.Repeat("long", 30)}).Draw(t, "name"))
		if seen[p] {
			continue
		}
		seen[p] = true
		e := tree.Entry{
			Path: p, Type: tree.Type(rapid.IntRange(int(tree.Directory), int(tree.FIFO)).Draw(t, "type")),
			Mode: rapid.Uint32Range(0, 0o7777).Draw(t, "mode"), UID: number.Draw(t, "uid"), GID: number.Draw(t, "gid"),
			ModTime: time.Unix(rapid.Int64Range(0, 1<<40).Draw(t, "time"), 0), Xattrs: attributes.Draw(t, "xattrs"),
		}
		switch e.Type {
		case tree.Regular:
			content := rapid.StringN(0, 30, 100).Draw(t, "content")
			e.Size, e.Digest = int64(len(content)), tree.Sum([]byte(content))
			contents[e.Digest] = content
		case tree.Symlink:
			e.Mode, e.Link = 0o777, rapid.StringMatching(`[a-z/.]{1,150}`).Draw(t, "target")
		case tree.CharDevice, tree.BlockDevice:
			e.Major, e.Minor = rapid.Uint32Range(1, 4095).Draw(t, "major"), rapid.Uint32Range(0, 1<<20-1).Draw(t, "minor")
		}
		entries = append(entries, e)
	}
	tr, err := tree.New(entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tr, contents
}

// itemOf writes an entry as tar does.
func itemOf(e tree.Entry, content string) item {
	flags := map[tree.Type]byte{
		tree.Directory: tar.TypeDir, tree.Regular: tar.TypeReg, tree.Symlink: tar.TypeSymlink,
		tree.CharDevice: tar.TypeChar, tree.BlockDevice: tar.TypeBlock, tree.FIFO: tar.TypeFifo,
	}
	i := item{content: content, Header: tar.Header{
		Name: "./" + e.Path, Typeflag: flags[e.Type], Linkname: e.Link, Mode: int64(e.Mode), Uid: int(e.UID), Gid: int(e.GID),
		ModTime: e.ModTime, Devmajor: int64(e.Major), Devminor: int64(e.Minor), Format: tar.FormatPAX,
	}}
	if e.Type == tree.Directory {
		i.Name += "/"
	}
	if e.Path == tree.Root {
		i.Name = "./"
	}
	i.PAXRecords = map[string]string{}
	for name, value := range maps.All(e.Xattrs) {
		i.PAXRecords["SCHILY.xattr."+name] = value
	}
	return i
}

// Whatever the bytes, ReadTar returns; and what it returns is a tree whose contents can be read, or one of its errors.
func FuzzReadTar(f *testing.F) {
	ping := fileItem("bin/ping", "ping")
	ping.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00"}
	whole := makeTar(f, dirItem("./"), dirItem("bin/"), ping, linkItem("sh", "bin/ping"), hardItem("ping", "bin/ping"),
		item{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}})
	f.Add(whole)
	f.Add(whole[:len(whole)-1024])
	f.Add(whole[:700])
	f.Add(makeTar(f, fileItem("../evil", "")))
	f.Add(makeTar(f, fileItem(strings.Repeat("long/", 60)+"x", "x")))
	f.Add([]byte{})
	dir := f.TempDir()
	limits := source.Limits{Content: 1 << 20, Entries: 1000, Metadata: 1 << 20}
	f.Fuzz(func(t *testing.T, stream []byte) {
		tr, closer, err := source.ReadTar(t.Context(), bytes.NewReader(stream), dir, limits)
		if err != nil {
			if !errors.Is(err, source.ErrCorrupt) && !errors.Is(err, source.ErrRefused) && !errors.Is(err, source.ErrLimit) {
				t.Fatalf("error of no known kind: %v", err)
			}
			return
		}
		defer func() {
			if err := closer.Close(); err != nil {
				t.Error(err)
			}
		}()
		if _, err := tree.New(slices.Clone(tr.Entries), tr.Content); err != nil {
			t.Fatal(err)
		}
		for _, e := range tr.Entries {
			if e.Type != tree.Regular {
				continue
			}
			if data, err := tr.ReadFile(e.Path, limits.Content); err != nil || tree.Sum(data) != e.Digest {
				t.Fatal(fmt.Errorf("%q: %w", e.Path, err))
			}
		}
	})
}

package tarstream_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestReadTarKeepsAllOfAnEntry(t *testing.T) {
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	ping := sourcetest.File("./bin/ping", "ping")
	ping.Mode, ping.Uid, ping.Gid = 0o4755, 0, 4_000_000_000
	ping.ModTime = time.Unix(1_700_000_000, 0)
	ping.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": capability, "comment": "no attribute"}
	null := sourcetest.Item{Header: tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666,
		Devmajor: 1, Devminor: 3}}
	tr := sourcetest.ReadTar(t,
		sourcetest.Tar(t, sourcetest.Dir("./"), sourcetest.Dir("/bin/"), ping, null, sourcetest.Link("sh", "bin/ping"),
			sourcetest.Item{Header: tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o600}},
			sourcetest.Item{Header: tar.Header{Name: "disk", Typeflag: tar.TypeBlock,
				Devmajor: 259, Devminor: 1048575}},
			sourcetest.HardLink("bin/ping6", "./bin/ping"), sourcetest.File("not-\xff-utf8", "")))
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
	if ping, _ := tr.Lookup("bin/ping"); got.Inode == 0 || got.Inode != ping.Inode {
		t.Errorf("names of one file have the inodes %d and %d", ping.Inode, got.Inode)
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
		t.Errorf("name that is not UTF-8 is lost: %q", sourcetest.Paths(tr))
	}
	if data, err := tr.ReadFile("sh", 4); err != nil || string(data) != "ping" {
		t.Errorf("content %q, %v", data, err)
	}
}

func TestReadTarTakesTheLaterOfTwo(t *testing.T) {
	tr := sourcetest.ReadTar(t,
		sourcetest.Tar(t, sourcetest.File("d/a", "old"), sourcetest.HardLink("kept", "d/a"),
			sourcetest.File("d/a", "new"),
			sourcetest.Item{Header: tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o700}}))
	for name, want := range map[string]string{"d/a": "new", "kept": "old"} {
		if data, err := tr.ReadFile(name, 3); err != nil || string(data) != want {
			t.Errorf("%s is %q, %v, want %q", name, data, err, want)
		}
	}
	if e, _ := tr.Lookup("d"); e.Mode != 0o700 {
		t.Errorf("mode %#o: a directory that comes after what is in it is not taken over", e.Mode)
	}
}

func TestReadTarReadsWhatOtherProgramsWrite(t *testing.T) {
	for _, archive := range sourcetest.Archives() {
		tr := sourcetest.ReadTar(t, sourcetest.Tar(t, archive.Items...))
		if _, err := tree.New(slices.Clone(tr.Entries), tr.Content); err != nil {
			t.Errorf("%s: %v", archive.Name, err)
		}
		for name, want := range archive.Want {
			e, ok := tr.Lookup(name)
			got := ""
			switch {
			case ok && e.Type == tree.Directory:
				got = "/"
			case ok && e.Type == tree.Symlink:
				got = "-> " + e.Link
			case ok:
				data, err := tr.ReadFile(name, 100)
				sourcetest.Must(t, err)
				got = string(data)
			}
			if got != want {
				t.Errorf("%s: %s is %q, want %q", archive.Name, name, got, want)
			}
		}
	}
}

func TestReadTarKeepsRecordsOfOtherSystemsToBeReported(t *testing.T) {
	var records []sourcetest.Item
	for _, archive := range sourcetest.Archives() {
		if archive.Name == "records of other systems" {
			records = archive.Items
		}
	}
	first := sourcetest.ReadTar(t, sourcetest.Tar(t, records...))
	// They come through a second stream, as a source of a directory or an image writes it, unchanged.
	var again bytes.Buffer
	out := tar.NewWriter(&again)
	for _, e := range first.Entries {
		sourcetest.Must(t, out.WriteHeader(tarstream.Header(e)))
	}
	sourcetest.Must(t, out.Close())
	for _, tr := range []*tree.Tree{first, sourcetest.ReadTar(t, again.Bytes())} {
		for name, want := range map[string]map[string]string{
			"mac":    {"com.apple.quarantine": "x", "SCHILY.fflags": "uarch", "SCHILY.acl.ace": "owner@:rw"},
			"lustre": {"lustre.lov": "\xd0\x0b\xd1\x0b", "trusted.lov": "\x00"},
			"nfs":    {"system.nfs4_acl": "\x00\x00\x00\x03"},
			"bsd":    {"user.a%b": "x", "SCHILY.fflags": "schg"},
			"gnu":    {"RHT.security.selinux": "system_u:object_r:bin_t:s0"},
		} {
			if e, ok := tr.Lookup(name); !ok || !maps.Equal(e.Xattrs, want) {
				t.Errorf("%s has %q, want %q", name, e.Xattrs, want)
			}
		}
	}
}

func TestGzipWithPaddingIsRead(t *testing.T) {
	compress := func(data []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, err := w.Write(data)
		sourcetest.Must(t, errors.Join(err, w.Close()))
		return b.Bytes()
	}
	stream := sourcetest.Tar(t, sourcetest.File("a", "a"), sourcetest.File("b", sourcetest.Noise(100_000)))
	whole, half := compress(stream), len(stream)/2
	for name, c := range map[string]struct {
		file []byte
		good bool
	}{
		"plain":             {whole, true},
		"one zero":          {append(slices.Clone(whole), 0), true},
		"a block of a tape": {append(slices.Clone(whole), make([]byte, 10240)...), true},
		"two members":       {append(compress(stream[:half]), compress(stream[half:])...), true},
		"two and padding": {append(append(compress(stream[:half]), compress(stream[half:])...),
			make([]byte, 512)...), true},
		"an empty member":      {append(slices.Clone(whole), compress(nil)...), true},
		"garbage":              {append(slices.Clone(whole), "garbage"...), false},
		"garbage after zeros":  {append(slices.Clone(whole), "\x00\x00x"...), false},
		"cut off":              {whole[:len(whole)-1], false},
		"a second one cut off": {append(compress(stream[:half]), compress(stream[half:])[:20]...), false},
	} {
		in, free, err := tarstream.Decompress(bytes.NewReader(c.file))
		sourcetest.Must(t, err)
		got, err := io.ReadAll(in)
		free()
		if (err == nil) != c.good || c.good && !bytes.Equal(got, stream) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// Every format can be filled with zeros, as to the block of a tape, and may consist of several parts.
func TestOtherFormatsWithPaddingAreRead(t *testing.T) {
	packers := map[string]func([]byte) []byte{
		"zstd": func(data []byte) []byte {
			w, err := zstd.NewWriter(nil)
			sourcetest.Must(t, err)
			return w.EncodeAll(data, nil)
		},
		"bzip2": func(data []byte) []byte {
			cmd := exec.CommandContext(t.Context(), "bzip2")
			cmd.Stdin = bytes.NewReader(data)
			packed, err := cmd.Output()
			sourcetest.Must(t, err)
			return packed
		},
	}
	stream := sourcetest.Tar(t, sourcetest.File("a", "a"), sourcetest.File("b", sourcetest.Noise(100_000)))
	half := len(stream) / 2
	for format, pack := range packers {
		whole := pack(stream)
		for name, c := range map[string]struct {
			file []byte
			good bool
		}{
			"plain":               {whole, true},
			"a block of a tape":   {append(slices.Clone(whole), make([]byte, 10240)...), true},
			"four zeros":          {append(slices.Clone(whole), make([]byte, 4)...), true},
			"two and padding":     {slices.Concat(pack(stream[:half]), pack(stream[half:]), make([]byte, 512)), true},
			"garbage":             {append(slices.Clone(whole), "garbage"...), false},
			"garbage after zeros": {slices.Concat(whole, make([]byte, 512), []byte("x")), false},
			"part after zeros":    {slices.Concat(pack(stream[:half]), make([]byte, 512), pack(stream[half:])), false},
			"zeros for its end":   {append(slices.Clone(whole[:len(whole)/2]), make([]byte, 1<<20)...), false},
			"cut off":             {whole[:len(whole)-5], false},
		} {
			in, free, err := tarstream.Decompress(bytes.NewReader(c.file))
			sourcetest.Must(t, err)
			got, err := io.ReadAll(in)
			free()
			if (err == nil) != c.good || c.good && !bytes.Equal(got, stream) {
				t.Errorf("%s, %s: %d bytes, %v", format, name, len(got), err)
			}
		}
	}
}

func TestReadTarRefusesHostileStreams(t *testing.T) {
	xattr := func(key, value string) sourcetest.Item {
		i := sourcetest.File("evil", "")
		i.PAXRecords = map[string]string{key: value}
		return i
	}
	header := func(h tar.Header) sourcetest.Item { return sourcetest.Item{Header: h} }
	for name, c := range map[string]struct {
		items []sourcetest.Item
		err   error
		want  string
	}{
		"dot dot": {[]sourcetest.Item{sourcetest.File("../evil", "")}, source.ErrRefused, `"../evil"`},
		"dot dot inside": {[]sourcetest.Item{sourcetest.File("a/../../evil", "")},
			source.ErrRefused, `"a/../../evil"`},
		"dot dot last":  {[]sourcetest.Item{sourcetest.Dir("a/..")}, source.ErrRefused, `"a/.."`},
		"dot dot alone": {[]sourcetest.Item{sourcetest.Dir("..")}, source.ErrRefused, `".."`},
		"absolute dot dot": {[]sourcetest.Item{sourcetest.File("/../evil", "")},
			source.ErrRefused, `"/../evil"`},
		"name over 255": {[]sourcetest.Item{sourcetest.File(strings.Repeat("n", 256), "")},
			source.ErrRefused, "256 bytes"},
		"path over 4095": {[]sourcetest.Item{sourcetest.File(strings.Repeat("d/", 2048)+"evil", "")},
			source.ErrRefused, "4100 bytes"},
		"below a file": {[]sourcetest.Item{sourcetest.File("a", ""), sourcetest.File("a/evil", "")},
			source.ErrRefused, `"a/evil"`},
		"a circle of links": {[]sourcetest.Item{sourcetest.Link("a", "b"), sourcetest.Link("b", "a"),
			sourcetest.File("a/evil", "")}, source.ErrRefused, "too many symbolic links"},
		"far below a linked file": {[]sourcetest.Item{sourcetest.File("f", ""), sourcetest.Link("a", "f"),
			sourcetest.File("a/b/evil", "")}, source.ErrRefused, "regular file"},
		"root as a file": {[]sourcetest.Item{sourcetest.Link(".//./", "/etc")}, source.ErrRefused, "root"},
		"a damaged attribute": {[]sourcetest.Item{xattr("LIBARCHIVE.xattr.user.a", "***")},
			source.ErrRefused, "damaged attribute"},
		"root as a link": {[]sourcetest.Item{sourcetest.Link("./", "/etc")}, source.ErrRefused, "root"},
		"hard link to nothing": {[]sourcetest.Item{sourcetest.HardLink("evil", "none")},
			source.ErrRefused, `"none"`},
		"hard link out": {[]sourcetest.Item{sourcetest.HardLink("evil", "../x")},
			source.ErrRefused, `"../x"`},
		"hard link to later": {[]sourcetest.Item{sourcetest.HardLink("evil", "a"), sourcetest.File("a", "")},
			source.ErrRefused, `"a"`},
		"hard link to itself": {[]sourcetest.Item{sourcetest.HardLink("evil", "evil")},
			source.ErrRefused, `"evil"`},
		"hard link to directory": {[]sourcetest.Item{sourcetest.Dir("a"), sourcetest.HardLink("evil", "a")},
			source.ErrRefused, "directory"},
		"overlay attribute": {[]sourcetest.Item{xattr("SCHILY.xattr.trusted.overlay.opaque", "y")},
			source.ErrRefused, "trusted.overlay.opaque"},
		"user overlay attribute": {[]sourcetest.Item{xattr("SCHILY.xattr.user.overlay.whiteout", "y")},
			source.ErrRefused, "user.overlay.whiteout"},
		"attribute without name": {[]sourcetest.Item{xattr("SCHILY.xattr.", "y")}, source.ErrRefused, "invalid name"},
		"attribute over 64 KiB": {[]sourcetest.Item{xattr("SCHILY.xattr.user.a", strings.Repeat("a", 65<<10))},
			source.ErrLimit, "attributes"},
		"ACL as text": {[]sourcetest.Item{xattr("SCHILY.acl.access", "user::rwx")},
			source.ErrRefused, "--xattrs"},
		"whiteout device": {[]sourcetest.Item{header(tar.Header{Name: "evil", Typeflag: tar.TypeChar})},
			source.ErrRefused, "0:0"},
		"impossible device": {[]sourcetest.Item{header(tar.Header{Name: "evil", Typeflag: tar.TypeBlock,
			Devmajor: 4096})}, source.ErrRefused, "4096:0"},
		"uid that means none": {[]sourcetest.Item{header(tar.Header{Name: "evil", Typeflag: tar.TypeDir,
			Uid: 1<<32 - 1})}, source.ErrRefused, "uid"},
		"gid out of range": {[]sourcetest.Item{header(tar.Header{Name: "evil", Typeflag: tar.TypeDir,
			Gid: 1 << 40})}, source.ErrRefused, "gid"},
		"link with a long target": {[]sourcetest.Item{sourcetest.Link("evil", strings.Repeat("x", 4096))}, source.ErrRefused, "target"},
		"unknown type": {[]sourcetest.Item{header(tar.Header{Name: "evil", Typeflag: 'Z'})},
			source.ErrRefused, "'Z'"},
	} {
		t.Run(name, func(t *testing.T) {
			stream := sourcetest.Tar(t, c.items...)
			tr, closer, err := tarstream.Read(t.Context(), bytes.NewReader(stream), t.TempDir(), source.Limits{})
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
	stream := sourcetest.Tar(t, sourcetest.File("a", "12345"), sourcetest.File("b", "12345"),
		sourcetest.File("deep/er/c", ""))
	for name, c := range map[string]struct {
		limits source.Limits
		want   string
	}{
		"content":  {source.Limits{Content: 9}, `"b"`},
		"entries":  {source.Limits{Entries: 4}, `"deep/er/c"`},
		"metadata": {source.Limits{Metadata: 6}, `"deep/er/c"`},
	} {
		_, _, err := tarstream.Read(t.Context(), bytes.NewReader(stream), t.TempDir(), c.limits)
		if !errors.Is(err, source.ErrLimit) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want ErrLimit about %s", name, err, c.want)
		}
	}
	exact := source.Limits{Content: 10, Entries: 6, Metadata: 4096}
	_, closer, err := tarstream.Read(t.Context(), bytes.NewReader(stream), t.TempDir(), exact)
	if err != nil {
		t.Fatalf("a stream that is just within its limits: %v", err)
	}
	if err := closer.Close(); err != nil {
		t.Error(err)
	}
}

func TestReadTarSeesEveryTruncation(t *testing.T) {
	stream := sourcetest.Tar(t, sourcetest.File("zeros", strings.Repeat("\x00", 1024)), sourcetest.File("b", "b"))
	end := len(stream) - 1024
	for n := 0; n < end+512; n += 64 {
		_, _, err := tarstream.Read(t.Context(), bytes.NewReader(stream[:n]), t.TempDir(), source.Limits{})
		if !errors.Is(err, source.ErrCorrupt) {
			t.Errorf("cut off at %d of %d: error %v, want ErrCorrupt", n, len(stream), err)
		}
	}
}

func TestReadTarRefusesAnEmptyArchive(t *testing.T) {
	_, _, err := tarstream.Read(t.Context(), bytes.NewReader(sourcetest.Tar(t)), t.TempDir(), source.Limits{})
	if !errors.Is(err, source.ErrCorrupt) {
		t.Errorf("error %v, want ErrCorrupt", err)
	}
}

func TestReadTarRefusesWhatFollowsTheEnd(t *testing.T) {
	one := sourcetest.Tar(t, sourcetest.File("a", ""))
	for name, stream := range map[string][]byte{
		"a second archive": slices.Concat(one, sourcetest.Tar(t, sourcetest.File("b", ""))),
		"a stray byte":     slices.Concat(one, make([]byte, 5000), []byte{1}),
	} {
		_, _, err := tarstream.Read(t.Context(), bytes.NewReader(stream), t.TempDir(), source.Limits{})
		if !errors.Is(err, source.ErrCorrupt) {
			t.Errorf("%s: error %v, want ErrCorrupt", name, err)
		}
	}
	if got := sourcetest.Paths(sourcetest.ReadTar(t, slices.Concat(one, make([]byte, 10240)))); !slices.Equal(got,
		[]string{".", "a"}) {
		t.Errorf("padding is refused or read: %q", got)
	}
}

func TestReadTarStoresEachContentOnce(t *testing.T) {
	dir := t.TempDir()
	content := strings.Repeat("content ", 100_000)
	stream := sourcetest.Tar(t, sourcetest.File("a", content), sourcetest.File("b", content),
		sourcetest.HardLink("c", "a"), sourcetest.File("d", "other"))
	tr, closer, err := tarstream.Read(t.Context(), bytes.NewReader(stream), dir, source.Limits{})
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
	_, _, err := tarstream.Read(ctx, bytes.NewReader(sourcetest.Tar(t, sourcetest.File("a", ""))),
		t.TempDir(), source.Limits{})
	if !errors.Is(err, stop) || errors.Is(err, source.ErrCorrupt) {
		t.Errorf("error %v, want the cause of the cancellation alone", err)
	}
}

// A tree that is written as a tar stream comes back as it was.
func TestTarRoundTrip(t *testing.T) {
	spoolDir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		want, contents := sourcetest.DrawTree(t)
		var items []sourcetest.Item
		for _, e := range want.Entries {
			items = append(items, itemOf(e, contents[e.Digest]))
		}
		got, closer, err := tarstream.Read(t.Context(), bytes.NewReader(sourcetest.Tar(t, items...)),
			spoolDir, source.Limits{})
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

// itemOf writes an entry as tar does.
func itemOf(e tree.Entry, content string) sourcetest.Item {
	flags := map[tree.Type]byte{
		tree.Directory: tar.TypeDir, tree.Regular: tar.TypeReg, tree.Symlink: tar.TypeSymlink,
		tree.CharDevice: tar.TypeChar, tree.BlockDevice: tar.TypeBlock, tree.FIFO: tar.TypeFifo,
	}
	i := sourcetest.Item{Content: content, Header: tar.Header{
		Name: "./" + e.Path, Typeflag: flags[e.Type], Linkname: e.Link, Mode: int64(e.Mode),
		Uid: int(e.UID), Gid: int(e.GID),
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
	ping := sourcetest.File("bin/ping", "ping")
	ping.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00"}
	whole := sourcetest.Tar(f, sourcetest.Dir("./"), sourcetest.Dir("bin/"), ping, sourcetest.Link("sh", "bin/ping"),
		sourcetest.HardLink("ping", "bin/ping"),
		sourcetest.Item{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}})
	f.Add(whole)
	f.Add(whole[:len(whole)-1024])
	f.Add(whole[:700])
	f.Add(sourcetest.Tar(f, sourcetest.File("../evil", "")))
	f.Add(sourcetest.Tar(f, sourcetest.File(strings.Repeat("long/", 60)+"x", "x")))
	f.Add([]byte{})
	for _, archive := range sourcetest.Archives() {
		f.Add(sourcetest.Tar(f, archive.Items...))
	}
	dir := f.TempDir()
	limits := source.Limits{Content: 1 << 20, Entries: 1000, Metadata: 1 << 20}
	f.Fuzz(func(t *testing.T, stream []byte) {
		tr, closer, err := tarstream.Read(t.Context(), bytes.NewReader(stream), dir, limits)
		if err != nil {
			if !errors.Is(err, source.ErrCorrupt) && !errors.Is(err, source.ErrRefused) &&
				!errors.Is(err, source.ErrLimit) {
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

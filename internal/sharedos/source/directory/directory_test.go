package directory_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/directory"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// A tree that lies in a directory is read as it is, and by the same fingerprint wherever it lies.
func TestDirectoryIsReadAsItIs(t *testing.T) {
	top := sourcetest.TempDir(t)
	count := 0
	rapid.Check(t, func(rt *rapid.T) {
		want, contents := sourcetest.DrawTree(rt)
		entries := slices.DeleteFunc(slices.Clone(want.Entries), func(e tree.Entry) bool {
			return e.Type > tree.Symlink || e.Path == "tmp"
		})
		for i := range entries {
			e := &entries[i]
			e.ModTime = time.Unix(e.ModTime.Unix()%(1<<32), 0)
			// The kernel takes neither made-up ones nor any of a symbolic link but trusted ones.
			e.Xattrs = keepXattrs(e.Xattrs, e.Type)
		}
		var fingerprints []string
		for range 2 {
			count++
			dir := filepath.Join(top, fmt.Sprint(count))
			if err := os.Mkdir(dir, 0o700); err != nil {
				rt.Fatal(err)
			}
			sourcetest.LayOut(rt, dir, entries, contents)
			src := directory.Source{Path: dir}
			fingerprint, err := src.Fingerprint(t.Context())
			if err != nil {
				rt.Fatal(err)
			}
			fingerprints = append(fingerprints, fingerprint)
			got, done, err := sourcetest.Read(rt, src)
			if err != nil {
				rt.Fatal(err)
			}
			same := slices.EqualFunc(got.Entries, entries, func(a, b tree.Entry) bool {
				return tree.Equal(a, b) && a.ModTime.Equal(b.ModTime)
			})
			if !same {
				rt.Fatalf("got\n%+v\nwant\n%+v", got.Entries, entries)
			}
			if err := done(); err != nil {
				rt.Fatal(err)
			}
		}
		if fingerprints[0] != fingerprints[1] {
			rt.Fatalf("fingerprints differ: %v", fingerprints)
		}
	})
}

func keepXattrs(all map[string]string, kind tree.Type) map[string]string {
	kept := map[string]string{}
	for name, value := range all {
		if name == "trusted.b" || name == "user.a" && kind != tree.Symlink {
			kept[name] = value
		}
	}
	return kept
}

func TestDirectoryKeepsWhatOnlyRootMayGive(t *testing.T) {
	dir := sourcetest.TempDir(t)
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x21\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	contents := map[tree.Digest]string{tree.Sum([]byte("ping")): "ping"}
	ping := tree.Entry{
		Path: "ping", Type: tree.Regular, Mode: 0o6755, UID: 4_000_000_000, GID: 5, Size: 4,
		Digest: tree.Sum([]byte("ping")),
		Xattrs: map[string]string{"security.capability": capability}, ModTime: time.Unix(1_700_000_000, 0),
	}
	private := ping
	private.Path, private.Mode, private.Xattrs = "private", 0o644, map[string]string{"system.posix_acl_access": acl}
	root := tree.Entry{Path: ".", Type: tree.Directory, Mode: 0o755}
	sourcetest.LayOut(t, dir, []tree.Entry{root, ping, private}, contents)
	sourcetest.Must(t, os.Link(filepath.Join(dir, "ping"), filepath.Join(dir, "z-ping6")))
	hole, err := os.Create(filepath.Join(dir, "hole"))
	sourcetest.Must(t, err)
	sourcetest.Must(t, errors.Join(hole.Truncate(64<<20), hole.Close()))

	got, done, err := sourcetest.Read(t, directory.Source{Path: dir})
	sourcetest.Must(t, err)
	defer func() { sourcetest.Must(t, done()) }()
	linked := ping
	linked.Path = "z-ping6"
	for _, want := range []tree.Entry{ping, private, linked} {
		if e, ok := got.Lookup(want.Path); !ok || !tree.Equal(*e, want) {
			t.Errorf("got %+v\nwant %+v", e, want)
		}
	}
	if e, ok := got.Lookup("hole"); !ok || e.Size != 64<<20 || e.Digest != tree.Sum(make([]byte, 64<<20)) {
		t.Errorf("a file that is one hole: %+v", e)
	}
}

func TestDirectoryMapsOwners(t *testing.T) {
	dir := sourcetest.TempDir(t)
	entries := []tree.Entry{
		{Path: ".", Type: tree.Directory, Mode: 0o755, UID: 100_000, GID: 100_000},
		{Path: "a", Type: tree.Directory, Mode: 0o755, UID: 100_033, GID: 100_008},
		{Path: "b", Type: tree.Symlink, Mode: 0o777, Link: "a", UID: 1000, GID: 100_000},
	}
	sourcetest.LayOut(t, dir, entries, nil)
	shifted := []directory.IDRange{{OnDisk: 100_000, InTree: 0, Count: 65_536},
		{OnDisk: 1000, InTree: 70_000, Count: 1}}
	for name, c := range map[string]struct {
		owners directory.Owners
		want   string
	}{
		"kept":    {directory.Owners{}, ". 100000:100000, a 100033:100008, b 1000:100000"},
		"root":    {directory.Owners{Root: true}, ". 0:0, a 0:0, b 0:0"},
		"shifted": {directory.Owners{UIDs: shifted, GIDs: shifted}, ". 0:0, a 33:8, b 70000:0"},
	} {
		src := directory.Source{Path: dir, Owners: c.owners}
		got, done, err := sourcetest.Read(t, src)
		sourcetest.Must(t, err)
		var owners []string
		for _, e := range got.Entries {
			owners = append(owners, fmt.Sprintf("%s %d:%d", e.Path, e.UID, e.GID))
		}
		if text := strings.Join(owners, ", "); text != c.want {
			t.Errorf("%s: got %s, want %s", name, text, c.want)
		}
		sourcetest.Must(t, done())
	}
	for name, c := range map[string]struct {
		owners directory.Owners
		want   string
	}{
		"not mapped": {directory.Owners{UIDs: shifted[:1]}, `"b": its uid 1000`},
		"overlap": {directory.Owners{UIDs: append([]directory.IDRange{{OnDisk: 165_535, InTree: 90_000, Count: 1}},
			shifted...)}, "overlap"},
		"overlap in": {directory.Owners{GIDs: []directory.IDRange{{Count: 2}, {OnDisk: 5, InTree: 1, Count: 1}}},
			"overlap"},
		"none":         {directory.Owners{UIDs: []directory.IDRange{{OnDisk: 1}}}, "impossible"},
		"out of range": {directory.Owners{UIDs: []directory.IDRange{{OnDisk: 1 << 31, Count: 1 << 31}}}, "impossible"},
	} {
		src := directory.Source{Path: dir, Owners: c.owners}
		if _, err := src.Fingerprint(t.Context()); !errors.Is(err, source.ErrRefused) ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: fingerprint: %v, want ErrRefused that says %s", name, err, c.want)
		}
		if _, _, err := sourcetest.Read(t, src); !errors.Is(err, source.ErrRefused) ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: open: %v, want ErrRefused that says %s", name, err, c.want)
		}
	}
}

func TestDirectoryRefusesAllSpecialFilesByName(t *testing.T) {
	dir := sourcetest.TempDir(t)
	sourcetest.LayOut(t, dir, []tree.Entry{
		{Path: ".", Type: tree.Directory, Mode: 0o755},
		{Path: "dev", Type: tree.Directory, Mode: 0o755},
		{Path: "dev/null", Type: tree.CharDevice, Mode: 0o666, Major: 1, Minor: 3},
		{Path: "disk", Type: tree.BlockDevice, Mode: 0o600, Major: 8},
		{Path: "etc", Type: tree.Directory, Mode: 0o755},
		{Path: "etc/pipe", Type: tree.FIFO, Mode: 0o600},
	}, nil)
	socket, err := net.Listen("unix", filepath.Join(dir, "etc/sock\n"))
	sourcetest.Must(t, err)
	defer socket.Close()
	src := directory.Source{Path: dir}
	_, fingerprintErr := src.Fingerprint(t.Context())
	_, _, openErr := sourcetest.Read(t, src)
	for _, err := range []error{fingerprintErr, openErr} {
		if !errors.Is(err, source.ErrRefused) {
			t.Fatalf("got %v, want ErrRefused", err)
		}
		for _, want := range []string{`"disk" (block device)`, `"etc/pipe" (fifo)`, `"etc/sock\n" (socket)`} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not name %s", err, want)
			}
		}
		if strings.Contains(err.Error(), "null") {
			t.Errorf("%v names a device that is never read", err)
		}
	}
}

func TestDirectoryRefusesOverlayAttributes(t *testing.T) {
	dir := sourcetest.TempDir(t)
	sourcetest.Must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o755))
	sourcetest.Must(t, unix.Setxattr(filepath.Join(dir, "etc"), "trusted.overlay.opaque", []byte("y"), 0))
	if _, _, err := sourcetest.Read(t, directory.Source{Path: dir}); !errors.Is(err, source.ErrRefused) ||
		!strings.Contains(err.Error(), "trusted.overlay.opaque") {
		t.Errorf("got %v, want ErrRefused", err)
	}
}

// A plan need not read a tebibyte of zeros to find that it is too much.
func TestDirectoryHoldsItsLimitsBeforeItReads(t *testing.T) {
	dir := sourcetest.TempDir(t)
	hole, err := os.Create(filepath.Join(dir, "hole"))
	sourcetest.Must(t, err)
	sourcetest.Must(t, errors.Join(hole.Truncate(1<<40), hole.Close()))
	_, err = directory.Source{Path: dir}.Fingerprint(t.Context())
	if !errors.Is(err, source.ErrLimit) || !strings.Contains(err.Error(), `"hole"`) {
		t.Errorf("got %v, want ErrLimit that names the file", err)
	}
	sourcetest.Must(t, os.Truncate(filepath.Join(dir, "hole"), 600))
	sourcetest.Must(t, os.Link(filepath.Join(dir, "hole"), filepath.Join(dir, "link")))
	for limits, want := range map[source.Limits]error{
		{Content: 600, Entries: 3}: nil, {Content: 599}: source.ErrLimit, {Entries: 2}: source.ErrLimit,
	} {
		src := directory.Source{Path: dir, Limits: limits}
		_, err := src.Fingerprint(t.Context())
		if !errors.Is(err, want) {
			t.Errorf("%+v: fingerprint: %v, want %v", limits, err, want)
		}
		stream, err := src.Open(t.Context(), nil)
		sourcetest.Must(t, err)
		tr, closer, err := tarstream.Read(t.Context(), stream, sourcetest.TempDir(t), limits)
		if !errors.Is(err, want) || err == nil && len(tr.Entries) != 3 {
			t.Errorf("%+v: open: %v, want %v", limits, err, want)
		}
		if err == nil {
			sourcetest.Must(t, closer.Close())
		}
		if err := stream.Close(); want == nil {
			sourcetest.Must(t, err)
		}
	}
}

func TestDirectoryNamesWhatItCannotRead(t *testing.T) {
	dir := sourcetest.TempDir(t)
	file := filepath.Join(dir, "file")
	sourcetest.Must(t, os.WriteFile(file, nil, 0o600))
	for _, path := range []string{filepath.Join(dir, "none"), file} {
		if _, err := (directory.Source{Path: path}).Fingerprint(t.Context()); err == nil ||
			!strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := (directory.Source{Path: path}).Open(t.Context(), nil); err == nil ||
			!strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestDirectoryRereadsOnlyWhatChanged(t *testing.T) {
	dir, cache := sourcetest.TempDir(t), sourcetest.TempDir(t)
	const size = 32 << 20
	for _, name := range []string{"a", "b"} {
		sourcetest.Must(t, os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte(name), size), 0o600))
	}
	// What has only just changed is not remembered: another change could have the same time.
	time.Sleep(2100 * time.Millisecond)
	fingerprint := func() (string, int64) {
		t.Helper()
		before := sourcetest.BytesRead(t)
		text, err := directory.Source{Path: dir, CacheDir: cache}.Fingerprint(t.Context())
		sourcetest.Must(t, err)
		return text, (sourcetest.BytesRead(t) - before) / size
	}
	first, read := fingerprint()
	if read != 2 {
		t.Errorf("the first time %d files are read, want 2", read)
	}
	if again, read := fingerprint(); again != first || read != 0 {
		t.Errorf("with nothing changed: %s after %s, %d files read", again, first, read)
	}
	// The same content at the same time, put there anew, is read again and is the same.
	b := filepath.Join(dir, "b")
	top, err := os.Stat(dir)
	sourcetest.Must(t, err)
	info, err := os.Stat(b)
	sourcetest.Must(t, err)
	sourcetest.Must(t, os.WriteFile(b+".new", bytes.Repeat([]byte("b"), size), 0o600))
	sourcetest.Must(t, os.Chtimes(b+".new", info.ModTime(), info.ModTime()))
	sourcetest.Must(t, os.Rename(b+".new", b))
	sourcetest.Must(t, os.Chtimes(dir, top.ModTime(), top.ModTime()))
	if again, read := fingerprint(); again != first || read != 1 {
		t.Errorf("with a file replaced by its like: %s after %s, %d files read", again, first, read)
	}
	seen := map[string]string{first: "first"}
	for name, change := range map[string]func() error{
		"content":    func() error { return os.WriteFile(b, bytes.Repeat([]byte("c"), size), 0o600) },
		"mode":       func() error { return os.Chmod(b, 0o640) },
		"owner":      func() error { return os.Chown(b, 1, 2) },
		"attribute":  func() error { return unix.Setxattr(b, "user.a", []byte("x"), 0) },
		"a new link": func() error { return os.Symlink("a", filepath.Join(dir, "c")) },
		"removal":    func() error { return os.Remove(filepath.Join(dir, "a")) },
		"time":       func() error { return os.Chtimes(b, time.Time{}, time.Unix(1, 0)) },
	} {
		sourcetest.Must(t, change())
		again, _ := fingerprint()
		if other, ok := seen[again]; ok {
			t.Errorf("%s: the fingerprint is as after %s", name, other)
		}
		seen[again] = name
	}
}

func TestDirectoryWithADamagedIndexIsReadAgain(t *testing.T) {
	dir, cache := sourcetest.TempDir(t), sourcetest.TempDir(t)
	sourcetest.Must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o600))
	src := directory.Source{Path: dir, CacheDir: cache}
	want, err := directory.Source{Path: dir}.Fingerprint(t.Context())
	sourcetest.Must(t, err)
	time.Sleep(2100 * time.Millisecond)
	got, err := src.Fingerprint(t.Context())
	sourcetest.Must(t, err)
	stored, err := filepath.Glob(filepath.Join(cache, "digests", "*"))
	if sourcetest.Must(t, err); got != want || len(stored) != 1 {
		t.Fatalf("%s, want %s; stored %v", got, want, stored)
	}
	whole, err := os.ReadFile(stored[0])
	sourcetest.Must(t, err)
	for i := range whole {
		damaged := slices.Clone(whole)
		damaged[i] ^= 0x40
		for _, index := range [][]byte{damaged, whole[:i]} {
			sourcetest.Must(t, os.WriteFile(stored[0], index, 0o600))
			if got, err := src.Fingerprint(t.Context()); err != nil || got != want {
				t.Fatalf("index damaged at %d: %s, %v, want %s", i, got, err, want)
			}
		}
	}
}

func TestDirectoryThatChangesWhileItIsReadIsReported(t *testing.T) {
	dir := sourcetest.TempDir(t)
	big := filepath.Join(dir, "big")
	sourcetest.Must(t, os.WriteFile(big, make([]byte, 8<<20), 0o600))
	stream, err := directory.Source{Path: dir}.Open(t.Context(), nil)
	sourcetest.Must(t, err)
	_, err = stream.Read(make([]byte, 512))
	sourcetest.Must(t, err)
	sourcetest.Must(t, os.Truncate(big, 7<<20))
	_, _, readErr := tarstream.Read(t.Context(), stream, sourcetest.TempDir(t), source.Limits{})
	if err := stream.Close(); err == nil || !strings.Contains(err.Error(), "changed while it was read") ||
		!strings.Contains(err.Error(), `"big"`) {
		t.Errorf("got %v and %v", err, readErr)
	}
}

func TestReadTreeOfADirectory(t *testing.T) {
	dir := sourcetest.TempDir(t)
	tr := sourcetest.ReadTar(t, sourcetest.Tar(t, sourcetest.Bootable("6.1")...))
	contents := map[tree.Digest]string{}
	for _, e := range tr.Entries {
		if e.Type == tree.Regular {
			data, err := tr.ReadFile(e.Path, 1<<20)
			sourcetest.Must(t, err)
			contents[e.Digest] = string(data)
		}
	}
	sourcetest.LayOut(t, dir, tr.Entries, contents)
	r, err := sourcetest.ReadSystem(t, directory.Source{Path: dir}, nil)
	sourcetest.Must(t, err)
	want, err := rootfs.Normalise(tr)
	sourcetest.Must(t, err)
	if !slices.EqualFunc(r.Tree.Entries, want.Entries, tree.Equal) {
		t.Error("the directory's tree is not the archive's")
	}
}

func TestDirectoryStreamCanBeClosedEarly(t *testing.T) {
	dir := sourcetest.TempDir(t)
	sourcetest.Must(t, os.WriteFile(filepath.Join(dir, "a"), []byte(sourcetest.Noise(4<<20)), 0o600))
	sourcetest.CloseEarly(t, directory.Source{Path: dir})
}

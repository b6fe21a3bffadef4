package publish

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestRenumberGivesOldNumbersBack(t *testing.T) {
	for name, test := range map[string]struct {
		old, new map[string]uint32
		used     []uint32
		want     numbers
	}{
		"nothing moved": {map[string]uint32{"a": 1},
			map[string]uint32{"a": 1, "b": 2}, nil, numbers{}},
		"one moved": {map[string]uint32{"a": 101},
			map[string]uint32{"a": 102}, nil, numbers{102: 101}},
		"two changed places": {map[string]uint32{"a": 101, "b": 102},
			map[string]uint32{"a": 102, "b": 101}, nil, numbers{101: 102, 102: 101}},
		"a new one has the number": {map[string]uint32{"a": 101}, map[string]uint32{"a": 102, "new": 101},
			nil, numbers{102: 101, 101: 999}},
		"what went leaves its number unused": {map[string]uint32{"a": 101, "went": 999}, map[string]uint32{"a": 102, "new": 101}, nil, numbers{102: 101, 101: 998}},
		"a file has the free number": {map[string]uint32{"a": 101}, map[string]uint32{"a": 102, "new": 101},
			[]uint32{999}, numbers{102: 101, 101: 998}},
		"a new user has the number": {map[string]uint32{"a": 1000}, map[string]uint32{"a": 1001, "new": 1000},
			nil, numbers{1001: 1000, 1000: 1002}},
		"two share a number, as before": {map[string]uint32{"a": 7, "b": 7},
			map[string]uint32{"a": 8, "b": 8}, nil, numbers{8: 7}},
	} {
		t.Run(name, func(t *testing.T) {
			used := map[uint32]bool{}
			for _, number := range test.used {
				used[number] = true
			}
			got, err := renumber("user", test.old, test.new, used)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestRenumberRefusesWhatHasNoAssignment(t *testing.T) {
	for name, test := range map[string]struct{ old, new map[string]uint32 }{
		"two came to share a number": {map[string]uint32{"a": 1, "b": 2}, map[string]uint32{"a": 3, "b": 3}},
		"two shared a number":        {map[string]uint32{"a": 1, "b": 1}, map[string]uint32{"a": 2, "b": 3}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := renumber("user", test.old, test.new, nil); !errors.Is(err, ErrAccounts) ||
				!strings.Contains(err.Error(), "users a and b") {
				t.Errorf("got %v, %v, want ErrAccounts with the accounts", got, err)
			}
		})
	}
}

func TestRenumberMovesNoAccountOntoAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		accounts := rapid.MapOf(rapid.StringMatching(`[a-h]`), rapid.Uint32Range(990, 1010))
		old, new := accounts.Draw(t, "old"), accounts.Draw(t, "new")
		moved, err := renumber("user", old, new, nil)
		if err != nil {
			if !errors.Is(err, ErrAccounts) {
				t.Fatal(err)
			}
			return
		}
		for a, number := range new {
			if want, ok := old[a]; ok && moved.of(number) != want {
				t.Fatalf("%s has %d, and had %d", a, moved.of(number), want)
			}
			for b, other := range new {
				if (number == other) != (moved.of(number) == moved.of(other)) {
					t.Fatalf("%s and %s have %d and %d", a, b, moved.of(number), moved.of(other))
				}
			}
		}
	})
}

func TestPinnedAccountsKeepTheirNumbersEverywhere(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	publish(t, p, newSystem())
	moved := sourceOf(t, newSystem().With(
		"etc/passwd", "root:x:0:0::/root:/bin/sh\n# kept\nwww-data:x:34:35::/:/bin/false\nnew:x:33:35::/:/bin/false",
		"etc/group", "root:x:0:\nwww-data:x:35:new\n"))
	prepared, err := p.Prepare(t.Context(), Spec{Name: "os", Source: moved, PinAccounts: true}, nil)
	must(t, err)
	must(t, p.Publish(t.Context(), prepared, nil))
	if users := prepared.Manifest.Users; users["www-data"] != 33 || users["new"] != 999 ||
		prepared.Manifest.Groups["www-data"] != 33 {
		t.Errorf("users %v, groups %v", users, prepared.Manifest.Groups)
	}
	want := []string{"user new from 33 to 999", "user www-data from 34 to 33", "group www-data from 35 to 33"}
	if diff := cmp.Diff(want, prepared.Change.Pinned); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestPinningWhatHasNotMovedChangesNothing(t *testing.T) {
	var ids []tree.Digest
	for _, pin := range []bool{false, true} {
		p := newPublisher(t, storetest.New(t))
		publish(t, p, newSystem())
		prepared, err := p.Prepare(t.Context(),
			Spec{Name: "os", Source: sourceOf(t, newSystem().With("usr/bin/server", "2")), PinAccounts: pin}, nil)
		must(t, err)
		if ids = append(ids, prepared.ID); prepared.Change.Pinned != nil {
			t.Errorf("pinned: %v", prepared.Change.Pinned)
		}
	}
	if ids[0] != ids[1] {
		t.Errorf("%s without, %s with the option", ids[0], ids[1])
	}
}

func TestPinningChangesFilesListsAndOwners(t *testing.T) {
	const list = "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x22\x00\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x08\x00\x04\x00\x23\x00\x00\x00" + "\x10\x00\x04\x00\xff\xff\xff\xff" +
		"\x20\x00\x00\x00\xff\xff\xff\xff"
	files := map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\n+nis\nwww-data:x:34:35:a:b:c\n", "etc/group": "www-data:x:35:",
	}
	content := texts{}
	entries := []tree.Entry{
		{Path: ".", Type: tree.Directory}, {Path: "etc", Type: tree.Directory},
		{Path: "var", Type: tree.Directory, UID: 34, GID: 35, Xattrs: map[string]string{"system.posix_acl_default": list, "user.note": list}},
	}
	for name, text := range files {
		entries = append(entries,
			tree.Entry{Path: name, Type: tree.Regular, Size: int64(len(text)), Digest: content.add(text)})
	}
	read := &rootfs.System{}
	var err error
	read.Tree, err = tree.New(entries, content)
	must(t, err)
	read.Users, read.Groups, err = rootfs.Accounts(read.Tree)
	must(t, err)
	before := prepare(t, newPublisher(t, storetest.New(t)), sourceOf(t, newSystem())).Manifest
	if _, err := pinAccounts(read, before); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\n+nis\nwww-data:x:33:33:a:b:c\n", "etc/group": "www-data:x:33:",
	} {
		if got, err := read.Tree.ReadFile(name, 1<<20); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	e, _ := read.Tree.Lookup("var")
	changed := strings.NewReplacer("\x22", "\x21", "\x23", "\x21").Replace(list)
	if e.UID != 33 || e.GID != 33 || e.Xattrs["system.posix_acl_default"] != changed || e.Xattrs["user.note"] != list {
		t.Errorf("%+v", e)
	}
}

// texts is a tree.Content in memory.
type texts map[tree.Digest]string

func (x texts) add(text string) tree.Digest {
	digest := tree.Sum([]byte(text))
	x[digest] = text
	return digest
}

func (x texts) Open(digest tree.Digest) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(x[digest])), nil
}

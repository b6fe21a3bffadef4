package etcmerge

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// fileEntry is a regular file with a content.
func fileEntry(content string, mode, owner uint32) *tree.Entry {
	return &tree.Entry{
		Path: "etc/x", Type: tree.Regular, Mode: mode, UID: owner, GID: owner, Size: int64(len(content)),
		Digest: tree.Sum([]byte(content)), Xattrs: map[string]string{},
	}
}

func with(e *tree.Entry, name, value string) *tree.Entry {
	e.Xattrs[name] = value
	return e
}

func TestAttributesAreMergedOneByOne(t *testing.T) {
	for name, test := range map[string]struct {
		old, ours, next, want *tree.Entry
		kinds                 []Kind
	}{
		"the mode here, the content there": {fileEntry("1", 0o644, 0), fileEntry("1", 0o600, 0),
			fileEntry("2", 0o644, 0),
			fileEntry("2", 0o600, 0), nil},
		"the content here, the mode there": {fileEntry("1", 0o644, 0), fileEntry("mine", 0o644, 0),
			fileEntry("1", 0o640, 0),
			fileEntry("mine", 0o640, 0), nil},
		"the owner here, the content there": {
			fileEntry("1", 0o640, 0), fileEntry("1", 0o640, 33), fileEntry("2", 0o640, 0),
			fileEntry("2", 0o640, 33), nil,
		},
		"the mode in both": {
			fileEntry("1", 0o640, 0), fileEntry("1", 0o666, 0), fileEntry("1", 0o755, 0),
			fileEntry("1", 0o644, 0), []Kind{Restricted},
		},
		"the content in both, the mode there": {
			fileEntry("1", 0o644, 0), fileEntry("mine", 0o644, 0), fileEntry("2", 0o600, 0),
			fileEntry("mine", 0o600, 0), []Kind{Changed},
		},
		"the same in both": {fileEntry("1", 0o644, 0), fileEntry("2", 0o600, 0), fileEntry("2", 0o600, 0), fileEntry("2", 0o600, 0), nil},
		"the owner in both": {fileEntry("1", 0o644, 0), fileEntry("1", 0o644, 5), fileEntry("1", 0o644, 6),
			fileEntry("1", 0o644, 5), []Kind{Changed, Changed}},
		"the group here, a permission of the group there": {
			fileEntry("1", 0o640, 0), fileEntry("1", 0o640, 50), fileEntry("1", 0o660, 0),
			fileEntry("1", 0o640, 50), []Kind{Restricted},
		},
		"a permission of the group here, the group there": {
			fileEntry("1", 0o640, 0), fileEntry("1", 0o660, 0), fileEntry("1", 0o640, 50),
			fileEntry("1", 0o640, 50), []Kind{Restricted},
		},
		"the owner here, a permission of the owner there": {
			fileEntry("1", 0o600, 0), fileEntry("1", 0o600, 50), fileEntry("1", 0o700, 0),
			fileEntry("1", 0o600, 50), []Kind{Restricted},
		},
		"a list here, a permission of the group there": {
			fileEntry("1", 0o640, 0), with(fileEntry("1", 0o640, 0), accessList, "bob"), fileEntry("1", 0o660, 0),
			with(fileEntry("1", 0o640, 0), accessList, "bob"), []Kind{Restricted},
		},
		"owner and mode there": {
			fileEntry("1", 0o640, 0), fileEntry("1", 0o640, 0), fileEntry("1", 0o770, 50),
			fileEntry("1", 0o770, 50), nil,
		},
		"an attribute here, the content there": {
			fileEntry("1", 0o644, 0), with(fileEntry("1", 0o644, 0), "user.note", "mine"), fileEntry("2", 0o644, 0),
			with(fileEntry("2", 0o644, 0), "user.note", "mine"), nil,
		},
		"an attribute there, the content here": {
			fileEntry("1", 0o644, 0), fileEntry("mine", 0o644, 0),
			with(fileEntry("1", 0o644, 0), "user.note", "theirs"),
			with(fileEntry("mine", 0o644, 0), "user.note", "theirs"), nil,
		},
		"an attribute removed there": {
			with(fileEntry("1", 0o644, 0), "user.note", "x"), with(fileEntry("mine", 0o644, 0), "user.note", "x"),
			fileEntry("1", 0o644, 0),
			fileEntry("mine", 0o644, 0), nil,
		},
		"an attribute in both": {
			fileEntry("1", 0o644, 0), with(fileEntry("1", 0o644, 0), "user.note", "mine"),
			with(fileEntry("1", 0o644, 0), "user.note", "theirs"),
			with(fileEntry("1", 0o644, 0), "user.note", "mine"), []Kind{Changed},
		},
		"setuid there is not for the content of here": {
			fileEntry("1", 0o755, 0), fileEntry("mine", 0o755, 0), fileEntry("1", 0o4755, 0),
			fileEntry("mine", 0o755, 0), []Kind{Restricted},
		},
		"setuid there is not for the owner of here": {
			fileEntry("1", 0o755, 7), fileEntry("1", 0o755, 0), fileEntry("1", 0o4755, 7),
			fileEntry("1", 0o755, 0), []Kind{Restricted},
		},
		"capabilities of here are not for the content of there": {
			fileEntry("1", 0o755, 0), with(fileEntry("1", 0o755, 0), capability, "c"), fileEntry("2", 0o755, 0),
			fileEntry("2", 0o755, 0), []Kind{Restricted},
		},
		"content of here is not opened to others": {fileEntry("1", 0o640, 0), fileEntry("secret", 0o640, 0),
			fileEntry("1", 0o644, 0),
			fileEntry("secret", 0o640, 0), []Kind{Restricted}},
		"content of here with a mode that loses and gains": {fileEntry("1", 0o640, 0), fileEntry("secret", 0o640, 0),
			fileEntry("1", 0o604, 0), fileEntry("secret", 0o600, 0), []Kind{Restricted}},
		"content of both is not opened to others": {fileEntry("1", 0o600, 0), fileEntry("secret", 0o600, 0),
			fileEntry("2", 0o644, 0),
			fileEntry("secret", 0o600, 0), []Kind{Changed, Restricted}},
		"content of here is not given to another owner and group": {fileEntry("1", 0o640, 0),
			fileEntry("secret", 0o640, 0),
			fileEntry("1", 0o640, 33), fileEntry("secret", 0o640, 0), []Kind{Restricted, Restricted}},
		"content of here is not given to who is listed there": {fileEntry("1", 0o640, 0), fileEntry("secret", 0o640, 0),
			with(fileEntry("1", 0o640, 0), accessList, "alice"), fileEntry("secret", 0o640, 0), []Kind{Restricted}},
		"content of here keeps its list": {with(fileEntry("1", 0o660, 0), accessList, "alice"),
			with(fileEntry("secret", 0o660, 0), accessList, "alice"), fileEntry("1", 0o660, 0),
			with(fileEntry("secret", 0o660, 0), accessList, "alice"), []Kind{Restricted}},
	} {
		t.Run(name, func(t *testing.T) {
			got, fromHere, conflicts := blend(test.old, test.ours, test.next)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			var kinds []Kind
			for _, c := range conflicts {
				kinds = append(kinds, c.Kind)
			}
			if !slices.Equal(kinds, test.kinds) {
				t.Errorf("conflicts %v, want %v", conflicts, test.kinds)
			}
			if wantHere := test.want.Digest == test.ours.Digest &&
				test.want.Digest != test.next.Digest; fromHere != wantHere {
				t.Errorf("the content is from here: %v", fromHere)
			}
		})
	}
}

// No merge allows what neither this VM nor the release allows.
func TestAMergeOfAttributesAllowsNothingThatNeitherSideAllows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) *tree.Entry {
			e := fileEntry(rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, label),
				uint32(rapid.IntRange(0, 0o7777).Draw(t, "mode")),
				uint32(rapid.IntRange(0, 2).Draw(t, "owner")))
			e.GID = uint32(rapid.IntRange(0, 2).Draw(t, "group"))
			if rapid.Bool().Draw(t, "capable") {
				e.Xattrs[capability] = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "capability")
			}
			return e
		}
		old, ours, next := draw("old"), draw("ours"), draw("new")
		got, _, _ := blend(old, ours, next)
		if more := got.Mode &^ (ours.Mode | next.Mode); more != 0 {
			t.Errorf("mode %04o of %04o and %04o", got.Mode, ours.Mode, next.Mode)
		}
		for uid := range uint32(4) {
			for gid := range uint32(4) {
				given := access(ours, uid, gid)
				if got.Digest != ours.Digest || got.Digest == next.Digest {
					given |= access(next, uid, gid)
				}
				if more := access(got, uid, gid) &^ given; more != 0 {
					t.Errorf("%d:%d gets %o of %o:%d:%d, content %v here, %v in the release", uid, gid, more,
						got.Mode, got.UID, got.GID,
						got.Digest == ours.Digest, got.Digest == next.Digest)
				}
			}
		}
		for _, bit := range []uint32{unix.S_ISUID, unix.S_ISGID} {
			given := func(e *tree.Entry) bool {
				return e.Mode&bit != 0 && e.Digest == got.Digest && e.UID == got.UID && e.GID == got.GID
			}
			if got.Mode&bit != 0 && !given(ours) && !given(next) {
				t.Errorf("%04o is for nobody's file", bit)
			}
		}
		if again, _, conflicts := blend(next, got, next); !alike(again, got) || len(conflicts) > 0 &&
			got.Xattrs[capability] == again.Xattrs[capability] && got.Mode == again.Mode {
			t.Errorf("again: %+v became %+v, %v", got, again, conflicts)
		}
	})
}

// access returns what somebody may do with the content of a file (path_resolution(7)).
func access(e *tree.Entry, uid, gid uint32) uint32 {
	switch {
	case uid == e.UID:
		return e.Mode >> 6 & 7
	case gid == e.GID:
		return e.Mode >> 3 & 7
	default:
		return e.Mode & 7
	}
}

// list is an access control list as the kernel has it: the owner, one user, the group, the mask, and others.
func list(user uint32, permissions uint16) string {
	data := binary.LittleEndian.AppendUint32(nil, 2)
	const none = ^uint32(0)
	for _, entry := range []struct {
		tag, permissions uint16
		number           uint32
	}{{1, 6, none}, {2, permissions, user}, {4, 4, none}, {0x10, 6, none}, {0x20, 4, none}} {
		data = binary.LittleEndian.AppendUint16(data, entry.tag)
		data = binary.LittleEndian.AppendUint16(data, entry.permissions)
		data = binary.LittleEndian.AppendUint32(data, entry.number)
	}
	return string(data)
}

func TestAccessListsAndAttributesOfThisVMSurviveARefreshAndItsUndo(t *testing.T) {
	old, next := files{"etc/a": "1", "etc/d/x": "1"}, files{"etc/a": "2", "etc/d/x": "1"}
	v := newVM(t, t.TempDir(), old, old, next)
	must(t, os.Chmod(v.new+"/etc/d", 0o700))
	set := func(name, attribute, value string) {
		t.Helper()
		must(t, unix.Lsetxattr(v.Root+"/"+name, attribute, []byte(value), 0))
	}
	set("etc/a", accessList, list(1000, 6))
	set("etc/a", "user.note", "\xff binary")
	set("etc/d", "system.posix_acl_default", list(1000, 4))
	check := func(when, content string) {
		t.Helper()
		root, err := os.OpenRoot(v.Root)
		must(t, err)
		defer func() { must(t, root.Close()) }()
		a, err := entryAt(root, "etc/a")
		must(t, err)
		if a.Xattrs[accessList] != list(1000, 6) || a.Xattrs["user.note"] != "\xff binary" {
			t.Errorf("%s: %q", when, a.Xattrs)
		}
		d, err := entryAt(root, "etc/d")
		must(t, err)
		if d.Xattrs["system.posix_acl_default"] != list(1000, 4) {
			t.Errorf("%s: %q", when, d.Xattrs)
		}
		if !strings.HasSuffix(read(t, v.Root)["etc/a"], content) {
			t.Errorf("%s: %s", when, read(t, v.Root)["etc/a"])
		}
	}
	before := read(t, v.Root)
	outcome := v.carry(t)
	check("after the carry", "2")
	if len(outcome.Conflicts) > 0 || outcome.Carried != 2 {
		t.Errorf("%+v", outcome)
	}
	must(t, v.Undo(t.Context()))
	check("after the undo", "1")
	if diff := cmp.Diff(before, read(t, v.Root)); diff != "" {
		t.Errorf("after the undo (want -, got +):\n%s", diff)
	}
}

// Account files have what both sides wrote, passwords of this VM among it.
func TestAMergedAccountFileIsNotOpenedByARelease(t *testing.T) {
	old := files{"etc/shadow": "root:*:1::::::\n"}
	v := newVM(t, t.TempDir(), old, files{"etc/shadow": "root:secret:1::::::\n"}, old)
	for root, mode := range map[string]os.FileMode{v.old: 0o640, v.Root: 0o640, v.new: 0o644} {
		must(t, os.Chmod(root+"/etc/shadow", mode))
	}
	outcome := v.carry(t)
	if got := read(t, v.Root)["etc/shadow"]; !strings.HasPrefix(got, "-rw-r----- ") {
		t.Errorf("%s", got)
	}
	if len(outcome.Conflicts) != 1 || outcome.Conflicts[0].Kind != Restricted {
		t.Errorf("%v", outcome.Conflicts)
	}
}

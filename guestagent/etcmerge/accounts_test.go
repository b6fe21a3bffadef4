package etcmerge

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAccountsMergeByEntry(t *testing.T) {
	const root = "root:x:0:0:root:/root:/bin/bash\n"
	for _, test := range []struct {
		name, path, base, ours, theirs, want string
		conflicts                            int
	}{
		{name: "an added account comes", path: "etc/passwd", base: root, ours: root + "me:x:1000:1000::/home/me:/bin/sh\n",
			theirs: root + "sshd:x:990:990::/run/sshd:/bin/false\n",
			want:   root + "me:x:1000:1000::/home/me:/bin/sh\nsshd:x:990:990::/run/sshd:/bin/false\n"},
		{name: "a changed entry comes when it was not changed here", path: "etc/passwd", base: root, ours: root,
			theirs: "root:x:0:0:root:/root:/bin/sh\n", want: "root:x:0:0:root:/root:/bin/sh\n"},
		{name: "an entry changed here stays", path: "etc/shadow", base: "root:*:1::::::\n", ours: "root:$y$secret:2::::::\n",
			theirs: "root:*:1::::::\n", want: "root:$y$secret:2::::::\n"},
		{name: "an entry changed in both stays and is reported", path: "etc/shadow", base: "root:*:1::::::\n", ours: "root:$y$secret:2::::::\n",
			theirs: "root:*:9::::::\n", want: "root:$y$secret:2::::::\n", conflicts: 1},
		{name: "an entry that the release removes stays", path: "etc/group", base: "a:x:1:\nb:x:2:\n", ours: "a:x:1:\nb:x:2:\n",
			theirs: "a:x:1:\n", want: "a:x:1:\nb:x:2:\n"},
		{name: "an entry that was removed here stays away", path: "etc/group", base: "a:x:1:\nb:x:2:\n", ours: "a:x:1:\n",
			theirs: "a:x:1:\nb:x:3:\n", want: "a:x:1:\n"},
		{name: "a number that is taken here is refused", path: "etc/passwd", base: "", ours: "me:x:990:990::/:\n",
			theirs: "sshd:x:990:990::/:\n", want: "me:x:990:990::/:\n", conflicts: 1},
		{name: "members of both sides meet", path: "etc/group", base: "sudo:x:27:a\n", ours: "sudo:x:27:a,me\n",
			theirs: "sudo:x:27:a,svc\n", want: "sudo:x:27:a,me,svc\n"},
		{name: "a user can have several ranges", path: "etc/subuid", base: "", ours: "me:100000:65536\nme:200000:65536\n",
			theirs: "me:300000:65536\n", want: "me:100000:65536\nme:200000:65536\nme:300000:65536\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var accounts Accounts
			got, conflicts := accounts.Merge(test.path, test.base, test.ours, test.theirs)
			if got != test.want || len(conflicts) != test.conflicts {
				t.Errorf("got %q, conflicts %q; want %q", got, conflicts, test.want)
			}
		})
	}
}

func TestAPasswordIsRefusedWithItsAccount(t *testing.T) {
	var accounts Accounts
	_, conflicts := accounts.Merge("etc/passwd", "", "me:x:990:990::/:\n", "sshd:x:990:990::/:\nok:x:991:991::/:\n")
	got, _ := accounts.Merge("etc/shadow", "", "me:*:1::::::\n", "sshd:*:1::::::\nok:*:1::::::\n")
	if len(conflicts) != 1 || got != "me:*:1::::::\nok:*:1::::::\n" {
		t.Errorf("%q, %q", got, conflicts)
	}
}

// file draws an account file of few names and numbers, so that they meet.
func file(t *rapid.T, label string) string {
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), 0, 5, rapid.ID[string]).Draw(t, label)
	var text strings.Builder
	for _, name := range names {
		fmt.Fprintf(&text, "%s:x:%d:%s\n", name, rapid.IntRange(1, 6).Draw(t, "id"),
			strings.Join(rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"u", "v", "w"}), 0, 3, rapid.ID[string]).Draw(t, "members"), ","))
	}
	return text.String()
}

func TestNoEntryOfThisVMIsEverLostAndMergingTwiceIsMergingOnce(t *testing.T) {
	for _, path := range AccountOrder {
		t.Run(path, rapid.MakeCheck(func(t *rapid.T) {
			base, ours, theirs := file(t, "base"), file(t, "ours"), file(t, "theirs")
			var accounts Accounts
			merged, _ := accounts.Merge(path, base, ours, theirs)
			kind := accountFiles[path]
			has := kind.entries(merged)
			for name := range kind.entries(ours) {
				if _, kept := has[name]; !kept {
					t.Errorf("entry %q of this VM is lost in %q", name, merged)
				}
			}
			for name, line := range kind.entries(ours) {
				// What was changed here is never overwritten, but for members that the release adds.
				if was := kind.entries(base)[name]; was != line && kind.members == 0 && has[name] != line {
					t.Errorf("entry %q was changed here and became %q", line, has[name])
				}
			}
			var again Accounts
			if twice, _ := again.Merge(path, theirs, merged, theirs); twice != merged {
				t.Errorf("again: %q became %q", merged, twice)
			}
			if !slices.Equal(lines(merged), slices.Compact(lines(merged))) {
				t.Errorf("an entry stands twice in %q", merged)
			}
		}))
	}
}

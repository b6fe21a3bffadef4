package etcmerge

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
		{name: "a number that is taken here is replaced by a free one", path: "etc/passwd", base: "", ours: "me:x:990:990::/:\n",
			theirs: "sshd:x:990:990::/:\n", want: "me:x:990:990::/:\nsshd:x:999:990::/:\n", conflicts: 1},
		{name: "two accounts of the release may share a number", path: "etc/passwd", base: root, ours: root,
			theirs: root + "toor:x:0:0::/root:/bin/sh\n", want: root + "toor:x:0:0::/root:/bin/sh\n"},
		{name: "the number of an account stays", path: "etc/passwd", base: "svc:x:990:990::/:/bin/sh\n", ours: "svc:x:990:990::/:/bin/sh\n",
			theirs: "svc:x:991:990::/srv:/bin/sh\n", want: "svc:x:990:990::/srv:/bin/sh\n", conflicts: 1},
		{name: "a password that was set here and a shell that the release changes", path: "etc/passwd", base: "svc:x:9:9::/:/bin/sh\n",
			ours: "svc:*:9:9::/:/bin/sh\n", theirs: "svc:x:9:9::/:/bin/false\n", want: "svc:*:9:9::/:/bin/false\n"},
		{name: "a shell that refuses logins wins", path: "etc/passwd", base: "svc:x:9:9::/:/bin/sh\n",
			ours: "svc:x:9:9::/:/bin/zsh\n", theirs: "svc:x:9:9::/:/usr/sbin/nologin\n", want: "svc:x:9:9::/:/usr/sbin/nologin\n", conflicts: 1},
		{name: "a lock here wins", path: "etc/shadow", base: "svc:old:1::::::\n", ours: "svc:!old:1::::::\n",
			theirs: "svc:new:1::::::\n", want: "svc:!old:1::::::\n", conflicts: 1},
		{name: "a lock in the release wins", path: "etc/shadow", base: "svc:old:1::::::\n", ours: "svc:mine:1::::::\n",
			theirs: "svc:*:1::::::\n", want: "svc:!mine:1::::::\n", conflicts: 1},
		{name: "no password is the weakest one", path: "etc/shadow", base: "svc:old:1::::::\n", ours: "svc::1::::::\n",
			theirs: "svc:new:1::::::\n", want: "svc:new:1::::::\n", conflicts: 1},
		{name: "the earlier expiry wins", path: "etc/shadow", base: "svc:*:1:::::30:\n", ours: "svc:*:1:::::40:\n",
			theirs: "svc:*:1:::::20:\n", want: "svc:*:1:::::20:\n", conflicts: 1},
		{name: "a password set here and an age that the release changes", path: "etc/shadow", base: "svc:*:1:0:9::::\n",
			ours:   "svc:mine:1:0:9::::\n",
			theirs: "svc:*:1:0:7::::\n", want: "svc:mine:1:0:7::::\n"},
		{name: "an entry comes before the lines of NIS", path: "etc/passwd", base: root, ours: root + "-bad::::::\n+::::::\n",
			theirs: root + "sshd:x:990:990::/:\n", want: root + "sshd:x:990:990::/:\n-bad::::::\n+::::::\n"},
		{name: "lines that are no entries stay where they are", path: "etc/group", base: "", ours: "# mine\na:x:1:\n\nbroken\nb:x:2:\n",
			theirs: "c:x:3:\n", want: "# mine\na:x:1:\n\nbroken\nb:x:2:\nc:x:3:\n"},
		{name: "a line of NIS in the release is not taken", path: "etc/passwd", base: root, ours: root,
			theirs: root + "+::::::\n", want: root, conflicts: 1},
		{name: "a member that the release removes goes", path: "etc/group", base: "sudo:x:27:a,svc\n", ours: "sudo:x:27:a,svc,me\n",
			theirs: "sudo:x:27:a\n", want: "sudo:x:27:a,me\n"},
		{name: "a member that was removed here stays removed", path: "etc/group", base: "sudo:x:27:a,b\n", ours: "sudo:x:27:a\n",
			theirs: "sudo:x:27:a,b,c\n", want: "sudo:x:27:a,c\n"},
		{name: "a range that overlaps another account's is left out", path: "etc/subuid", base: "", ours: "me:100000:65536\n",
			theirs: "svc:165535:10\nok:165536:10\n", want: "me:100000:65536\nok:165536:10\n", conflicts: 1},
		{name: "members of both sides meet", path: "etc/group", base: "sudo:x:27:a\n", ours: "sudo:x:27:a,me\n",
			theirs: "sudo:x:27:a,svc\n", want: "sudo:x:27:a,me,svc\n"},
		{name: "a user can have several ranges", path: "etc/subuid", base: "", ours: "me:100000:65536\nme:200000:65536\n",
			theirs: "me:300000:65536\n", want: "me:100000:65536\nme:200000:65536\nme:300000:65536\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, conflicts := mergeOne(test.path, test.base, test.ours, test.theirs)
			if got != test.want || len(conflicts) != test.conflicts {
				t.Errorf("got %q, conflicts %q; want %q", got, conflicts, test.want)
			}
		})
	}
}

// mergeOne merges one file alone.
func mergeOne(path, base, ours, theirs string) (string, []Conflict) {
	result := MergeAccounts(AccountTexts{path: base}, AccountTexts{path: ours}, AccountTexts{path: theirs})
	return result.Texts[path], result.Conflicts
}

// A group that gets another number takes the users with it that have it as their own.
func TestAUserOfTheReleaseIsInTheGroupOfTheRelease(t *testing.T) {
	base := AccountTexts{"etc/passwd": "", "etc/group": ""}
	ours := AccountTexts{"etc/passwd": "me:x:990:990::/:\n", "etc/group": "mine:x:990:\n"}
	theirs := AccountTexts{"etc/passwd": "sshd:x:990:990::/:\nok:x:991:991::/:\n", "etc/group": "sshd:x:990:\nok:x:991:\n"}
	got := MergeAccounts(base, ours, theirs)
	if want := "me:x:990:990::/:\nsshd:x:999:999::/:\nok:x:991:991::/:\n"; got.Texts["etc/passwd"] != want {
		t.Errorf("users %q", got.Texts["etc/passwd"])
	}
	if want := "mine:x:990:\nsshd:x:999:\nok:x:991:\n"; got.Texts["etc/group"] != want {
		t.Errorf("groups %q", got.Texts["etc/group"])
	}
	if got.Users.Of(990) != 999 || got.Groups.Of(990) != 999 || got.Users.Of(991) != 991 {
		t.Errorf("numbers %v, %v", got.Users, got.Groups)
	}
	for _, c := range got.Conflicts {
		if c.Kind != AccountNumber || c.Advice() == "" {
			t.Errorf("conflict %+v", c)
		}
	}
}

// What a release says about one of its accounts is not about a local account that has its name by chance.
func TestALocalAccountGetsNothingThatTheReleaseGivesItsOwn(t *testing.T) {
	base := AccountTexts{"etc/passwd": "", "etc/group": "docker:x:990:\n", "etc/shadow": "", "etc/gshadow": "docker:!::\n", "etc/subuid": ""}
	ours := AccountTexts{"etc/passwd": "svc:x:1000:1000::/:\n", "etc/group": "docker:x:990:\n", "etc/shadow": "",
		"etc/gshadow": "docker:!::\n", "etc/subuid": ""}
	theirs := AccountTexts{
		"etc/passwd": "svc:x:980:980::/:\nnew:x:981:981::/:\n", "etc/group": "docker:x:990:svc,new\n",
		"etc/shadow": "svc:secret:1::::::\nnew:*:1::::::\n", "etc/gshadow": "docker:!:svc:svc,new\n",
		"etc/subuid": "svc:100000:65536\nnew:200000:65536\n",
	}
	want := AccountTexts{
		"etc/passwd": "svc:x:1000:1000::/:\nnew:x:981:981::/:\n", "etc/group": "docker:x:990:new\n",
		"etc/shadow": "new:*:1::::::\n", "etc/gshadow": "docker:!::new\n", "etc/subuid": "new:200000:65536\n",
	}
	got := MergeAccounts(base, ours, theirs)
	if diff := cmp.Diff(want, got.Texts); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if !slices.ContainsFunc(got.Conflicts, func(c Conflict) bool { return c.Kind == AccountName && c.Path == "etc/passwd" }) {
		t.Errorf("it is not reported: %v", got.Conflicts)
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
			merged, _ := mergeOne(path, base, ours, theirs)
			kind := accountFiles[path]
			has, had := byName(kind.parse(merged)), byName(kind.parse(base))
			for name, line := range byName(kind.parse(ours)) {
				now, kept := has[name]
				if !kept {
					t.Errorf("entry %q of this VM is lost in %q", name, merged)
				}
				// What was changed here is never overwritten, but for lists of names and what allows less.
				for i, field := range line.fields {
					was, existed := had[name]
					if existed && was.field(i) != field && kind.fields[i] == plainField && now.field(i) != field {
						t.Errorf("entry %q was changed here and became %q", line.text, now.text)
					}
				}
			}
			numbers := map[string]string{}
			for name, line := range has {
				if _, here := byName(kind.parse(ours))[name]; kind.fields[numberIndex] != numberField || here {
					continue
				}
				numbers[line.field(numberIndex)] = name
			}
			for name, line := range byName(kind.parse(ours)) {
				number := line.field(numberIndex)
				added := numbers[number]
				next := byName(kind.parse(theirs))
				if added != "" && (next[added].field(numberIndex) != number || next[name].field(numberIndex) != number) {
					t.Errorf("%q was added with the number of %q: %q", added, name, merged)
				}
			}
			if twice, _ := mergeOne(path, theirs, merged, theirs); twice != merged {
				t.Errorf("again: %q became %q", merged, twice)
			}
			if all := strings.Split(merged, "\n"); !slices.Equal(all, slices.Compact(slices.Clone(all))) {
				t.Errorf("an entry stands twice in %q", merged)
			}
		}))
	}
}

package etcmerge

import (
	"fmt"
	"maps"
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
		{name: "an added account comes", path: "etc/passwd", base: root,
			ours:   root + "me:x:1000:1000::/home/me:/bin/sh\n",
			theirs: root + "sshd:x:990:990::/run/sshd:/bin/false\n",
			want:   root + "me:x:1000:1000::/home/me:/bin/sh\nsshd:x:990:990::/run/sshd:/bin/false\n"},
		{name: "a changed entry comes when it was not changed here", path: "etc/passwd", base: root, ours: root,
			theirs: "root:x:0:0:root:/root:/bin/sh\n", want: "root:x:0:0:root:/root:/bin/sh\n"},
		{name: "an entry changed here stays", path: "etc/shadow", base: "root:*:1::::::\n",
			ours:   "root:$y$secret:2::::::\n",
			theirs: "root:*:1::::::\n", want: "root:$y$secret:2::::::\n"},
		{name: "an entry changed in both stays and is reported", path: "etc/shadow", base: "root:*:1::::::\n",
			ours:   "root:$y$secret:2::::::\n",
			theirs: "root:*:9::::::\n", want: "root:$y$secret:2::::::\n", conflicts: 1},
		{name: "an entry that the release removes stays", path: "etc/group", base: "a:x:1:\nb:x:2:\n",
			ours:   "a:x:1:\nb:x:2:\n",
			theirs: "a:x:1:\n", want: "a:x:1:\nb:x:2:\n"},
		{name: "an entry that was removed here stays away", path: "etc/group",
			base: "a:x:1:\nb:x:2:\n", ours: "a:x:1:\n",
			theirs: "a:x:1:\nb:x:3:\n", want: "a:x:1:\n"},
		{name: "a number that is taken here is replaced by a free one", path: "etc/passwd", base: "",
			ours:   "me:x:990:990::/:\n",
			theirs: "sshd:x:990:990::/:\n", want: "me:x:990:990::/:\nsshd:x:999:990::/:\n", conflicts: 1},
		{name: "two accounts of the release may share a number", path: "etc/passwd", base: root, ours: root,
			theirs: root + "toor:x:0:0::/root:/bin/sh\n", want: root + "toor:x:0:0::/root:/bin/sh\n"},
		{name: "the number of an account stays", path: "etc/passwd", base: "svc:x:990:990::/:/bin/sh\n",
			ours:   "svc:x:990:990::/:/bin/sh\n",
			theirs: "svc:x:991:990::/srv:/bin/sh\n", want: "svc:x:990:990::/srv:/bin/sh\n", conflicts: 1},
		{name: "a password that was set here and a shell that the release changes", path: "etc/passwd",
			base: "svc:x:9:9::/:/bin/sh\n",
			ours: "svc:*:9:9::/:/bin/sh\n", theirs: "svc:x:9:9::/:/bin/false\n", want: "svc:*:9:9::/:/bin/false\n"},
		{name: "a shell that refuses logins wins", path: "etc/passwd", base: "svc:x:9:9::/:/bin/sh\n",
			ours: "svc:x:9:9::/:/bin/zsh\n", theirs: "svc:x:9:9::/:/usr/sbin/nologin\n",
			want: "svc:x:9:9::/:/usr/sbin/nologin\n", conflicts: 1},
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
		{name: "an entry comes before the lines of NIS", path: "etc/passwd", base: root,
			ours:   root + "-bad::::::\n+::::::\n",
			theirs: root + "sshd:x:990:990::/:\n", want: root + "sshd:x:990:990::/:\n-bad::::::\n+::::::\n"},
		{name: "lines that are no entries stay where they are", path: "etc/group", base: "",
			ours:   "# mine\na:x:1:\n\nbroken\nb:x:2:\n",
			theirs: "c:x:3:\n", want: "# mine\na:x:1:\n\nbroken\nb:x:2:\nc:x:3:\n"},
		{name: "a line of NIS in the release is not taken", path: "etc/passwd", base: root, ours: root,
			theirs: root + "+::::::\n", want: root, conflicts: 1},
		{name: "a member that the release removes goes", path: "etc/group", base: "sudo:x:27:a,svc\n",
			ours:   "sudo:x:27:a,svc,me\n",
			theirs: "sudo:x:27:a\n", want: "sudo:x:27:a,me\n"},
		{name: "a member that was removed here stays removed", path: "etc/group",
			base: "sudo:x:27:a,b\n", ours: "sudo:x:27:a\n",
			theirs: "sudo:x:27:a,b,c\n", want: "sudo:x:27:a,c\n"},
		{name: "a range that overlaps another account's is left out", path: "etc/subuid", base: "",
			ours:   "me:100000:65536\n",
			theirs: "svc:165535:10\nok:165536:10\n", want: "me:100000:65536\nok:165536:10\n", conflicts: 1},
		{name: "members of both sides meet", path: "etc/group", base: "sudo:x:27:a\n", ours: "sudo:x:27:a,me\n",
			theirs: "sudo:x:27:a,svc\n", want: "sudo:x:27:a,me,svc\n"},
		{name: "a user can have several ranges", path: "etc/subuid", base: "",
			ours:   "me:100000:65536\nme:200000:65536\n",
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
	theirs := AccountTexts{"etc/passwd": "sshd:x:990:990::/:\nok:x:991:991::/:\n",
		"etc/group": "sshd:x:990:\nok:x:991:\n"}
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
	base := AccountTexts{"etc/passwd": "", "etc/group": "docker:x:990:\n", "etc/shadow": "",
		"etc/gshadow": "docker:!::\n", "etc/subuid": ""}
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
	if !slices.ContainsFunc(got.Conflicts,
		func(c Conflict) bool { return c.Kind == AccountName && c.Path == "etc/passwd" }) {
		t.Errorf("it is not reported: %v", got.Conflicts)
	}
}

// laterBase is the old side of the merge after one of theirs, as a carry keeps it.
func laterBase(theirs AccountTexts, merged AccountMerge) AccountTexts {
	base := maps.Clone(theirs)
	maps.Copy(base, merged.Left)
	return base
}

func kindsAt(conflicts []Conflict, path string) []Kind {
	var kinds []Kind
	for _, c := range conflicts {
		if c.Path == path {
			kinds = append(kinds, c.Kind)
		}
	}
	return kinds
}

// A local account stays one over all later releases, until it has another name: then the release's comes, with all that
// belongs to it.
func TestALocalAccountIsNotTheReleasesInALaterRelease(t *testing.T) {
	const root = "root:x:0:0::/root:/bin/sh\n"
	base := AccountTexts{"etc/passwd": root, "etc/group": "root:x:0:\ndocker:x:991:\n",
		"etc/shadow": "root:*:1::::::\n", "etc/gshadow": ""}
	ours := AccountTexts{
		"etc/passwd": root + "acme:x:1001:1001::/home/acme:/bin/bash\n",
		"etc/group":  base["etc/group"] + "acme:x:1001:me\n",
		"etc/shadow": base["etc/shadow"] + "acme:hash:1::::::\n", "etc/gshadow": "acme:!::me\n",
	}
	second := AccountTexts{
		"etc/passwd": root + "acme:x:990:990::/:/usr/sbin/nologin\n",
		"etc/group":  "root:x:0:\ndocker:x:991:acme\nacme:x:990:\n",
		"etc/shadow": base["etc/shadow"] + "acme:!*:1::::::\n", "etc/gshadow": "acme:!::\n",
	}
	merged := MergeAccounts(base, ours, second)
	if diff := cmp.Diff(ours, merged.Texts); diff != "" {
		t.Errorf("the second release changed (-want, +got):\n%s", diff)
	}
	third := AccountTexts{
		"etc/passwd": root + "acme:x:990:990::/:/bin/false\nsvc:x:980:990::/:/bin/false\n",
		"etc/group":  "root:x:0:\ndocker:x:991:acme\nacme:x:990:svc\nshadow:x:42:acme\n",
		"etc/shadow": base["etc/shadow"] + "acme:!*:9::::::\nsvc:*:9::::::\n", "etc/gshadow": "acme:!:svc:svc\n",
	}
	want := maps.Clone(ours)
	want["etc/passwd"] += "svc:x:980:990::/:/bin/false\n"
	want["etc/group"] += "shadow:x:42:\n"
	want["etc/shadow"] += "svc:*:9::::::\n"
	merged = MergeAccounts(laterBase(second, merged), merged.Texts, third)
	if diff := cmp.Diff(want, merged.Texts); diff != "" {
		t.Errorf("the third release changed (-want, +got):\n%s", diff)
	}
	for _, path := range []string{"etc/passwd", "etc/group"} {
		if kinds := kindsAt(merged.Conflicts, path); !slices.Contains(kinds, AccountName) {
			t.Errorf("%s: it is not reported: %v", path, merged.Conflicts)
		}
	}
	if of := merged.Groups.Of(990); of != 990 {
		t.Errorf("files of the release's group belong to group %d", of)
	}
	for name, text := range merged.Texts {
		merged.Texts[name] = strings.ReplaceAll(text, "acme:", "human:")
	}
	merged = MergeAccounts(laterBase(third, merged), merged.Texts, third)
	for path, line := range map[string]string{"etc/passwd": "acme:x:990:990::/:/bin/false",
		"etc/group":  "docker:x:991:acme",
		"etc/shadow": "acme:!*:9::::::", "etc/gshadow": "acme:!:svc:svc"} {
		if !strings.Contains(merged.Texts[path], line+"\n") {
			t.Errorf("after the local account was renamed, %s is %q", path, merged.Texts[path])
		}
	}
	if len(merged.Left) > 0 || len(merged.Conflicts) > 0 {
		t.Errorf("still left: %v, %v", merged.Left, merged.Conflicts)
	}
}

// A component that comes back finds the account that it has left.
func TestASystemAccountWithTheReleasesNameAndNumberIsTheReleases(t *testing.T) {
	const svc = "svc:x:980:980::/:/bin/false\n"
	base := AccountTexts{"etc/passwd": "", "etc/group": "docker:x:991:\n"}
	theirs := AccountTexts{"etc/passwd": svc, "etc/group": "docker:x:991:svc\nsvc:x:980:\n"}
	got := MergeAccounts(base, AccountTexts{"etc/passwd": svc, "etc/group": "docker:x:991:\nsvc:x:980:\n"}, theirs)
	if got.Texts["etc/group"] != theirs["etc/group"] || len(got.Conflicts) > 0 {
		t.Errorf("%q, %v", got.Texts["etc/group"], got.Conflicts)
	}
	for name, other := range map[string]string{"a shell": "svc:x:980:980::/:/bin/bash\n",
		"a number of a user": "svc:x:1980:980::/:/bin/false\n"} {
		if name == "a number of a user" {
			theirs["etc/passwd"] = other
		}
		got := MergeAccounts(base,
			AccountTexts{"etc/passwd": other, "etc/group": "docker:x:991:\nsvc:x:980:\n"}, theirs)
		if kinds := kindsAt(got.Conflicts, "etc/passwd"); got.Texts["etc/group"] == theirs["etc/group"] ||
			!slices.Equal(kinds, []Kind{AccountName}) {
			t.Errorf("%s: %q, %v", name, got.Texts["etc/group"], got.Conflicts)
		}
		theirs["etc/passwd"] = svc
	}
}

func TestAUserWithoutItsPrimaryGroupIsLeftOut(t *testing.T) {
	const root, user = "root:x:0:0::/root:/bin/sh\n", "acmed:x:501:500::/:/bin/false\n"
	for name, test := range map[string]struct{ base, ours, theirs string }{
		"the group was removed here and its number given away": {"acme:x:500:\n", "staff:x:500:\n", "acme:x:500:\n"},
		"the release has no such group, and this VM has":       {"", "staff:x:500:me\n", ""},
		"it is a local group of that name and number":          {"", "acme:x:1500:\nstaff:x:500:\n", "acme:x:500:\n"},
	} {
		t.Run(name, func(t *testing.T) {
			const docker = "docker:x:991:"
			ours := AccountTexts{"etc/group": "root:x:0:\n" + docker + "\n" + test.ours,
				"etc/passwd": root, "etc/shadow": ""}
			theirs := AccountTexts{"etc/group": "root:x:0:\n" + docker + "acmed\n" + test.theirs,
				"etc/passwd": root + user, "etc/shadow": "acmed:*:1::::::\n"}
			got := MergeAccounts(AccountTexts{"etc/group": "root:x:0:\n" + docker + "\n" + test.base,
				"etc/passwd": root}, ours, theirs)
			if diff := cmp.Diff(ours, got.Texts); diff != "" {
				t.Errorf("-want, +got:\n%s", diff)
			}
			if kinds := kindsAt(got.Conflicts, "etc/passwd"); !slices.Equal(kinds, []Kind{AccountLeft}) {
				t.Errorf("%v", got.Conflicts)
			}
			// It comes once the group's number is free.
			got.Texts["etc/group"] = strings.Replace(got.Texts["etc/group"], "staff:x:500:", "staff:x:700:", 1)
			got = MergeAccounts(laterBase(theirs, got), got.Texts, theirs)
			if !strings.Contains(got.Texts["etc/passwd"], user) ||
				!strings.Contains(got.Texts["etc/group"], docker+"acmed\n") ||
				got.Texts["etc/shadow"] != theirs["etc/shadow"] {
				t.Errorf("it does not come: %q", got.Texts)
			}
		})
	}
	// A user that is here keeps its group.
	groups := AccountTexts{"etc/group": "a:x:400:\nacme:x:500:\n", "etc/passwd": "svc:x:5:400::/:/bin/false\n"}
	ours := AccountTexts{"etc/group": "a:x:400:\nstaff:x:500:\n", "etc/passwd": groups["etc/passwd"]}
	got := MergeAccounts(groups, ours,
		AccountTexts{"etc/group": groups["etc/group"], "etc/passwd": "svc:x:5:500::/:/bin/false\n"})
	if got.Texts["etc/passwd"] != ours["etc/passwd"] ||
		!slices.Equal(kindsAt(got.Conflicts, "etc/passwd"), []Kind{AccountLeft}) {
		t.Errorf("%q, %v", got.Texts["etc/passwd"], got.Conflicts)
	}
}

func TestNumbersAreComparedAndNotTexts(t *testing.T) {
	got, conflicts := mergeOne("etc/passwd", "", "me:x:0990:1000::/:/bin/sh\n", "svc:x:990:990::/:\n")
	if want := "me:x:0990:1000::/:/bin/sh\nsvc:x:999:990::/:\n"; got != want || len(conflicts) != 1 {
		t.Errorf("%q, %v", got, conflicts)
	}
}

func TestNobodyGetsSubordinatesThatAreAnothersNumber(t *testing.T) {
	const svc, ids = "svc:x:980:980::/:\n", "svc:100000:65536\n"
	theirs := AccountTexts{"etc/passwd": svc + "old:x:100600:1::/:\n", "etc/group": "",
		"etc/subuid": ids, "etc/subgid": ids}
	for name, test := range map[string]struct {
		users, groups, subuid, subgid string
		kinds                         int
	}{
		"a user here":           {"me:x:100500:1::/:\n", "", "", ids, 1},
		"a group here":          {"", "mine:x:165535:\n", ids, "", 1},
		"beside":                {"me:x:99999:1::/:\nyou:x:165536:1::/:\n", "", ids, ids, 0},
		"the release's account": {"old:x:100600:1::/:\n", "", ids, ids, 0},
	} {
		ours := AccountTexts{"etc/passwd": test.users, "etc/group": test.groups, "etc/subuid": "", "etc/subgid": ""}
		got := MergeAccounts(AccountTexts{"etc/passwd": "old:x:100600:1::/:\n"}, ours, theirs)
		if got.Texts["etc/subuid"] != test.subuid || got.Texts["etc/subgid"] != test.subgid ||
			len(got.Conflicts) != test.kinds {
			t.Errorf("%s: %q, %v", name, got.Texts, got.Conflicts)
		}
	}
	// Nor does the owner of a range here get an account of the release.
	ours := AccountTexts{"etc/passwd": "me:x:1000:1::/:\n", "etc/subuid": "me:700:300\n"}
	got := MergeAccounts(AccountTexts{}, ours, AccountTexts{"etc/passwd": "svc:x:990:1::/:\n", "etc/subuid": ""})
	if want := "me:x:1000:1::/:\nsvc:x:699:1::/:\n"; got.Texts["etc/passwd"] != want ||
		!slices.Equal(kindsAt(got.Conflicts, "etc/passwd"), []Kind{AccountNumber}) {
		t.Errorf("%q, %v", got.Texts["etc/passwd"], got.Conflicts)
	}
}

// file draws an account file of few names and numbers, so that they meet.
func file(t *rapid.T, label string) string {
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), 0, 5,
		rapid.ID[string]).Draw(t, label)
	var text strings.Builder
	for _, name := range names {
		fmt.Fprintf(&text, "%s:x:%d:%s\n", name, rapid.IntRange(1, 6).Draw(t, "id"),
			strings.Join(rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"u", "v", "w"}), 0, 3,
				rapid.ID[string]).Draw(t, "members"), ","))
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
				if added != "" && (next[added].field(numberIndex) != number ||
					next[name].field(numberIndex) != number) {
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

package etcmerge

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestAnUndoOfAccountsTakesWhatTheCarryBroughtAndNothingElse(t *testing.T) {
	const root, svc, me, tss = "root:x:0:0::/root:/bin/sh\n", "svc:x:980:980::/:/bin/false\n",
		"me:x:1000:1000::/:/bin/sh\n", "tss:x:979:979::/:/bin/false\n"
	for name, test := range map[string]struct {
		before, after, now, want AccountTexts
		left                     []string
	}{
		"accounts that were added since stay": {
			AccountTexts{"etc/passwd": root, "etc/group": "docker:x:991:\n", "etc/shadow": ""},
			AccountTexts{"etc/passwd": root + svc, "etc/group": "docker:x:991:svc\nsvc:x:980:\n",
				"etc/shadow": "svc:*:1::::::\n"},
			AccountTexts{"etc/passwd": root + svc + tss, "etc/group": "docker:x:991:svc,tss\nsvc:x:980:\ntss:x:979:\n",
				"etc/shadow": "svc:*:1::::::\ntss:*:1::::::\n"},
			AccountTexts{"etc/passwd": root + tss, "etc/group": "docker:x:991:tss\ntss:x:979:\n",
				"etc/shadow": "tss:*:1::::::\n"}, nil,
		},
		"fields go back that are as the carry left them": {
			AccountTexts{"etc/passwd": "svc:x:980:980::/:/bin/false\n"},
			AccountTexts{"etc/passwd": "svc:x:980:980:new:/srv:/bin/sh\n"},
			AccountTexts{"etc/passwd": "svc:x:980:980:mine:/srv:/bin/sh\n" + me},
			AccountTexts{"etc/passwd": "svc:x:980:980:mine:/:/bin/false\n" + me}, []string{"etc/passwd"},
		},
		"a member that the carry removed comes back": {
			AccountTexts{"etc/group": "a:x:1:b,c\n"}, AccountTexts{"etc/group": "a:x:1:c\n"},
			AccountTexts{"etc/group": "a:x:1:c,d\n"},
			AccountTexts{"etc/group": "a:x:1:c,d,b\n"}, nil,
		},
		"an account that was changed since stays with its password and without its memberships": {
			AccountTexts{"etc/passwd": root, "etc/group": "docker:x:991:\n", "etc/shadow": ""},
			AccountTexts{"etc/passwd": root + svc, "etc/group": "docker:x:991:svc\n", "etc/shadow": "svc:*:1::::::\n"},
			AccountTexts{"etc/passwd": root + "svc:x:980:980::/:/bin/bash\n", "etc/group": "docker:x:991:svc\n",
				"etc/shadow": "svc:hash:1::::::\n"},
			AccountTexts{"etc/passwd": root + "svc:x:980:980::/:/bin/bash\n", "etc/group": "docker:x:991:\n",
				"etc/shadow": "svc:hash:1::::::\n"},
			[]string{"etc/passwd"},
		},
		"what belongs to an account goes with it": {
			AccountTexts{"etc/passwd": root, "etc/shadow": ""},
			AccountTexts{"etc/passwd": root + svc, "etc/shadow": "svc:*:1::::::\n"},
			AccountTexts{"etc/passwd": root + svc, "etc/shadow": "svc:hash:1::::::\n"},
			AccountTexts{"etc/passwd": root, "etc/shadow": ""}, nil,
		},
		"a group with a member of this VM stays": {
			AccountTexts{"etc/group": "a:x:1:\n"}, AccountTexts{"etc/group": "a:x:1:\ndocker:x:991:svc\n"},
			AccountTexts{"etc/group": "a:x:1:\ndocker:x:991:svc,me\n"},
			AccountTexts{"etc/group": "a:x:1:\ndocker:x:991:me\n"}, []string{"etc/group"},
		},
		"a group that a user has since stays": {
			AccountTexts{"etc/passwd": root, "etc/group": ""},
			AccountTexts{"etc/passwd": root, "etc/group": "web:x:1000:\n"},
			AccountTexts{"etc/passwd": root + me, "etc/group": "web:x:1000:\n"},
			AccountTexts{"etc/passwd": root + me, "etc/group": "web:x:1000:\n"}, []string{"etc/group"},
		},
		"lines that are no entries and entries that were removed since": {
			AccountTexts{"etc/passwd": root}, AccountTexts{"etc/passwd": root + svc},
			AccountTexts{"etc/passwd": "# mine\n" + root + "+::::::\n"},
			AccountTexts{"etc/passwd": "# mine\n" + root + "+::::::\n"}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, conflicts := undoAccounts(test.before, test.after, test.now)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want, +got:\n%s", diff)
			}
			var left []string
			for _, c := range conflicts {
				if left = append(left, c.Path); c.Kind != LeftInPlace {
					t.Errorf("%+v", c)
				}
			}
			if !slices.Equal(left, test.left) {
				t.Errorf("reported are %q", conflicts)
			}
			if again, _ := undoAccounts(test.before, test.after, got); !cmp.Equal(again, got) {
				t.Errorf("done twice it is %q", again)
			}
		})
	}
}

func TestAnUndoOfAMergeOfAccountsIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) AccountTexts {
			return AccountTexts{"etc/group": file(t, label), "etc/gshadow": file(t, label),
				"etc/shadow": file(t, label)}
		}
		base, ours, theirs := draw("base"), draw("ours"), draw("theirs")
		after := MergeAccounts(base, ours, theirs).Texts
		now := AccountTexts{}
		for path, text := range after {
			now[path] = text + "local:x:77:local\n"
		}
		got, conflicts := undoAccounts(ours, after, now)
		for path, text := range got {
			kind := accountFiles[path]
			has, had := byName(kind.parse(text)), byName(kind.parse(ours[path]+"local:x:77:local\n"))
			for name, line := range has {
				was, is := had[name]
				for i := range line.fields {
					sorted := func(l accountLine) []string { return slices.Sorted(slices.Values(members(l.field(i)))) }
					if !is || !slices.Equal(sorted(line), sorted(was)) {
						t.Errorf("%s has %q, and had %q", path, line.text, was.text)
					}
				}
			}
			if len(has) != len(had) || len(conflicts) > 0 {
				t.Errorf("%s: %q of %q, %v", path, text, ours[path], conflicts)
			}
		}
	})
}

// systemd-sysusers adds accounts after the carry, and a rollback takes back what the carry brought all the same.
func TestAnUndoAfterAccountsWereAddedTakesTheReleasesAway(t *testing.T) {
	const passwd, group = "root:x:0:0::/root:/bin/sh\n", "root:x:0:\ndocker:x:991:\n"
	old := files{"etc/passwd": passwd, "etc/group": group, "etc/a": "1"}
	v := newVM(t, t.TempDir(), old, old, files{"etc/passwd": passwd + "svc:x:980:980::/:/bin/false\n",
		"etc/group": "root:x:0:\ndocker:x:991:svc\n", "etc/a": "2"})
	must(t, os.Chmod(v.new+"/etc/group", 0o600))
	v.carry(t)
	for name, line := range map[string]string{"etc/passwd": "tss:x:979:979::/:/bin/false\n",
		"etc/group": "tss:x:979:\n"} {
		data, err := os.ReadFile(v.Root + "/" + name)
		must(t, err)
		must(t, os.WriteFile(v.Root+"/"+name, append(data, line...), 0o600))
	}
	must(t, os.WriteFile(v.Root+"/etc/a", []byte("my own"), 0o600))
	var told []string
	v.Skipped = func(c Conflict) { told = append(told, string(c.Kind)+" "+c.Path) }
	must(t, v.Undo(t.Context()))
	got := read(t, v.Root)
	for name, want := range map[string]string{
		"etc/passwd": passwd + "tss:x:979:979::/:/bin/false\n", "etc/group": group + "tss:x:979:\n", "etc/a": "my own",
	} {
		if !strings.HasSuffix(got[name], " "+want) || !strings.HasPrefix(got[name], "-rw-r--r-- ") {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if want := []string{string(LeftInPlace) + " etc/a"}; !slices.Equal(told, want) {
		t.Errorf("told is %q, want %q", told, want)
	}
}

// A user that was made since has a group of the release, so the group stays, though nothing else of
// the accounts is undone.
func TestAnUndoLeavesTheGroupOfAUserThatWasMadeSince(t *testing.T) {
	const passwd, group = "root:x:0:0::/root:/bin/sh\n", "root:x:0:\n"
	old := files{"etc/passwd": passwd, "etc/group": group}
	v := newVM(t, t.TempDir(), old, old, files{"etc/passwd": passwd, "etc/group": group + "shared:x:990:\n"})
	v.carry(t)
	const bob = "bob:x:1000:990::/home/bob:/bin/bash\n"
	must(t, os.WriteFile(v.Root+"/etc/passwd", []byte(passwd+bob), 0o644))
	var told []string
	v.Skipped = func(c Conflict) { told = append(told, string(c.Kind)+" "+c.Path) }
	must(t, v.Undo(t.Context()))
	got := read(t, v.Root)
	if !strings.HasSuffix(got["etc/group"], group+"shared:x:990:\n") ||
		!strings.HasSuffix(got["etc/passwd"], passwd+bob) {
		t.Errorf("group is %q, passwd %q", got["etc/group"], got["etc/passwd"])
	}
	if want := []string{string(LeftInPlace) + " etc/group"}; !slices.Equal(told, want) {
		t.Errorf("told is %q, want %q", told, want)
	}
}

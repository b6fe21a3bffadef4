package etcmerge

import (
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// A component comes, goes, and comes back in another version.
func TestConfigurationOfAComponentStaysWhenItGoes(t *testing.T) {
	directory := t.TempDir()
	base := files{"etc/base": "1", "etc/gone": "1", "usr/lib/x": "1"}
	with := maps.Clone(base)
	maps.Copy(with, files{
		"etc/web/conf": "1", "etc/web/mine": "1", "etc/web/deleted": "1", "etc/web/empty/": "", "etc/web/on": "-> conf",
		"etc/web/program": "-> /usr/sbin/web",
		"etc/web/nowhere": "-> ../absent", "etc/alternatives/web": "-> /usr/sbin/web", "etc/init.d/web": "1",
		"etc/rc3.d/S01web":                                       "-> ../init.d/web",
		"etc/systemd/system/web.service.d/x.conf":                "1",
		"etc/systemd/system/multi-user.target.wants/web.service": "-> /usr/lib/systemd/system/web.service",
		"usr/sbin/web":                                           "1", "usr/lib/systemd/system/web.service": "1",
	})
	later := maps.Clone(with)
	maps.Copy(later, files{"etc/web/conf": "2", "etc/web/mine": "2", "etc/web/deleted": "2", "etc/web/new": "2"})
	patched := files{"etc/base": "1", "usr/lib/x": "1"} // the base itself takes a file away
	trees := map[string]files{"base": base, "with": with, "later": later, "patched": patched}
	for name, content := range trees {
		content.write(t, directory+"/"+name)
	}
	live := files{"etc/base": "1", "etc/gone": "1"}
	live.write(t, directory+"/live")
	c := Carrier{Root: directory + "/live", Record: directory + "/record"}
	must(t, c.WriteBaseline(listed(t, directory+"/base")))
	move := func(from, to, base string) Outcome {
		t.Helper()
		old, err := c.Baseline()
		must(t, err)
		c.From, c.To, c.Base = from, to, ""
		if base != "" {
			c.Base = directory + "/" + base
		}
		all := slices.DeleteFunc(differences(t, directory+"/"+from, directory+"/"+to),
			func(d Difference) bool { return tree.OwnerOf(d.Path) == tree.OwnedByOS })
		outcome, err := c.Carry(t.Context(), old, all, directory+"/"+to)
		must(t, err)
		must(t, c.Settle(to))
		return outcome
	}
	has := func(what string, want map[string]string) {
		t.Helper()
		got := read(t, directory+"/live")
		found := map[string]string{}
		for name := range want {
			if text, there := got[name]; there {
				found[name] = text[len("-rw-r--r-- 0:0 "):]
			}
			if want[name] == "gone" {
				delete(want, name)
			}
		}
		if diff := cmp.Diff(want, found); diff != "" {
			t.Errorf("%s (want -, got +):\n%s", what, diff)
		}
	}
	move("base", "with", "base")
	has("there", map[string]string{"etc/web/conf": "1",
		"etc/alternatives/web": "-> /usr/sbin/web", "etc/init.d/web": "1"})
	must(t, os.WriteFile(directory+"/live/etc/web/mine", []byte("mine"), 0o644))
	outcome := move("with", "patched", "")
	if len(outcome.Conflicts) > 0 {
		t.Errorf("conflicts: %v", outcome.Conflicts)
	}
	has("gone", map[string]string{
		"etc/web/conf": "1", "etc/web/mine": "mine", "etc/web/on": "-> conf", "etc/web/empty": "gone",
		"etc/web/program": "gone", "etc/web/nowhere": "gone",
		"etc/alternatives/web": "gone", "etc/init.d/web": "gone", "etc/rc3.d/S01web": "gone",
		"etc/systemd/system/web.service.d/x.conf":                "gone",
		"etc/systemd/system/multi-user.target.wants/web.service": "gone", "etc/gone": "gone",
	})
	must(t, os.Remove(directory+"/live/etc/web/deleted"))
	outcome = move("patched", "later", "patched")
	if len(outcome.Conflicts) != 1 || outcome.Conflicts[0].Path != "etc/web/mine" {
		t.Errorf("conflicts: %v", outcome.Conflicts)
	}
	has("there again", map[string]string{
		"etc/web/conf": "2", "etc/web/mine": "mine", "etc/web/deleted": "2", "etc/web/new": "2",
		"etc/alternatives/web": "-> /usr/sbin/web", "etc/init.d/web": "1",
	})
	// Going twice is no different from going once.
	move("later", "patched", "")
	has("gone again", map[string]string{"etc/web/conf": "2", "etc/web/mine": "mine", "etc/web/new": "2",
		"etc/init.d/web": "gone"})
}

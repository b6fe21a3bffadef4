package etcmerge

import (
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// purging is a system from which components go.
type purging struct {
	t         *testing.T
	directory string
	carrier   Carrier
}

// newPurging makes a system at the tree "base", and trees of stacks.
func newPurging(t *testing.T, trees map[string]files) *purging {
	t.Helper()
	p := &purging{t: t, directory: t.TempDir()}
	for name, content := range trees {
		content.write(t, p.directory+"/"+name)
	}
	trees["base"].write(t, p.directory+"/live")
	p.carrier = Carrier{Root: p.directory + "/live", Record: p.directory + "/record"}
	must(t, p.carrier.WriteBaseline(listed(t, p.directory+"/base")))
	return p
}

// carry carries from one stack to another. base is the base of a stack with components.
func (p *purging) carry(from, to, base string) {
	p.t.Helper()
	old, err := p.carrier.Baseline()
	must(p.t, err)
	c := p.carrier
	c.From, c.To = from, to
	if base != "" {
		c.Base = p.directory + "/" + base
	}
	all := slices.DeleteFunc(differences(p.t, p.directory+"/"+from, p.directory+"/"+to),
		func(d Difference) bool { return tree.OwnerOf(d.Path) == tree.OwnedByOS })
	_, err = c.Carry(p.t.Context(), old, all, p.directory+"/"+to)
	must(p.t, err)
}

func (p *purging) move(from, to, base string) {
	p.t.Helper()
	p.carry(from, to, base)
	must(p.t, p.carrier.Settle(to))
}

func (p *purging) has(name string) bool {
	_, err := os.Lstat(p.directory + "/live/" + name)
	return err == nil
}

func (p *purging) there(want map[string]bool) {
	p.t.Helper()
	got := map[string]bool{}
	for name := range want {
		got[name] = p.has(name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		p.t.Errorf("is there (want -, got +):\n%s", diff)
	}
}

func (p *purging) write(name, text string) {
	p.t.Helper()
	must(p.t, os.WriteFile(p.directory+"/live/"+name, []byte(text), 0o644))
}

var (
	withoutDB = files{"etc/base": "1", "var/lib/shared/base": "1", "usr/lib/x": "1"}
	withDB    = func() files {
		all := maps.Clone(withoutDB)
		maps.Copy(all, files{
			"etc/db/conf": "1", "etc/db/mine": "1", "etc/db/kept": "1", "etc/db/deleted": "1", "etc/dbonly/conf": "1",
			"etc/systemd/system/db.service": "1",
			"var/lib/db/data":               "1", "var/lib/db/sub/more": "1", "var/lib/idle/data": "1",
			"var/lib/idle/sub/more": "1",
			"var/log/db/":           "", "var/lib/shared/db": "1", "srv/db/page": "1", "usr/bin/db": "1",
		})
		return all
	}()
)

// What a component brought and nobody has changed goes, once the carry is settled and not before.
// Data of which anything was changed stays whole.
func TestPurgingTakesWhatNobodyHasChanged(t *testing.T) {
	p := newPurging(t, map[string]files{"base": withoutDB, "with": withDB})
	p.carrier.PurgeComponents, p.carrier.Keep = true, []string{"/etc/db/kept"}
	p.move("base", "with", "base")
	if done, err := p.carrier.Purge(t.Context()); err != nil || done.Removed != 0 {
		t.Errorf("with the component there: %+v, %v", done, err)
	}
	p.write("etc/db/mine", "mine")
	p.write("var/lib/db/sub/row", "made here")
	p.write("var/log/db/log", "said")
	must(t, os.Remove(p.directory+"/live/etc/db/deleted"))

	p.carry("with", "base", "")
	p.there(map[string]bool{"etc/db/conf": true, "etc/dbonly/conf": true,
		"var/lib/idle/data": true, "srv/db/page": true})
	must(t, p.carrier.Undo(t.Context()))
	if done, err := p.carrier.Purge(t.Context()); err != nil || done.Removed != 0 {
		t.Errorf("after it was undone: %+v, %v", done, err)
	}
	p.there(map[string]bool{"etc/db/conf": true, "etc/systemd/system/db.service": true, "var/lib/idle/data": true})

	p.move("with", "base", "")
	done, err := p.carrier.Purge(t.Context())
	must(t, err)
	p.there(map[string]bool{
		"etc/db/conf": false, "etc/db/mine": true, "etc/db/kept": true, "etc/dbonly": false, "etc/base": true,
		"var/lib/db/data": true, "var/lib/db/sub/more": true, "var/lib/db/sub/row": true, "var/lib/idle": false,
		"var/log/db/log": true, "var/lib/shared/db": false, "var/lib/shared/base": true, "srv/db": false,
	})
	var kept []string
	for _, one := range done.Kept {
		if kept = append(kept, one.Path); one.Kind != Unpurged {
			t.Errorf("%+v", one)
		}
	}
	if diff := cmp.Diff([]string{"etc/db/mine", "var/lib/db", "var/log/db"}, kept); diff != "" {
		t.Errorf("it says that these stay (want -, got +):\n%s", diff)
	}
	if _, found, err := p.carrier.Settled(); found || err != nil {
		t.Errorf("the carry can be taken back: %v, %v", found, err)
	}
	if again, err := p.carrier.Purge(t.Context()); err != nil || again.Removed != 0 || len(again.Kept) > 0 {
		t.Errorf("once more: %+v, %v", again, err)
	}
	// It comes back: with its own files, and the data that has stayed.
	p.move("base", "with", "base")
	p.there(map[string]bool{"etc/db/conf": true, "etc/db/mine": true, "var/lib/idle/sub/more": true,
		"var/lib/db/sub/row": true, "srv/db/page": true})
}

// Without purge, all of it stays, and what stayed is not purged later.
func TestNothingIsPurgedUnlessThatIsAskedFor(t *testing.T) {
	p := newPurging(t, map[string]files{"base": withoutDB, "with": withDB, "other": {"etc/base": "2"}})
	p.move("base", "with", "base")
	p.move("with", "base", "")
	p.carrier.PurgeComponents = true
	p.move("base", "other", "")
	done, err := p.carrier.Purge(t.Context())
	if err != nil || done.Removed != 0 {
		t.Errorf("%+v, %v", done, err)
	}
	p.there(map[string]bool{"etc/db/conf": true, "var/lib/idle/data": true, "srv/db/page": true})
}

// A purge that was cut off after any of its removals is completed by the next one, also if a
// refresh came in between that brought some of it again.
func TestAPurgeThatWasCutOffIsCompleted(t *testing.T) {
	part := maps.Clone(withoutDB)
	part["etc/dbonly/conf"] = "1"
	p := newPurging(t, map[string]files{"base": withoutDB, "with": withDB, "part": part})
	p.carrier.PurgeComponents = true
	p.move("base", "with", "base")
	p.move("with", "base", "")
	for _, gone := range []string{"var/lib/idle/sub/more", "var/lib/idle/sub", "etc/db/conf"} {
		must(t, os.Remove(p.directory+"/live/"+gone))
	}
	p.move("base", "part", "base")
	done, err := p.carrier.Purge(t.Context())
	if err != nil || len(done.Kept) > 0 {
		t.Errorf("%+v, %v", done, err)
	}
	p.there(map[string]bool{"var/lib/idle": false, "var/lib/db": false, "etc/db": false, "etc/dbonly/conf": true})
}

// A new release of a component, which makes data of its own while it is built, leaves the data of the VM alone.
func TestANewReleaseOfAComponentPurgesNoData(t *testing.T) {
	next := maps.Clone(withDB)
	delete(next, "var/lib/db/sub/more")
	delete(next, "etc/db/conf")
	next["var/lib/db/sub/other"] = "2"
	p := newPurging(t, map[string]files{"base": withoutDB, "with": withDB, "next": next})
	p.carrier.PurgeComponents = true
	p.move("base", "with", "base")
	p.move("with", "next", "base")
	_, err := p.carrier.Purge(t.Context())
	must(t, err)
	p.there(map[string]bool{"var/lib/db/sub/more": true, "var/lib/db/data": true,
		"etc/db/conf": false, "etc/db/mine": true})
}

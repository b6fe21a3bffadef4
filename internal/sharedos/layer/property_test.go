package layer

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// drawing makes random trees that are related to each other.
type drawing struct {
	t       *rapid.T
	content memory
	// linked counts the files with several names.
	linked uint32
}

var (
	drawNames = rapid.SampledFrom([]string{
		"usr", "etc", "a", "b", "a-b", "-", "!", "..a", ".wh.a", ".wh..wh..opq", "a b", "a:b", "a,b", `a\b`, "é",
		"\xff\xfe", "new\nline", strings.Repeat("n", 255),
	})
	// Sizes around what fits into the block of an inode, around whole blocks, and around what is written at once.
	drawSizes = rapid.SampledFrom([]int{0, 1, 60, 3900, 4031, 4032, 4033, 4095, 4096, 4097, 9000, 9000,
		70_000, 1<<20 - 100, 1<<20 + 1})
)

// A capability set and an access control list as the kernel checks them when they are read.
const (
	aCapability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	anACL       = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
)

func (d *drawing) metadata(e *tree.Entry) {
	e.Mode = rapid.SampledFrom([]uint32{0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o000}).Draw(d.t, "mode")
	if e.Type == tree.Symlink {
		e.Mode = 0o777
	}
	e.UID = rapid.SampledFrom([]uint32{0, 33, 1 << 16, 1<<32 - 2}).Draw(d.t, "uid")
	e.GID = rapid.SampledFrom([]uint32{0, 42, 1 << 17}).Draw(d.t, "gid")
	e.Xattrs = nil
	if rapid.IntRange(0, 3).Draw(d.t, "attributes") > 0 {
		return
	}
	e.Xattrs = map[string]string{"trusted.note": strings.Repeat("t", rapid.IntRange(0, 5000).Draw(d.t, "value"))}
	if e.Type == tree.Regular {
		e.Xattrs["security.capability"] = aCapability
	}
	if e.Type == tree.Regular || e.Type == tree.Directory {
		e.Xattrs["user.note"] = "\x00\xff"
		// Only a mount with userxattr heeds it; these are none.
		e.Xattrs["user.overlay.opaque"] = "y"
		e.Xattrs["system.posix_acl_access"] = anACL
	}
	if e.Type == tree.Directory {
		e.Xattrs["system.posix_acl_default"] = anACL
	}
}

// Layers that only add to a base, such as stand-ins, are laid below a layer that was made for the
// base alone. What Apply says of that is what overlayfs shows.
func TestApplyShowsWhatOverlayfsShows(t *testing.T) {
	checks := 0
	rapid.Check(t, func(t *rapid.T) {
		if checks++; checks > 50 {
			return // it mounts four layers each time, and there are fewer shapes than of deltas
		}
		w := newWorkshop(t)
		defer func() {
			if err := w.close(); err != nil {
				t.Fatalf("clean up: %v", err)
			}
		}()
		d := &drawing{t: t, content: memory{}}
		base := d.next([]tree.Entry{{Path: tree.Root, Type: tree.Directory, Mode: 0o755}}, 12)
		shows := base
		path, _ := w.write(base, d.content)
		lower := []string{w.mount(path)}
		lay := func(other []tree.Entry) {
			delta := Delta(base, other)
			path, _ := w.write(delta, d.content)
			lower, shows = append(lower, w.mount(path)), Apply(shows, delta)
		}
		for range rapid.IntRange(1, 2).Draw(t, "additions") {
			lay(additions(base, d.next(base, 8)))
		}
		lay(d.next(base, 12))
		got, err := walk(w.overlay(lower...))
		if err != nil {
			t.Fatal(err)
		}
		requireEqual(t, "the overlay", shows, got)
	})
}

// additions returns a tree with what another one adds to it.
func additions(base, other []tree.Entry) []tree.Entry {
	all := map[string]tree.Entry{}
	for _, e := range base {
		all[e.Path] = e
	}
	for _, e := range other {
		if _, has := all[e.Path]; !has && all[tree.Parent(e.Path)].Type == tree.Directory {
			all[e.Path] = e
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b tree.Entry) int { return tree.Compare(a.Path, b.Path) })
}

func (d *drawing) entry(path string) tree.Entry {
	e := tree.Entry{Path: path, Type: rapid.SampledFrom([]tree.Type{
		tree.Directory, tree.Directory, tree.Directory, tree.Regular, tree.Regular, tree.Regular,
		tree.Symlink, tree.Symlink,
		tree.CharDevice, tree.BlockDevice, tree.FIFO,
	}).Draw(d.t, "type")}
	switch e.Type {
	case tree.Regular:
		content := bytes.Repeat([]byte{rapid.SampledFrom([]byte{0, 'x'}).Draw(d.t, "fill")},
			drawSizes.Draw(d.t, "size"))
		if rapid.Bool().Draw(d.t, "sparse") && len(content) > 0 {
			clear(content)
			content[len(content)-1] = 'x'
		}
		e.Size, e.Digest = int64(len(content)), d.content.add(content)
	case tree.Symlink:
		e.Link = rapid.SampledFrom([]string{"a", "../b", "/nowhere", strings.Repeat("l/", 2000)}).Draw(d.t, "target")
	case tree.CharDevice, tree.BlockDevice:
		e.Major, e.Minor = rapid.Uint32Range(0, 4095).Draw(d.t, "major"),
			rapid.Uint32Range(1, 1<<20-1).Draw(d.t, "minor")
	}
	d.metadata(&e)
	return e
}

// name draws a path in a directory.
func (d *drawing) name(directory string) string {
	name := drawNames.Draw(d.t, "name")
	if directory != tree.Root {
		name = directory + "/" + name
	}
	return name
}

// next draws a tree by some changes to another one: entries added, replaced by others of any type, linked to, removed
// with all that is below, or changed in metadata alone.
func (d *drawing) next(from []tree.Entry, changes int) []tree.Entry {
	entries := make(map[string]tree.Entry, len(from))
	for _, e := range from {
		entries[e.Path] = e
	}
	remove := func(path string) {
		for p := range entries {
			if p == path || strings.HasPrefix(p, path+"/") {
				delete(entries, p)
			}
		}
	}
	for range rapid.IntRange(changes/4, changes).Draw(d.t, "changes") {
		paths := slices.SortedFunc(maps.Keys(entries), tree.Compare)
		path := rapid.SampledFrom(paths).Draw(d.t, "path")
		switch rapid.SampledFrom([]string{"put", "put", "put", "replace", "replace", "remove", "empty", "touch", "link",
			"link"}).Draw(d.t, "change") {
		case "put":
			for entries[path].Type != tree.Directory {
				path = tree.Parent(path)
			}
			if name := d.name(path); len(name) <= 2000 {
				e := d.entry(name)
				if e.Type != tree.Directory || entries[name].Type != tree.Directory {
					remove(name)
				}
				entries[name] = e
			}
		case "replace":
			if path != tree.Root {
				remove(path)
				entries[path] = d.entry(path)
			}
		case "remove":
			if path != tree.Root {
				remove(path)
			}
		case "empty":
			for p := range entries {
				if p != tree.Root && tree.Parent(p) == path {
					remove(p)
				}
			}
		case "touch":
			e := entries[path]
			d.metadata(&e)
			entries[path] = e
		case "link":
			files := slices.DeleteFunc(paths, func(p string) bool { return entries[p].Size <= 4096 })
			if len(files) == 0 {
				continue
			}
			e := entries[rapid.SampledFrom(files).Draw(d.t, "file")]
			if name := d.name(tree.Parent(e.Path)); len(name) <= 2000 {
				if e.Inode == 0 && rapid.Bool().Draw(d.t, "one file") {
					d.linked++
					e.Inode = d.linked
					entries[e.Path] = e
				}
				remove(name)
				e.Path = name
				entries[name] = e
			}
		}
	}
	made, err := tree.New(slices.Collect(maps.Values(entries)), d.content)
	if err != nil {
		d.t.Fatal(err)
	}
	return made.Entries
}

// The kernel merges a full layer and the deltas over it to exactly the tree that the newest delta was made for,
// as a whole and for each directory of the top level by itself.
func TestTheKernelMergesLayersToTheTree(t *testing.T) {
	seen := shapes{}
	rapid.Check(t, func(t *rapid.T) {
		d := &drawing{t: t, content: memory{}}
		w := newWorkshop(t)
		defer func() {
			if err := w.close(); err != nil {
				t.Fatalf("clean up: %v", err)
			}
		}()

		root := []tree.Entry{{Path: tree.Root, Type: tree.Directory, Mode: 0o755}}
		chain := [][]tree.Entry{d.next(root, 30)}
		path, _ := w.write(chain[0], d.content)
		mounts := []string{w.mount(path)}
		got, err := walk(mounts[0])
		if err != nil {
			t.Fatal(err)
		}
		requireEqual(t, "full layer", chain[0], got)

		for range rapid.IntRange(1, 3).Draw(t, "deltas") {
			before := chain[len(chain)-1]
			after := d.next(before, 12)
			if rapid.IntRange(0, 5).Draw(t, "unrelated") == 0 {
				after = d.next(root, 30)
			}
			delta := Delta(before, after)
			seen.add(before, after, delta)
			if _, err := tree.New(slices.Clone(delta), nil); err != nil {
				t.Fatalf("the delta is no tree: %v", err)
			}
			path, _ := w.write(delta, d.content)
			chain = append(chain, after)
			mounts = append(mounts, w.mount(path))
		}
		newest := chain[len(chain)-1]
		got, err = walk(w.overlay(mounts...))
		if err != nil {
			t.Fatal(err)
		}
		requireEqual(t, "merged", newest, got)
		for _, top := range topDirectories(chain) {
			var lower []string
			for _, mount := range mounts {
				lower = append(lower, mount+"/"+top)
			}
			got, err := walk(w.overlay(lower...))
			if err != nil {
				t.Fatal(err)
			}
			requireEqual(t, "merged "+top, below(newest, top), got)
		}
	})
	seen.require(t)
}

// topDirectories returns the directories of the top level that every tree has.
func topDirectories(trees [][]tree.Entry) []string {
	count := map[string]int{}
	for _, entries := range trees {
		for _, e := range entries {
			if e.Type == tree.Directory && e.Path != tree.Root && tree.Parent(e.Path) == tree.Root {
				count[e.Path]++
			}
		}
	}
	maps.DeleteFunc(count, func(_ string, n int) bool { return n < len(trees) })
	return slices.Sorted(maps.Keys(count))
}

// below returns the tree that lies in one directory.
func below(entries []tree.Entry, top string) []tree.Entry {
	var sub []tree.Entry
	for _, e := range entries {
		if e.Path == top {
			e.Path = tree.Root
		} else if rest, ok := strings.CutPrefix(e.Path, top+"/"); ok {
			e.Path = rest
		} else {
			continue
		}
		sub = append(sub, e)
	}
	return sub
}

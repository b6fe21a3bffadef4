package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Joined is the source of a base with the packages of several components installed at once. The packages are made out
// of the trees of the components, so that they have the components' versions and need no archive.
type Joined struct {
	Base source.Base
	// Parts are the components, in the order in which they are laid over the base.
	Parts []Part
	// Mode is how mmdebstrap gets the privileges that it needs: one of Modes; empty means "auto".
	Mode string
}

// Part is a component with packages.
type Part struct {
	Name string
	// Tree is the base's with the component.
	Tree *tree.Tree
	// Users and Groups are the numbers of the accounts that the component adds.
	Users, Groups map[uint32]bool
}

// String names the source for a user.
func (j *Joined) String() string {
	var names []string
	for _, part := range j.Parts {
		names = append(names, fmt.Sprintf("%q", part.Name))
	}
	return "the packages of components " + strings.Join(names, ", ")
}

// joinedRecipe is increased when the same components yield another tree.
const joinedRecipe = 2

// Fingerprint implements source.Source. The caller knows the releases, which say all.
func (j *Joined) Fingerprint(context.Context) (string, error) {
	return fmt.Sprintf("joined:%d", joinedRecipe), nil
}

// joinedDate is the date of all joined trees, in seconds since 1970. Maintainer scripts record it.
const joinedDate = 1_000_000_000

// Open implements source.Source.
func (j *Joined) Open(ctx context.Context, progress source.Progress) (io.ReadCloser, error) {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	dir, err := os.MkdirTemp("", "sharedos-joining-*")
	if err != nil {
		return nil, source.Wrap(j, err)
	}
	stream := tarstream.Pipe(ctx, j,
		func(ctx context.Context, out *tar.Writer) error { return j.write(ctx, dir, out, progress) })
	return removing{stream, dir}, nil
}

func (j *Joined) write(ctx context.Context, dir string, out *tar.Writer, progress source.Progress) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	packages := filepath.Join(dir, packagesName)
	if err := os.Mkdir(packages, 0o755); err != nil {
		return err
	}
	auto, err := j.repack(packages, progress)
	if err != nil {
		return err
	}
	in := &input{Suites: []suite{{Name: "joined", date: time.Unix(joinedDate, 0)}}, mode: j.Mode}
	if in.Architecture, err = rootfs.Architecture(j.Base.Tree); err != nil {
		return err
	}
	a := &added{Source: &Source{}, base: j.Base}
	script := `set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" TMPDIR="$1/tmp" DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
` + aptFunction + `
apt install "$1/` + packagesName + `"/*.deb
[ ! -s "$2/auto" ] || xargs apt-mark auto <"$2/auto" >/dev/null
rm -rf "$1/` + packagesName + `"
`
	files := map[string]string{"install": script, "auto": strings.Join(auto, "\n"), "blocked": ""}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	progress("unpacking the base", 0, 0)
	if err := a.unpack(ctx, filepath.Join(dir, "base.tar")); err != nil {
		return fmt.Errorf("copy base %q: %w", j.Base.Name, err)
	}
	args := append(a.customArgs(in, dir), "--skip=update", "--", "joined", "-",
		"deb [trusted=yes] copy:/nonexistent joined main")
	return a.copyMade(ctx, out, func(w io.Writer) error { return runMmdebstrap(ctx, in, args, w, progress) })
}

// repack makes the packages that the components add, and returns the names of those that apt installed as dependencies
// only.
func (j *Joined) repack(dir string, progress source.Progress) (auto []string, _ error) {
	inBase, err := rootfs.Packages(j.Base.Tree)
	if err != nil {
		return nil, err
	}
	architecture, err := rootfs.Architecture(j.Base.Tree)
	if err != nil {
		return nil, err
	}
	known, manual, automatic := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, one := range inBase {
		known[one.Name] = true
	}
	made := map[string]bool{}
	for _, part := range j.Parts {
		progress("making packages of component "+part.Name, 0, 0)
		all, err := rootfs.Packages(part.Tree)
		if err != nil {
			return nil, fmt.Errorf("component %q: %w", part.Name, err)
		}
		r, err := newRepacker(part.Tree, architecture, part.Users, part.Groups)
		if err != nil {
			return nil, fmt.Errorf("component %q: %w", part.Name, err)
		}
		dependencies, err := automatics(part.Tree)
		if err != nil {
			return nil, fmt.Errorf("component %q: %w", part.Name, err)
		}
		for _, one := range all {
			if known[one.Name] {
				continue
			}
			if dependencies[one.Name] {
				automatic[one.Name] = true
			} else {
				manual[one.Name] = true
			}
			if made[one.Name] {
				continue
			}
			made[one.Name] = true
			if _, err := r.write(one.Name, dir); err != nil {
				return nil, fmt.Errorf("component %q: %w", part.Name, err)
			}
		}
	}
	for name := range automatic {
		if !manual[name] {
			auto = append(auto, name)
		}
	}
	slices.Sort(auto)
	return auto, nil
}

// automatics returns the packages that apt installed as dependencies only, from its record of them.
func automatics(t *tree.Tree) (map[string]bool, error) {
	const record = "var/lib/apt/extended_states"
	names := map[string]bool{}
	if _, ok := t.Lookup(record); !ok {
		return names, nil
	}
	data, err := t.ReadFile(record, maxInfoFile)
	if err != nil {
		return nil, err
	}
	for stanza := range bytes.SplitSeq(data, []byte("\n\n")) {
		if fields := fieldsOf(string(stanza)); fields["Auto-Installed"] == "1" {
			names[fields["Package"]] = true
		}
	}
	return names, nil
}

// lockBuilds keeps other builds of this cache from using the directory of packages at the same time.
func lockBuilds(ctx context.Context, cacheDir string, progress source.Progress) (func(), error) {
	return cache.Lock(ctx, cacheDir, "debian.lock", func() { progress("waiting for another build", 0, 0) })
}

package debian

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Addition is what packages add to an operating system that dpkg manages: apt installs them in a copy of the base,
// whose packages keep their versions.
//
// Source has the settings. If it has no suite, the suites and the archive's components are those of the base's own
// sources of apt.
type Addition struct{ Source *Source }

// On implements source.Addition.
func (a Addition) On(_ context.Context, base source.Base) (source.Source, error) {
	if _, err := base.Tree.Resolve(statusFile); err != nil {
		return nil, fmt.Errorf("base %q has no database of dpkg, so no Debian packages can be added: %w; "+
			"give the component's files as an archive or a directory", base.Name, source.ErrRefused)
	}
	settings := a.Source.withoutState()
	if settings.Suite == "" {
		if err := settings.suitesOf(base); err != nil {
			return nil, err
		}
	}
	return &added{Source: settings, base: base}, nil
}

// statusFile is dpkg's list of packages.
const statusFile = "var/lib/dpkg/status"

// withoutState returns a source with the same settings.
func (s *Source) withoutState() *Source {
	return &Source{
		Suite: s.Suite, AdditionalSuites: s.AdditionalSuites, Components: s.Components,
		Packages: s.Packages, Mirror: s.Mirror,
		MirrorKey: s.MirrorKey, Repositories: s.Repositories, PackageFiles: s.PackageFiles,
		Files: s.Files, Mode: s.Mode,
		AnyDate: s.AnyDate, Triggers: s.Triggers, CacheDir: s.CacheDir, Limits: s.Limits,
	}
}

// added is the source of a base with packages added.
type added struct {
	*Source
	base source.Base
}

// String names the source for a user.
func (a *added) String() string {
	return fmt.Sprintf("debian suite %s on base %q", a.Suite, a.base.Name)
}

// Open implements source.Source. It runs apt each time: the release that is made of the tree is what the cache keeps.
func (a *added) Open(ctx context.Context, progress source.Progress) (io.ReadCloser, error) {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	in, err := a.input(ctx, false)
	if err != nil {
		return nil, source.Wrap(a, err)
	}
	dir, err := os.MkdirTemp("", "sharedos-component-*")
	if err != nil {
		return nil, source.Wrap(a, err)
	}
	stream := tarstream.Pipe(ctx, a,
		func(ctx context.Context, out *tar.Writer) error { return a.write(ctx, in, dir, out, progress) })
	if len(in.files) > 0 {
		stream = addFiles(ctx, a, stream, in.files)
	}
	return removing{stream, dir}, nil
}

// removing removes a directory when a stream is closed.
type removing struct {
	io.ReadCloser
	dir string
}

func (r removing) Close() error { return errors.Join(r.ReadCloser.Close(), os.RemoveAll(r.dir)) }

// write writes the base with the packages as a tar stream.
func (a *added) write(ctx context.Context, in *input, dir string, out *tar.Writer, progress source.Progress) error {
	// It is readable for everyone, since mmdebstrap may run processes as other users.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	progress("unpacking the base", 0, 0)
	copied := filepath.Join(dir, "base.tar")
	if err := a.unpack(ctx, copied); err != nil {
		return fmt.Errorf("copy base %q: %w", a.base.Name, err)
	}
	held, err := a.held()
	if err != nil {
		return err
	}
	files := map[string]string{"held": held, "install": installScript(in), "blocked": ""}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	// apt in a user namespace writes what hinders it.
	if err := os.Chmod(filepath.Join(dir, "blocked"), 0o666); err != nil {
		return err
	}
	unlock, err := lockBuilds(ctx, a.CacheDir, progress)
	if err != nil {
		return err
	}
	defer unlock()
	if in.kept, err = keptIn(a.CacheDir); err != nil {
		return err
	}
	args, err := a.installArgs(in, dir)
	if err != nil {
		return err
	}
	err = a.copyMade(ctx, out, func(w io.Writer) error {
		return in.withNames(ctx, progress,
			func(ctx context.Context) error { return runMmdebstrap(ctx, in, args, w, progress) })
	})
	if err != nil {
		return a.explain(dir, err)
	}
	return in.kept.add(ctx, progress)
}

// copyMade runs mmdebstrap and copies the tree that it makes.
func (a *added) copyMade(ctx context.Context, out *tar.Writer, run func(io.Writer) error) error {
	made, tarOut := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(tarOut)
		_ = tarOut.CloseWithError(err) // it always returns nil
		ended <- err
	}()
	err := a.filter(ctx, made, out)
	_ = made.CloseWithError(err) // it always returns nil
	// If mmdebstrap failed, that explains why its stream ended early.
	if ran := <-ended; ran != nil {
		return ran
	}
	return err
}

// aptFunction is a function of a shell that runs apt outside of the tree, and dpkg in it, as mmdebstrap does.
const aptFunction = `apt() {
	apt-get --yes -o Dir::Bin::dpkg=env -o DPkg::Options::=--unset=TMPDIR -o DPkg::Options::=dpkg "$@"
}`

// packagesName is the name of a directory for package files, at the top of the tree while apt installs them.
const packagesName = "sharedos-packages"

// installScript is what mmdebstrap runs to install the packages. Its arguments are the root directory and the directory
// of the script. mmdebstrap installs packages in the same way, apt outside and dpkg inside; but for a tree that exists
// already (--variant=custom) it leaves that to the user.
func installScript(in *input) string {
	var names []string
	for _, name := range in.Packages {
		names = append(names, quoted(name))
	}
	for _, p := range in.packageFiles {
		names = append(names, `"$1/`+packagesName+"/"+p.digest.Hex()+`.deb"`)
	}
	list := strings.Join(names, " ")
	return `set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" TMPDIR="$1/tmp" DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
` + aptFunction + `
held=$1/etc/apt/preferences.d/sharedos-held # apt reads no other place that a command line names
mkdir -p "$1/etc/apt/preferences.d"
cp "$2/held" "$held"
if ! apt install ` + list + `; then
	# What would apt replace, if it might?
	rm "$held"
	apt --simulate install ` + list + ` >"$2/blocked" || true
	exit 100
fi
rm "$held"
rm -rf "$1/` + packagesName + `"
`
}

// customArgs are the arguments of mmdebstrap that have it unpack the copy of the base and run the script.
func (a *added) customArgs(in *input, dir string) []string {
	args := []string{
		"--variant=custom", "--format=tar", "--architectures=" + in.Architecture,
		// Its own tar-in hook takes 20 s for what this does in one. A normalised tree has no devices, so it works in a
		// user namespace, too.
		`--setup-hook=tar --numeric-owner --xattrs '--xattrs-include=*' -C "$1" -xf ` +
			quoted(filepath.Join(dir, "base.tar")),
	}
	if in.mode != "" && in.mode != "auto" {
		args = append(args, "--mode="+in.mode)
	}
	if packages := filepath.Join(dir, packagesName); exists(packages) {
		args = append(args, `--setup-hook=cp -r `+quoted(packages)+` "$1/"`)
	}
	return append(args, `--customize-hook=sh `+quoted(filepath.Join(dir, "install"))+` "$1" `+quoted(dir))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// installArgs are the arguments of mmdebstrap that install the packages in the copy of the base.
func (a *added) installArgs(in *input, dir string) ([]string, error) {
	if len(in.packageFiles) > 0 {
		packages := filepath.Join(dir, packagesName)
		if err := os.Mkdir(packages, 0o755); err != nil {
			return nil, err
		}
		for _, p := range in.packageFiles {
			if _, err := p.copyTo(packages); err != nil {
				return nil, err
			}
		}
	}
	// Hooks run in the order of the arguments: the packages are handed over after they were installed.
	kept, err := in.kept.args(dir)
	if err != nil {
		return nil, err
	}
	suites, err := in.sourceArgs(dir)
	return slices.Concat(a.customArgs(in, dir), kept, suites), err
}

// held are preferences of apt (apt_preferences(5)) that keep the versions of all packages of the base.
func (a *added) held() (string, error) {
	packages, err := rootfs.Packages(a.base.Tree)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, one := range packages {
		// A package of another architecture has its name in the form name:architecture, as apt has.
		fmt.Fprintf(&text, "Package: %s\nPin: version %s\nPin-Priority: 1001\n\n", one.Name, one.Version)
	}
	return text.String(), nil
}

// BlockedError means that packages cannot be had without newer packages of the base.
type BlockedError struct {
	Base string
	// Packages are those of the base that would have to be replaced.
	Packages []Blocked
}

// Blocked is a package of the base, with the version that it has and the one that is needed; "" if it would be removed.
type Blocked struct{ Name, Has, Needs string }

func (e *BlockedError) Error() string {
	var lines []string
	for _, one := range e.Packages {
		if one.Needs == "" {
			lines = append(lines, fmt.Sprintf("%s would have to be removed (the base has %s)", one.Name, one.Has))
		} else {
			lines = append(lines, fmt.Sprintf("%s %s (the base has %s)", one.Name, one.Needs, one.Has))
		}
	}
	return fmt.Sprintf("the packages cannot be installed with the packages of base %q as they are; needed are %s; "+
		"give the base a new release from today's archive first, which the same apply can do", e.Base,
		strings.Join(lines, ", "))
}

// Unwrap implements errors.Is.
func (e *BlockedError) Unwrap() error { return source.ErrRefused }

// explain turns a failure of apt into a BlockedError if apt said that it would replace packages of the base.
func (a *added) explain(dir string, failed error) error {
	said, err := os.ReadFile(filepath.Join(dir, "blocked"))
	if err != nil || len(said) == 0 {
		return failed
	}
	packages, err := rootfs.Packages(a.base.Tree)
	if err != nil {
		return failed
	}
	has := map[string]string{}
	for _, one := range packages {
		name, _, _ := strings.Cut(one.Name, ":")
		has[name] = one.Version
	}
	blocked := &BlockedError{Base: a.base.Name}
	// apt-get(8), --simulate: each line is an action; for a replaced package it has the version that is installed in
	// square brackets.
	for line := range strings.Lines(string(said)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || !strings.HasPrefix(fields[2], "[") {
			continue
		}
		name, _, _ := strings.Cut(fields[1], ":")
		was, known := has[name]
		switch {
		case !known:
		case fields[0] == "Remv":
			blocked.Packages = append(blocked.Packages, Blocked{Name: name, Has: was})
		case fields[0] == "Inst" && len(fields) > 3:
			blocked.Packages = append(blocked.Packages,
				Blocked{Name: name, Has: was, Needs: strings.TrimPrefix(fields[3], "(")})
		}
	}
	if len(blocked.Packages) == 0 {
		return failed
	}
	return fmt.Errorf("%w\n%w", blocked, failed)
}

// The trees that Normalise moves, and where dpkg and apt expect them: mmdebstrap makes these directories before it
// unpacks the base.
var movedBack = []struct{ is, belongs string }{{"usr/lib/sysimage/dpkg", "var/lib/dpkg"}}

// madeByMmdebstrap are files that mmdebstrap adds if the tree lacks them.
var madeByMmdebstrap = []string{"etc/fstab", "etc/hostname", "etc/resolv.conf", "var/lib/dpkg/arch",
	"usr/lib/sysimage/dpkg/arch", "etc/apt/apt.conf.d/99mmdebstrap"}

// unpack writes the base as a tar file, as dpkg and apt expect it.
func (a *added) unpack(ctx context.Context, path string) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	buffered := bufio.NewWriterSize(file, 1<<20)
	out := tar.NewWriter(buffered)
	entries := slices.DeleteFunc(slices.Clone(a.base.Tree.Entries),
		func(e tree.Entry) bool { return aptSources(e.Path) })
	for _, moved := range movedBack {
		link, ok := a.base.Tree.Lookup(moved.belongs)
		if !ok || link.Type != tree.Symlink {
			continue
		}
		entries = slices.DeleteFunc(entries, func(e tree.Entry) bool { return e.Path == moved.belongs })
		for i := range entries {
			if rest, below := strings.CutPrefix(entries[i].Path, moved.is); below && (rest == "" || rest[0] == '/') {
				entries[i].Path = moved.belongs + rest
			}
		}
	}
	unpacked, err := tree.New(entries, a.base.Tree.Content)
	if err != nil {
		return err
	}
	if err := tarstream.WriteTree(ctx, out, unpacked); err != nil {
		return err
	}
	return errors.Join(out.Close(), buffered.Flush())
}

// filter copies what mmdebstrap made, without what mmdebstrap itself has added, and with the base's sources of apt.
func (a *added) filter(ctx context.Context, from io.Reader, out *tar.Writer) error {
	scan := tarstream.NewScanner(ctx, from, a.Limits, tarstream.Usage{})
	err := tarstream.Copy(out, scan, func(at string, header *tar.Header) (bool, error) {
		added := aptSources(at) && header.Typeflag != tar.TypeDir || slices.Contains(madeByMmdebstrap, at) && !a.has(at)
		return !added, nil
	})
	if err != nil {
		return err
	}
	kept, err := tree.New(a.keptEntries(), a.base.Tree.Content)
	if err != nil {
		return err
	}
	return tarstream.WriteTree(ctx, out, kept)
}

// keptEntries are the base's sources of apt, and the directories above.
func (a *added) keptEntries() []tree.Entry {
	var kept []tree.Entry
	for _, e := range a.base.Tree.Entries {
		if aptSources(e.Path) ||
			e.Type == tree.Directory &&
				(e.Path == tree.Root || e.Path == "etc" || e.Path == "etc/apt" || e.Path == "etc/apt/sources.list.d") {
			kept = append(kept, e)
		}
	}
	return kept
}

// has reports whether the base has a file, wherever its directory has moved.
func (a *added) has(path string) bool {
	_, err := a.base.Tree.Resolve(path)
	return err == nil
}

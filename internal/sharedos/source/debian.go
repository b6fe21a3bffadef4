package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Debian is a root file system that mmdebstrap makes from a Debian archive, of the variant minbase and the packages
// that the user lists, nothing else.
//
// The archive's addresses are those of this machine's own apt configuration: they serve every suite, not only the
// machine's. What was made is kept in CacheDir by fingerprint, and is made once.
type Debian struct {
	// Suite is a release of Debian by code name: "trixie".
	Suite string
	// AdditionalSuites are suites with updates of it. Nil means <suite>-updates and <suite>-security; empty, not
	// nil, means none.
	AdditionalSuites []string
	// Components of the archive; none means "main".
	Components []string
	// Packages to install, with what they depend on.
	Packages []string
	// Mirror is the URL of a Debian archive, instead of the one of apt's configuration. Security suites live in an
	// archive of their own and keep coming from there.
	Mirror string
	// MirrorKey signs the mirror: an OpenPGP public key in ASCII armour. Empty: one that this machine's apt trusts.
	MirrorKey string
	// Repositories are further archives to take packages from.
	Repositories []DebianRepository
	// PackageFiles are .deb files of this machine to install beside Packages.
	PackageFiles []string
	// Files are laid over the tree that was made.
	Files []OverlayFile
	// Mode is how mmdebstrap gets the rights that it needs: one of Modes; empty means "auto".
	Mode string
	// Triggers are part of the fingerprint and mean nothing else: change one to have the tree made again.
	Triggers map[string]string
	// CacheDir is the directory for trees that were made.
	CacheDir string
	// Limits bound what the tree may hold; zero values mean the defaults.
	Limits Limits

	mu     sync.Mutex
	recent *debianInput
}

// Modes that mmdebstrap can work in, as its manual page says: as root, or as an ordinary user in a user namespace or by
// libraries that pretend; "auto" takes what works.
var Modes = []string{"auto", "root", "unshare", "fakechroot"}

// ErrNoMirror means that there is no address for a suite.
var ErrNoMirror = errors.New("no mirror")

// Names as apt and dpkg allow them (deb-src-control(5), sources.list(5)); a package may be held to a version or a
// suite as apt-get(8) says.
var (
	suiteName     = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]*$`)
	componentName = regexp.MustCompile(`^[a-z0-9][a-z0-9/-]*$`)
	packageName   = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]*[a-z0-9.+](:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+|/[a-z0-9.+-]+)?$`)
)

// TarLimits are the limits of what Open yields.
func (d *Debian) TarLimits() Limits { return d.Limits }

// String names the source for a user.
func (d *Debian) String() string { return "debian suite " + d.Suite }

// check reports what is wrong with what the user wrote, all at once.
func (d *Debian) check() error {
	var wrong []error
	each := func(what string, form *regexp.Regexp, names ...string) {
		for _, name := range names {
			if len(name) > 200 || !form.MatchString(name) {
				wrong = append(wrong, fmt.Errorf("%q is not the name of a %s", name, what))
			}
		}
	}
	each("suite", suiteName, d.Suite)
	each("suite", suiteName, d.AdditionalSuites...)
	each("component", componentName, d.Components...)
	each("package", packageName, d.Packages...)
	if d.Mirror != "" {
		if err := checkArchiveURI(d.Mirror); err != nil {
			wrong = append(wrong, fmt.Errorf("mirror: %w", err))
		}
	}
	if err := checkKey(d.MirrorKey); err != nil {
		wrong = append(wrong, fmt.Errorf("key of the mirror: %w", err))
	}
	if d.MirrorKey != "" && d.Mirror == "" {
		wrong = append(wrong, errors.New("there is a key of the mirror and no mirror"))
	}
	for _, r := range d.Repositories {
		each("suite", suiteName, r.Suite)
		each("component", componentName, r.Components...)
		if err := checkArchiveURI(r.URI); err != nil {
			wrong = append(wrong, fmt.Errorf("repository: %w", err))
		}
		if err := checkKey(r.Key); err != nil {
			wrong = append(wrong, fmt.Errorf("key of the repository %s: %w", r.URI, err))
		}
	}
	if d.Mode != "" && !slices.Contains(Modes, d.Mode) {
		wrong = append(wrong, fmt.Errorf("%q is not a mode, only %s", d.Mode, strings.Join(Modes, ", ")))
	}
	if d.CacheDir == "" {
		wrong = append(wrong, errors.New("there is no cache directory"))
	}
	return errors.Join(wrong...)
}

func (d *Debian) additionalSuites() []string {
	switch {
	case d.AdditionalSuites != nil:
		return d.AdditionalSuites
	case d.Suite == "sid" || d.Suite == "unstable":
		// Its updates come straight to it.
		return nil
	default:
		return []string{d.Suite + "-updates", d.Suite + "-security"}
	}
}

func (d *Debian) components() []string {
	if len(d.Components) == 0 {
		return []string{"main"}
	}
	return d.Components
}

// debianInput is all that decides what the tree will be. Its JSON form is what the fingerprint is the digest of.
type debianInput struct {
	// Recipe grows when this package makes another tree of the same input.
	Recipe       int               `json:"recipe"`
	Architecture string            `json:"architecture"`
	Packages     []string          `json:"packages"`
	Triggers     map[string]string `json:"triggers"`
	Suites       []debianSuite     `json:"suites"`
	// PackageFiles are digests of .deb files.
	PackageFiles []tree.Digest `json:"package_files,omitempty"`

	readAt       time.Time
	packageFiles []packageFile
	files        []overlayEntry
	mode         string
}

// debianSuite is one suite as the archive has it.
type debianSuite struct {
	Name       string   `json:"name"`
	Site       string   `json:"site"`
	Components []string `json:"components"`
	// Indexes are digests of the package indexes, one a component.
	Indexes []string `json:"indexes"`
	// Key is an OpenPGP public key; empty if apt knows it.
	Key string `json:"key,omitempty"`

	date time.Time
}

// recipe is debianInput.Recipe of this code.
const recipe = 1

// fingerprint names the tree that mmdebstrap makes, without the files that are laid over it.
func (in *debianInput) fingerprint() (string, error) {
	text, err := json.Marshal(in)
	if err != nil {
		return "", err
	}
	return "debian:" + tree.Sum(text).String(), nil
}

// whole names the tree with the files that are laid over it.
func (in *debianInput) whole() (string, error) {
	made, err := in.fingerprint()
	if err != nil || len(in.files) == 0 {
		return made, err
	}
	sum := newEntrySum()
	sum.hash.Write([]byte(made))
	for _, f := range in.files {
		sum.add(f.Entry)
	}
	return "debian:" + sum.digest().String(), nil
}

// recentFor is how long what the archive said is taken for what it says: a plan asks several times in a row.
const recentFor = time.Minute

// input asks the archive what it holds now.
func (d *Debian) input(ctx context.Context, fresh bool) (*debianInput, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !fresh && d.recent != nil && time.Since(d.recent.readAt) < recentFor {
		return d.recent, nil
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	// Go and Debian call both architectures that VMs can have by the same name.
	arch := runtime.GOARCH
	if arch != "amd64" && arch != "arm64" {
		return nil, fmt.Errorf("this machine is %s: only amd64 and arm64 are known", arch)
	}
	sites, err := findSites(ctx, d.Mirror, d.MirrorKey)
	if err != nil {
		return nil, err
	}
	in := &debianInput{
		Recipe: recipe, Architecture: arch, Triggers: d.Triggers, readAt: time.Now(),
		Packages: slices.Compact(slices.Sorted(slices.Values(d.Packages))),
	}
	if err := d.local(ctx, in); err != nil {
		return nil, err
	}
	names := append([]string{d.Suite}, d.additionalSuites()...)
	in.Suites = make([]debianSuite, len(names)+len(d.Repositories))
	// All at once, and all that is wrong with them in one error.
	failed := make([]error, len(in.Suites))
	var asking sync.WaitGroup
	for i, name := range names {
		asking.Go(func() {
			if in.Suites[i], failed[i] = sites.suite(ctx, name, d.components(), arch); failed[i] != nil {
				failed[i] = fmt.Errorf("suite %s: %w", name, failed[i])
			}
		})
	}
	for i, repository := range d.Repositories {
		i += len(names)
		asking.Go(func() {
			if in.Suites[i], failed[i] = repository.suite(ctx, sites, arch); failed[i] != nil {
				failed[i] = fmt.Errorf("repository %s, suite %s: %w", repository.URI, repository.Suite, failed[i])
			}
		})
	}
	asking.Wait()
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	d.recent = in
	return in, nil
}

// local reads what is of this machine.
func (d *Debian) local(ctx context.Context, in *debianInput) (err error) {
	if in.packageFiles, err = packageFiles(ctx, d.CacheDir, d.PackageFiles); err != nil {
		return err
	}
	for _, p := range in.packageFiles {
		in.PackageFiles = append(in.PackageFiles, p.digest)
	}
	in.files, err = overlay(ctx, d.CacheDir, d.Files)
	in.mode = d.Mode
	return err
}

// LocalFingerprint names what the source takes from files of this machine, which can change while the user's words stay;
// empty if that is nothing. Debian's archive is not asked.
func (d *Debian) LocalFingerprint(ctx context.Context) (string, error) {
	var in debianInput
	if err := d.local(ctx, &in); err != nil {
		return "", fmt.Errorf("fingerprint %s: %w", d, err)
	}
	sum, any := newEntrySum(), len(in.packageFiles) > 0
	for _, p := range in.packageFiles {
		sum.hash.Write(p.digest[:])
	}
	for _, f := range in.files {
		if f.file.From != "" {
			sum.add(f.Entry)
			any = true
		}
	}
	if !any {
		return "", nil
	}
	return "local:" + sum.digest().String(), nil
}

// Fingerprint is "debian:sha256:<64 hex>", a digest of what the user wrote and of the digests of the suites' package
// indexes, so that a patched archive is another input. It asks the archive for some 100 KB, at most once a minute.
func (d *Debian) Fingerprint(ctx context.Context) (string, error) {
	in, err := d.input(ctx, false)
	if err != nil {
		return "", fmt.Errorf("fingerprint %s: %w", d, err)
	}
	return in.whole()
}

// planWait bounds how long ReadableAtPlan waits for the archive.
const planWait = 30 * time.Second

// ReadableAtPlan reports whether the tree of the present fingerprint is in the cache: then Open takes seconds. It is
// false also when the archive cannot be asked.
func (d *Debian) ReadableAtPlan() bool {
	ctx, cancel := context.WithTimeout(context.Background(), planWait)
	defer cancel()
	in, err := d.input(ctx, false)
	if err != nil {
		return false
	}
	path, err := d.cached(in)
	if err != nil {
		return false
	}
	_, err = os.Stat(path)
	return err == nil
}

// cached is where the tree of an input is or will be.
func (d *Debian) cached(in *debianInput) (string, error) {
	fingerprint, err := in.fingerprint()
	if err != nil {
		return "", err
	}
	return filepath.Join(d.CacheDir, "debian-"+fingerprint[len(fingerprint)-64:]+".tar.zst"), nil
}

// maxBuilds is how often a tree is made again because the archive was updated meanwhile.
const maxBuilds = 3

// Open yields the tree from the cache, or makes it first, which takes minutes.
func (d *Debian) Open(ctx context.Context, progress Progress) (io.ReadCloser, error) {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	stream, err := d.open(ctx, progress)
	if err != nil {
		return nil, &sourceError{source: d, err: err}
	}
	return stream, nil
}

func (d *Debian) open(ctx context.Context, progress Progress) (io.ReadCloser, error) {
	in, err := d.input(ctx, false)
	if err != nil {
		return nil, err
	}
	for range maxBuilds {
		path, err := d.cached(in)
		if err != nil {
			return nil, err
		}
		stream, err := openBuilt(ctx, path, progress)
		if err == nil && len(in.files) > 0 {
			return overlaid(ctx, d, stream, in.files), nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return stream, err
		}
		if err := d.build(ctx, in, path, progress); err != nil {
			return nil, err
		}
		if in, err = d.input(ctx, false); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("the archive changed during each of %d builds: try again later", maxBuilds)
}

// openBuilt opens a tree in the cache. os.ErrNotExist if it is not there.
func openBuilt(ctx context.Context, path string, progress Progress) (io.ReadCloser, error) {
	// What was used last is kept longest. Only the access time tells: the other would look like a change.
	if err := os.Chtimes(path, time.Now(), time.Time{}); err != nil {
		return nil, err
	}
	stream, err := Archive{Path: path}.open(ctx, progress)
	if err != nil {
		return nil, err
	}
	stream.step = "reading the tree from the cache"
	return stream, nil
}

// keepBuilt is how many trees the cache holds.
const keepBuilt = 8

// build makes a tree and puts it into the cache, unless the archive has changed meanwhile: then what was made belongs
// to no fingerprint.
func (d *Debian) build(ctx context.Context, in *debianInput, path string, progress Progress) error {
	unlock, err := lockDir(ctx, d.CacheDir, func() { progress("waiting for another build", 0, 0) })
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := sweepBuilt(d.CacheDir, keepBuilt-1); err != nil {
		return err
	}
	changed := errors.New("the archive changed")
	err = writeWhole(path, func(f *os.File) error {
		packed, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2))
		if err != nil {
			return err
		}
		if err := mmdebstrap(ctx, in, packed, progress); err != nil {
			return errors.Join(err, packed.Close())
		}
		if err := packed.Close(); err != nil {
			return err
		}
		after, err := d.input(ctx, true)
		if err != nil {
			return err
		}
		before, err := in.fingerprint()
		if err != nil {
			return err
		}
		if now, err := after.fingerprint(); err != nil || now != before {
			return errors.Join(err, changed)
		}
		return nil
	})
	if errors.Is(err, changed) {
		progress("the archive was updated during the build", 0, 0)
		return nil
	}
	return err
}

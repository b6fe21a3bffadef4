// Package debian makes a root file system from archives of Debian packages, by means of mmdebstrap.
package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Source is a root file system that mmdebstrap makes: its variant minbase, and the packages that the user lists.
//
// The addresses of Debian's archives come from this machine's apt configuration: they serve every suite, not only the
// one that this machine uses. A tree is made once for each fingerprint and kept in CacheDir.
type Source struct {
	// Suite is a release of Debian by code name: "trixie".
	Suite string
	// AdditionalSuites are suites with updates. Nil means <suite>-updates and <suite>-security; an empty slice that is
	// not nil means none.
	AdditionalSuites []string
	// Components of the archive; none means "main".
	Components []string
	// Packages to install together with their dependencies.
	Packages []string
	// Mirror is the URL of a Debian archive that replaces the one from apt's configuration. Security suites are in an
	// archive of their own, which it does not replace.
	Mirror string
	// MirrorKey is the OpenPGP public key of the mirror in ASCII armour. If it is empty, this machine's apt must trust
	// the mirror's key.
	MirrorKey string
	// Repositories are further archives to install packages from.
	Repositories []Repository
	// PackageFiles are .deb files of this machine to install in addition to Packages.
	PackageFiles []string
	// Files are added to the tree after it was made.
	Files []File
	// Mode is how mmdebstrap gets the privileges that it needs: one of Modes; empty means "auto".
	Mode string
	// AnyDate accepts archives whose Release files are out of date (Valid-Until), as those of snapshots are.
	AnyDate bool
	// Triggers are part of the fingerprint and have no other meaning: a change of one has the tree made again.
	Triggers map[string]string
	// CacheDir is the directory for trees that were made.
	CacheDir string
	// Limits bound what the tree may contain; zero values mean the defaults.
	Limits source.Limits

	mu     sync.Mutex
	recent *input
}

// Modes of mmdebstrap, see its manual page: as root, or as an ordinary user in a user namespace or with fakechroot.
// "auto" selects one that works.
var Modes = []string{"auto", "root", "unshare", "fakechroot"}

// ErrNoMirror means that no address serves a suite.
var ErrNoMirror = errors.New("no mirror")

// Names as apt and dpkg allow them (deb-src-control(5), sources.list(5)). A package may be bound to a version or a
// suite (apt-get(8)).
var (
	suiteName     = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]*$`)
	componentName = regexp.MustCompile(`^[a-z0-9][a-z0-9/-]*$`)
	packageName   = regexp.MustCompile(
		`^[a-z0-9][a-z0-9.+-]*[a-z0-9.+](:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+|/[a-z0-9.+-]+)?$`)
)

// TarLimits returns the limits of the stream that Open returns.
func (s *Source) TarLimits() source.Limits { return s.Limits }

// Given returns the paths of Files, relative to the root.
func (s *Source) Given() []string {
	given := make([]string, len(s.Files))
	for i, file := range s.Files {
		given[i] = strings.TrimPrefix(file.Path, "/")
	}
	return given
}

// String names the source for a user.
func (s *Source) String() string { return "debian suite " + s.Suite }

// check returns one error for everything that is wrong with the user's settings.
func (s *Source) check() error {
	var wrong []error
	each := func(what string, form *regexp.Regexp, names ...string) {
		for _, name := range names {
			if len(name) > 200 || !form.MatchString(name) {
				wrong = append(wrong, fmt.Errorf("%q is not the name of a %s", name, what))
			}
		}
	}
	each("suite", suiteName, s.Suite)
	each("suite", suiteName, s.AdditionalSuites...)
	each("component", componentName, s.Components...)
	each("package", packageName, s.Packages...)
	if s.Mirror != "" {
		if err := checkArchiveURI(s.Mirror); err != nil {
			wrong = append(wrong, fmt.Errorf("mirror: %w", err))
		}
	}
	if err := checkKey(s.MirrorKey); err != nil {
		wrong = append(wrong, fmt.Errorf("key of the mirror: %w", err))
	}
	if s.MirrorKey != "" && s.Mirror == "" {
		wrong = append(wrong, errors.New("there is a key of the mirror and no mirror"))
	}
	for _, r := range s.Repositories {
		each("suite", suiteName, r.Suite)
		each("component", componentName, r.Components...)
		if err := checkArchiveURI(r.URI); err != nil {
			wrong = append(wrong, fmt.Errorf("repository with the suite %s: %w", source.Shorten(r.Suite), err))
		}
		if err := checkKey(r.Key); err != nil {
			wrong = append(wrong, fmt.Errorf("key of the repository %s: %w", plain.Hide(r.URI), err))
		}
	}
	if s.Mode != "" && !slices.Contains(Modes, s.Mode) {
		wrong = append(wrong, fmt.Errorf("%q is not a mode, only %s", s.Mode, strings.Join(Modes, ", ")))
	}
	if s.CacheDir == "" {
		wrong = append(wrong, errors.New("there is no cache directory"))
	}
	return errors.Join(wrong...)
}

func (s *Source) additionalSuites() []string {
	switch {
	case s.AdditionalSuites != nil:
		return s.AdditionalSuites
	case s.Suite == "sid" || s.Suite == "unstable":
		// It has no suites with updates: updates are uploaded to the suite itself.
		return nil
	default:
		return []string{s.Suite + "-updates", s.Suite + "-security"}
	}
}

func (s *Source) components() []string {
	if len(s.Components) == 0 {
		return []string{"main"}
	}
	return s.Components
}

// recentFor is how long an answer of the archive is used again: one plan asks several times.
const recentFor = time.Minute

// input reads what the tree is made from, unless that was done a moment ago. With fresh set, it always asks the
// archive.
func (s *Source) input(ctx context.Context, fresh bool) (*input, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !fresh && s.recent != nil && time.Since(s.recent.readAt) < recentFor {
		return s.recent, nil
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	// Go and Debian use the same names for both architectures that VMs can have.
	arch := runtime.GOARCH
	if arch != "amd64" && arch != "arm64" {
		return nil, fmt.Errorf("this machine is %s: only amd64 and arm64 are supported", arch)
	}
	sites, err := findSites(ctx, s.Mirror, s.MirrorKey)
	if err != nil {
		return nil, err
	}
	in := &input{
		Recipe: recipe, Architecture: arch, Triggers: s.Triggers, readAt: time.Now(), mode: s.Mode,
		repositories: len(s.Repositories) > 0,
		Packages:     slices.Compact(slices.Sorted(slices.Values(s.Packages))), AnyDate: s.AnyDate,
	}
	if err := s.readLocal(ctx, in); err != nil {
		return nil, err
	}
	names := append([]string{s.Suite}, s.additionalSuites()...)
	in.Suites = make([]suite, len(names)+len(s.Repositories))
	// All suites are read at the same time, and one error reports all failures.
	failures := make([]error, len(in.Suites))
	var requests sync.WaitGroup
	for i, name := range names {
		requests.Go(func() {
			if in.Suites[i], failures[i] = sites.suite(ctx, name, s.components(), arch); failures[i] != nil {
				failures[i] = fmt.Errorf("suite %s: %w", name, failures[i])
			}
		})
	}
	for i, repository := range s.Repositories {
		i += len(names)
		requests.Go(func() {
			if in.Suites[i], failures[i] = repository.suite(ctx, sites, arch); failures[i] != nil {
				failures[i] = fmt.Errorf("repository %s, suite %s: %w", repository.URI, repository.Suite, failures[i])
			}
		})
	}
	requests.Wait()
	if err := errors.Join(failures...); err != nil {
		return nil, err
	}
	s.recent = in
	return in, nil
}

// readLocal reads the input from files of this machine.
func (s *Source) readLocal(ctx context.Context, in *input) (err error) {
	if in.packageFiles, err = packageFiles(ctx, s.CacheDir, s.PackageFiles); err != nil {
		return err
	}
	for _, p := range in.packageFiles {
		in.PackageFiles = append(in.PackageFiles, p.digest)
	}
	in.files, err = fileEntries(ctx, s.CacheDir, s.Files)
	return err
}

// LocalFingerprint returns a digest of the files of this machine that the source uses: their content can change while
// the configuration stays the same. It is empty if there are none. It does not ask Debian's archive.
func (s *Source) LocalFingerprint(ctx context.Context) (string, error) {
	var in input
	if err := s.readLocal(ctx, &in); err != nil {
		return "", fmt.Errorf("fingerprint %s: %w", s, err)
	}
	sum, any := tree.NewHasher(), len(in.packageFiles) > 0
	for _, p := range in.packageFiles {
		_, _ = sum.Write(p.digest[:]) // it never fails
	}
	for _, f := range in.files {
		if f.file.From != "" {
			sum.Add(f.Entry)
			any = true
		}
	}
	if !any {
		return "", nil
	}
	return "local:" + sum.Digest().String(), nil
}

// Fingerprint returns "debian:sha256:<64 hex>", a digest of the settings and of the package indexes of all suites, so
// an update of the archive changes it. It downloads about 100 KB from the archive, at most once a minute.
func (s *Source) Fingerprint(ctx context.Context) (string, error) {
	in, err := s.input(ctx, false)
	if err != nil {
		return "", fmt.Errorf("fingerprint %s: %w", s, err)
	}
	return in.fingerprint()
}

// Inputs describes what the tree is made from and can change by itself, by names for a user: so a
// user can be told what has changed since an earlier fingerprint.
func (s *Source) Inputs(ctx context.Context) (map[string]string, error) {
	in, err := s.input(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("describe %s: %w", s, err)
	}
	inputs := map[string]string{}
	for _, one := range in.Suites {
		name := "suite " + one.Name // without the address, which can contain a password
		for i := 2; inputs[name] != ""; i++ {
			name = fmt.Sprintf("suite %s (%d)", one.Name, i)
		}
		inputs[name] = fmt.Sprintf("the release of %s with index %.12s",
			one.date.UTC().Format(time.RFC3339), tree.Sum([]byte(strings.Join(one.Indexes, "\n"))).Hex())
	}
	for _, p := range in.packageFiles {
		inputs["package file "+p.path] = p.digest.String()
	}
	for _, f := range in.files {
		if f.file.From != "" {
			inputs["file "+f.file.From] = f.Digest.String()
		}
	}
	return inputs, nil
}

// Open returns the tree from the cache. If it is not there, Open makes it first, which takes minutes.
func (s *Source) Open(ctx context.Context, progress source.Progress) (io.ReadCloser, error) {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	stream, err := s.open(ctx, progress)
	if err != nil {
		return nil, source.Wrap(s, err)
	}
	return stream, nil
}

package debian_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// debianWorld is a Debian archive on 127.0.0.1 and a PATH with stand-ins for apt and mmdebstrap, which cannot run
// against it: it has no packages and no signatures.
type debianWorld struct {
	// indexes are package indexes by the paths of their URLs.
	indexes map[string][]byte
	t       *testing.T
	server  *httptest.Server
	bin     string
	mu      sync.Mutex
	// suites maps "debian/trixie" to the digest of its package index.
	suites map[string]string
	asked  []string
	// built is a file; once it is there the archive has other indexes.
	built string
}

// released is the date of every suite: 1774972800 seconds after 1970.
const released = "Tue, 31 Mar 2026 16:00:00 UTC"

func newDebianWorld(t *testing.T) *debianWorld {
	t.Helper()
	w := &debianWorld{t: t, bin: t.TempDir(), suites: map[string]string{
		"debian/trixie": strings.Repeat("1", 64), "debian/trixie-updates": strings.Repeat("2", 64),
		"security/trixie-security": strings.Repeat("3", 64), "debian/sid": strings.Repeat("4", 64),
		"mirror/trixie": strings.Repeat("1", 64), "mirror/trixie-updates": strings.Repeat("2", 64),
	}}
	w.server = httptest.NewServer(w)
	t.Cleanup(w.server.Close)
	t.Setenv("PATH", w.bin)
	w.apt("other/dists/stable", "debian/dists/bookworm", "debian/dists/bookworm-updates",
		"security/dists/bookworm-security")
	w.script("apt-config", "")
	w.mmdebstrap(sourcetest.Tar(t, sourcetest.Bootable("6.1")...), "")
	return w
}

// ServeHTTP serves InRelease files.
func (w *debianWorld) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if index := w.indexes[strings.Join(parts, "/")]; index != nil {
		_, _ = out.Write(index)
		return
	}
	if len(parts) != 4 || parts[1] != "dists" || parts[3] != "InRelease" {
		http.NotFound(out, r)
		return
	}
	name := parts[0] + "/" + parts[2]
	digest, ok := w.suites[name]
	w.asked = append(w.asked, name)
	if !ok {
		http.NotFound(out, r)
		return
	}
	if _, err := os.Stat(w.built); w.built != "" && err == nil {
		digest = strings.Repeat("9", 64)
	}
	origin, label := "Debian", "Debian"
	switch parts[0] {
	case "security":
		label = "Debian-Security"
	case "mirror", "other":
		origin, label = "Somebody", "Else"
	}
	_, _ = fmt.Fprintf(out,
		"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: %s\nLabel: %s\nDate: %s\nMD5Sum:\n %s 1 "+
			"main/binary-%s/Packages\nSHA256:\n %s 100 main/binary-%s/Packages\n %s 100 "+
			"contrib/binary-%s/Packages.xz\n-----BEGIN PGP SIGNATURE-----\n SHA256:\n",
		origin, label, released, strings.Repeat("0", 32), runtime.GOARCH, digest,
		runtime.GOARCH, digest, runtime.GOARCH)
}

func (w *debianWorld) set(name, digest string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.suites[name] = digest
}

func (w *debianWorld) script(name, body string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.bin, name), []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
		w.t.Fatal(err)
	}
}

// apt makes apt know these suites, in the form of apt-get --print-uris update; they are paths on the server.
func (w *debianWorld) apt(suites ...string) {
	body := strings.Builder{}
	body.WriteString("[ \"$*\" = '--print-uris update' ] || exit 1\n")
	for _, suite := range suites {
		for _, file := range []string{"InRelease", "main/binary-amd64/Packages.xz"} {
			fmt.Fprintf(&body, "echo \"'%s/%s/%s' some_file 0 \"\n", w.server.URL, suite, file)
		}
	}
	w.script("apt-get", body.String())
}

// mmdebstrap makes the stand-in write a stream, after some commands, and a record of how it was called.
func (w *debianWorld) mmdebstrap(stream []byte, commands string) {
	w.t.Helper()
	path := filepath.Join(w.bin, "rootfs.tar")
	if err := os.WriteFile(path, stream, 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.script("mmdebstrap", fmt.Sprintf(`echo "$SOURCE_DATE_EPOCH" "$@" >>%[1]s/calls
echo 'I: installing packages...' >&2
%[2]s
/bin/cat %[1]s/rootfs.tar`, w.bin, commands))
}

func (w *debianWorld) calls() []string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.bin, "calls"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func (w *debianWorld) source() *debian.Source {
	return &debian.Source{Suite: "trixie", Packages: []string{"nginx-light", "dbus"},
		CacheDir: filepath.Join(w.t.TempDir(), "cache")}
}

func (w *debianWorld) fingerprint(d *debian.Source) string {
	w.t.Helper()
	f, err := d.Fingerprint(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// A package that no archive has is reported at once and by name, while mmdebstrap still runs. Then mmdebstrap is ended.
func TestDebianTellsAMissingPackageAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		packages []string
		index    string
		spoilt   bool
		want     string // "" if mmdebstrap decides
	}{
		"missing": {[]string{"dbus", "nginx-lihgt"}, "Package: dbus\n\nPackage: nginx-light\n", false,
			"no archive has the package nginx-lihgt"},
		"all there": {[]string{"dbus", "nginx-light"}, "Package: dbus\n\nPackage: nginx-light\n", false, ""},
		"provided": {[]string{"dbus", "mail-agent"},
			"Package: dbus\n\nPackage: exim\nProvides: x, mail-agent (= 1), y:any\n", false, ""},
		"of another version": {[]string{"dbus=1.2", "nginx/trixie"}, "Package: dbus\n\nPackage: nginx\n", false, ""},
		"another index":      {[]string{"dbus"}, "Package: none\n", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDebianWorld(t)
			if c.want != "" {
				w.mmdebstrap(nil, "exec /bin/sleep 60")
			}
			digest := tree.Sum([]byte(c.index)).Hex()
			if c.spoilt {
				digest = strings.Repeat("0", 64)
			}
			var packed bytes.Buffer
			gz := gzip.NewWriter(&packed)
			_, err := gz.Write([]byte(c.index))
			sourcetest.Must(t, errors.Join(err, gz.Close()))
			w.indexes = map[string][]byte{}
			for suite := range w.suites {
				w.suites[suite] = digest
				site, name, _ := strings.Cut(suite, "/")
				w.indexes[site+"/dists/"+name+"/main/binary-"+runtime.GOARCH+"/Packages.gz"] = packed.Bytes()
			}
			d := w.source()
			d.Packages = c.packages
			var last string
			began := time.Now()
			_, err = sourcetest.ReadSystem(t, d, func(step string, _, _ int64) { last = step })
			if c.want == "" {
				sourcetest.Must(t, err)
				return
			}
			if !errors.Is(err, debian.ErrNoPackage) || !strings.Contains(err.Error(), c.want) ||
				!strings.Contains(last, "looking for the packages") {
				t.Errorf("%v, at the step %q", err, last)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestDebianNamesItsInputs(t *testing.T) {
	w := newDebianWorld(t)
	inputs, err := w.source().Inputs(t.Context())
	if err != nil || len(inputs) != 3 || !strings.HasPrefix(inputs["suite trixie-security"], "the release of 20") {
		t.Errorf("%q, %v", inputs, err)
	}
}

func TestDebianIsMadeOnce(t *testing.T) {
	w := newDebianWorld(t)
	d := w.source()
	var steps []string
	for range 2 {
		r, err := sourcetest.ReadSystem(t, d, func(step string, _, _ int64) { steps = append(steps, step) })
		if err != nil {
			t.Fatal(err)
		}
		if r.Kernel.Release != "6.1" {
			t.Errorf("kernel %+v", r.Kernel)
		}
	}
	url := w.server.URL
	// Arguments that name files of this machine are left out.
	hooks := regexp.MustCompile(` --skip=essential/unlink --setup-hook=.*/packages/\.fetched'`)
	want := []string{fmt.Sprintf(
		"1774972800 --variant=minbase --format=tar --architectures=%s --include=dbus,nginx-light -- trixie - "+
			"deb %[2]s/debian trixie main deb %[2]s/debian trixie-updates main deb %[2]s/security trixie-security main",
		runtime.GOARCH, url)}
	got := w.calls()
	if got[0] = hooks.ReplaceAllString(got[0], ""); !slices.Equal(got, want) {
		t.Errorf("mmdebstrap was called\n%q\nwant\n%q", got, want)
	}
	if !slices.Contains(steps, "mmdebstrap: installing packages") {
		t.Errorf("progress %q", steps)
	}
	again := &debian.Source{Suite: d.Suite, Packages: []string{"dbus", "nginx-light", "dbus"}, CacheDir: d.CacheDir}
	if _, err := sourcetest.ReadSystem(t, again, nil); err != nil || len(w.calls()) != 1 {
		t.Errorf("another value of the same meaning: it was made %d times, %v", len(w.calls()), err)
	}
}

func TestDebianFingerprintIsOfAllThatDecides(t *testing.T) {
	w := newDebianWorld(t)
	first := w.fingerprint(w.source())
	if again := w.fingerprint(w.source()); again != first || !strings.HasPrefix(first, "debian:sha256:") {
		t.Errorf("%q, then %q", first, again)
	}
	seen := map[string]string{first: "nothing"}
	differs := func(what string, change func(*debian.Source)) {
		t.Helper()
		d := w.source()
		change(d)
		f := w.fingerprint(d)
		if other, ok := seen[f]; ok {
			t.Errorf("%s changed: the fingerprint is the one with %s changed", what, other)
		}
		seen[f] = what
	}
	differs("packages", func(d *debian.Source) { d.Packages = append(d.Packages, "vim") })
	differs("triggers", func(d *debian.Source) { d.Triggers = map[string]string{"a": "1"} })
	differs("components", func(d *debian.Source) { d.Components = []string{"main", "contrib"} })
	differs("additional suites", func(d *debian.Source) { d.AdditionalSuites = []string{} })
	differs("mirror", func(d *debian.Source) { d.Mirror = w.server.URL + "/mirror/" })
	for _, suite := range []string{"debian/trixie", "debian/trixie-updates", "security/trixie-security"} {
		w.set(suite, strings.Repeat("a", 64))
		differs("the index of "+suite, func(*debian.Source) {})
	}
}

func TestDebianSuites(t *testing.T) {
	for name, c := range map[string]struct {
		suite      string
		additional []string
		want       []string
	}{
		"default": {"trixie", nil, []string{"debian/trixie", "debian/trixie-updates", "security/trixie-security"}},
		"none":    {"trixie", []string{}, []string{"debian/trixie"}},
		"some":    {"trixie", []string{"trixie-security"}, []string{"debian/trixie", "security/trixie-security"}},
		"sid":     {"sid", nil, []string{"debian/sid"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDebianWorld(t)
			d := w.source()
			d.Suite, d.AdditionalSuites = c.suite, c.additional
			w.fingerprint(d)
			w.fingerprint(d)
			slices.Sort(w.asked)
			// The archive that apt has first is another's: it is asked too, and has none.
			asked := slices.DeleteFunc(w.asked, func(s string) bool { return strings.HasPrefix(s, "other/") })
			if !slices.Equal(asked, c.want) {
				t.Errorf("asked for %q, want %q, each once", asked, c.want)
			}
		})
	}
}

func TestDebianSaysWhatIsMissing(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*debianWorld, *debian.Source)
		err   error
		want  []string
	}{
		"no archive in apt": {
			func(w *debianWorld, _ *debian.Source) { w.apt() },
			debian.ErrNoMirror, []string{"suite trixie:", "no Debian archive", "set mirror", "suite trixie-security:"},
		},
		"another archive in apt": {
			func(w *debianWorld, _ *debian.Source) {
				w.apt("other/dists/x")
				w.set("other/trixie", strings.Repeat("7", 64))
			},
			debian.ErrNoMirror, []string{"suite trixie:", `"Somebody"`},
		},
		"no security archive in apt": {
			func(w *debianWorld, _ *debian.Source) { w.apt("debian/dists/bookworm") },
			debian.ErrNoMirror, []string{"suite trixie-security:", "security updates", "additional_suites"},
		},
		"no apt": {
			func(w *debianWorld, _ *debian.Source) {
				if err := os.Remove(filepath.Join(w.bin, "apt-get")); err != nil {
					w.t.Fatal(err)
				}
			},
			nil, []string{"apt-get", "archive source"},
		},
		"apt fails": {
			func(w *debianWorld, _ *debian.Source) { w.script("apt-get", "echo E: broken >&2; exit 100") },
			nil, []string{"E: broken", "100"},
		},
		"unknown suite": {
			func(_ *debianWorld, d *debian.Source) { d.Suite = "nosuch" },
			nil, []string{"suite nosuch", "404"},
		},
		"unknown component": {
			func(_ *debianWorld, d *debian.Source) { d.Components = []string{"main", "none"} },
			nil, []string{"component none"},
		},
		"unreachable mirror": {
			func(w *debianWorld, _ *debian.Source) { w.server.Close() },
			nil, []string{"connection refused"},
		},
		"no mmdebstrap": {
			func(w *debianWorld, _ *debian.Source) {
				if err := os.Remove(filepath.Join(w.bin, "mmdebstrap")); err != nil {
					w.t.Fatal(err)
				}
			},
			debian.ErrNoMmdebstrap, []string{"apt-get install mmdebstrap"},
		},
		"mmdebstrap fails": {
			func(w *debianWorld, _ *debian.Source) {
				w.mmdebstrap(nil, "echo 'E: Unable to locate package nosuch' >&2; exit 25")
			},
			nil, []string{"exit status 25", "Unable to locate package nosuch"},
		},
		"mmdebstrap makes no tar": {
			func(w *debianWorld, _ *debian.Source) { w.mmdebstrap([]byte("nothing of use"), "") },
			source.ErrCorrupt, nil,
		},
		"wrong words": {
			func(_ *debianWorld, d *debian.Source) {
				d.Suite, d.Packages, d.Mirror = "trixie main", []string{"ok", "--bad", "a,b", "~nall"}, "ftp://x"
			},
			nil, []string{`"trixie main"`, `"--bad"`, `"a,b"`, `"~nall"`, "its address is not"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDebianWorld(t)
			d := w.source()
			c.spoil(w, d)
			_, err := sourcetest.ReadSystem(t, d, nil)
			if err == nil || c.err != nil && !errors.Is(err, c.err) ||
				!strings.Contains(err.Error(), "debian suite "+d.Suite) {
				t.Errorf("error %v, want %v about the source", err, c.err)
			}
			for _, want := range c.want {
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("error %v\nsays nothing of %q", err, want)
				}
			}
			if left, err := filepath.Glob(filepath.Join(d.CacheDir, ".*")); err != nil || len(left) != 0 {
				t.Errorf("left in the cache: %q, %v", left, err)
			}
		})
	}
}

func TestDebianPackageNames(t *testing.T) {
	w := newDebianWorld(t)
	d := w.source()
	d.Packages = []string{"g++", "libstdc++6", "0ad", "libc6:i386", "nginx=1.26.3-3+deb13u2",
		"vim/trixie-backports", "bc"}
	w.fingerprint(d)
}

func TestDebianIsMadeAgainWhenTheArchiveMoves(t *testing.T) {
	w := newDebianWorld(t)
	w.built = filepath.Join(w.bin, "calls")
	d := w.source()
	before := w.fingerprint(d)
	if _, err := sourcetest.ReadSystem(t, d, nil); err != nil {
		t.Fatal(err)
	}
	if n := len(w.calls()); n != 2 {
		t.Errorf("made %d times, want 2: what was made while the archive moved belongs to no fingerprint", n)
	}
	if w.fingerprint(d) == before {
		t.Error("the fingerprint is still the one from before")
	}
	if kept, err := filepath.Glob(filepath.Join(d.CacheDir, "*debian-*.tar.zst*")); err != nil || len(kept) != 1 {
		t.Errorf("the cache holds %q, %v, want one tree", kept, err)
	}
}

func TestDebianBuildEndsWithItsContext(t *testing.T) {
	w := newDebianWorld(t)
	pids := filepath.Join(w.bin, "pids")
	w.mmdebstrap(nil, fmt.Sprintf("/bin/sleep 600 & echo $$ $! >%[1]s.part; /bin/mv %[1]s.part %[1]s; wait", pids))
	d := w.source()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := d.Open(ctx, nil)
		done <- err
	}()
	data := eventually(t, func() ([]byte, bool) {
		data, err := os.ReadFile(pids)
		return data, err == nil
	})
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the build goes on after its context ended")
	}
	for _, pid := range strings.Fields(string(data)) {
		eventually(t, func() (struct{}, bool) { return struct{}{}, !runs(t, pid) })
	}
	if left, err := filepath.Glob(filepath.Join(d.CacheDir, "*debian-*")); err != nil || len(left) != 0 {
		t.Errorf("left in the cache: %q, %v", left, err)
	}
}

// eventually waits, with a bound, until something is so.
func eventually[T any](t *testing.T, is func() (T, bool)) T {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if v, ok := is(); ok {
			return v
		}
		if time.Now().After(end) {
			t.Fatal("it is not so after 10 s")
		}
	}
}

// runs reports whether a process is there and no zombie.
func runs(t *testing.T, pid string) bool {
	t.Helper()
	if _, err := strconv.Atoi(pid); err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func TestDebianBuildsOfOneCacheTakeTurns(t *testing.T) {
	w := newDebianWorld(t)
	w.mmdebstrap(sourcetest.Tar(t, sourcetest.Bootable("6.1")...), "/bin/sleep 0.3")
	cache := w.source().CacheDir
	errs := make(chan error, 3)
	for range cap(errs) {
		go func() {
			d := w.source()
			d.CacheDir = cache
			stream, err := d.Open(t.Context(), nil)
			if err == nil {
				err = stream.Close()
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := len(w.calls()); n != 1 {
		t.Errorf("made %d times, want once for all", n)
	}
}

func TestDebianCacheKeepsTheLastUsed(t *testing.T) {
	w := newDebianWorld(t)
	d := w.source()
	if err := os.MkdirAll(d.CacheDir, 0o700); err != nil {
		t.Fatal(err)
	}
	age := func(name string, hours int) string {
		path := filepath.Join(d.CacheDir, name)
		sourcetest.WriteOld(t, path, nil)
		used := time.Now().Add(-time.Duration(hours) * time.Hour)
		if err := os.Chtimes(path, used, used); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var trees []string
	for i := range 10 {
		trees = append(trees, age(fmt.Sprintf("debian-%d.tar.zst", i), i+1))
	}
	torn, other := age(".debian-x.tar.zst123", 1), age("somebody-elses.tar.zst", 99)
	if _, err := sourcetest.ReadSystem(t, d, nil); err != nil {
		t.Fatal(err)
	}
	there := func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}
	for i, path := range trees {
		if there(path) != (i < 7) {
			t.Errorf("%s is there: %v", path, there(path))
		}
	}
	if there(torn) || !there(other) {
		t.Errorf("torn build there: %v, foreign file there: %v", there(torn), there(other))
	}
}

func TestDebianGoesThroughAptsProxy(t *testing.T) {
	w := newDebianWorld(t)
	w.script("apt-get", `echo "'http://archive.invalid/debian/dists/trixie/InRelease' x 0 "`)
	w.script("apt-config", fmt.Sprintf("echo 'Acquire::http::Proxy|%s'", w.server.URL))
	d := w.source()
	d.AdditionalSuites = []string{}
	w.fingerprint(d)
	if !slices.Equal(w.asked, []string{"debian/trixie"}) {
		t.Errorf("the proxy was asked for %q", w.asked)
	}
}

package debian_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDME\n-----END PGP PUBLIC KEY BLOCK-----\n"

func TestDebianFilesAreLaidOverTheTree(t *testing.T) {
	w := newDebianWorld(t)
	from := filepath.Join(t.TempDir(), "from")
	sourcetest.Must(t, os.WriteFile(from, []byte("of this machine"), 0o600))
	d := w.source()
	d.Files = []debian.File{
		{Path: "/etc/new/motd", Content: "hello", Mode: 0o640, UID: 5, GID: 6},
		{Path: "/etc/os-release", From: from, Mode: 0o4755},
	}
	plain := w.source()
	plain.CacheDir = d.CacheDir
	if w.fingerprint(d) == w.fingerprint(plain) {
		t.Error("the files are no matter of the fingerprint")
	}
	read := func() *tree.Tree {
		t.Helper()
		tr, done, err := sourcetest.Read(t, d)
		sourcetest.Must(t, err)
		t.Cleanup(func() { sourcetest.Must(t, done()) })
		return tr
	}
	tr := read()
	for _, want := range []tree.Entry{
		{Path: "etc/new", Type: tree.Directory, Mode: 0o755},
		{Path: "etc/new/motd", Type: tree.Regular, Mode: 0o640, UID: 5, GID: 6, Size: 5, Digest: tree.Sum([]byte("hello"))},
		{Path: "etc/os-release", Type: tree.Regular, Mode: 0o4755, Size: 15, Digest: tree.Sum([]byte("of this machine"))},
	} {
		if e, ok := tr.Lookup(want.Path); !ok || !tree.Equal(*e, want) {
			t.Errorf("got %+v, want %+v", e, want)
		}
	}
	if e, ok := tr.Lookup("usr/lib/systemd/systemd"); !ok || e.Mode != 0o755 {
		t.Errorf("what was made is not there: %+v", e)
	}
	// Other files need no other tree.
	d.Files[0].Content = "other"
	d = &debian.Source{Suite: d.Suite, Packages: d.Packages, CacheDir: d.CacheDir, Files: d.Files}
	if data, err := read().ReadFile("etc/new/motd", 5); err != nil || string(data) != "other" || len(w.calls()) != 1 {
		t.Errorf("%q, %v; made %d times", data, err, len(w.calls()))
	}
}

func TestDebianRefusesFilesThatCannotBeLaidOver(t *testing.T) {
	w := newDebianWorld(t)
	for name, c := range map[string]struct {
		files []debian.File
		err   error
		want  string
	}{
		"relative": {[]debian.File{{Path: "etc/motd"}}, source.ErrRefused, "not an absolute path"},
		"outside":  {[]debian.File{{Path: "/../etc/motd"}}, source.ErrRefused, "/../etc/motd"},
		"the root": {[]debian.File{{Path: "/"}}, source.ErrRefused, "empty"},
		"twice": {[]debian.File{{Path: "/a"}, {Path: "/a", Content: "b"}},
			source.ErrRefused, "twice"},
		"impossible mode":         {[]debian.File{{Path: "/a", Mode: 0o10000}}, source.ErrRefused, "mode"},
		"not there":               {[]debian.File{{Path: "/a", From: "/nonexistent"}}, os.ErrNotExist, "/nonexistent"},
		"in place of a link":      {[]debian.File{{Path: "/bin"}}, source.ErrRefused, "would replace a link"},
		"in place of a directory": {[]debian.File{{Path: "/usr/bin"}}, source.ErrRefused, "would replace a directory"},
		"one that is not listed":  {[]debian.File{{Path: "/etc"}}, source.ErrRefused, "would replace a directory"},
		"below a file itself":     {[]debian.File{{Path: "/a"}, {Path: "/a/b"}}, source.ErrRefused, `below "a"`},
	} {
		d := w.source()
		d.Files = c.files
		if _, _, err := sourcetest.Read(t, d); !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %v that says %s", name, err, c.err, c.want)
		}
	}
}

// A file that users give is in the base, in place of the link that a package makes, too.
func TestDebianKeepsAResolverThatIsGiven(t *testing.T) {
	w := newDebianWorld(t)
	w.mmdebstrap(sourcetest.Tar(t,
		append(sourcetest.Bootable("6.1"), sourcetest.Link("etc/resolv.conf", "../run/x"))...), "")
	d := w.source()
	d.Files = []debian.File{{Path: "/etc/resolv.conf", Content: "nameserver 192.0.2.1\n", Mode: 0o644},
		{Path: "/bin/own", Content: "own", Mode: 0o755}}
	s, err := sourcetest.ReadSystem(t, d, nil)
	sourcetest.Must(t, err)
	for name, want := range map[string]string{"etc/resolv.conf": "nameserver 192.0.2.1\n", "usr/bin/own": "own"} {
		if data, err := s.Tree.ReadFile(name, 100); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

func TestDebianAcceptsArchivesOfAnyDate(t *testing.T) {
	w := newDebianWorld(t)
	d := w.source()
	usual := w.fingerprint(d)
	d = w.source()
	d.AnyDate = true
	if w.fingerprint(d) == usual {
		t.Error("the fingerprint is the same")
	}
	_, err := sourcetest.ReadSystem(t, d, nil)
	sourcetest.Must(t, err)
	if calls := w.calls(); len(calls) != 1 || strings.Count(calls[0], "deb [check-valid-until=no] http") != 3 {
		t.Errorf("mmdebstrap was called %q", calls)
	}
}

func TestDebianTakesPackageFilesAndRepositories(t *testing.T) {
	w := newDebianWorld(t)
	// The files that mmdebstrap was given are gone afterwards.
	kept := filepath.Join(w.bin, "kept")
	sourcetest.Must(t, os.Mkdir(kept, 0o700))
	w.mmdebstrap(sourcetest.Tar(t, sourcetest.Bootable("6.1")...), `for arg; do
  case "$arg" in
  --include=/*.deb) /bin/cp "${arg#--include=}" `+kept+`/ ;;
  *.sources) /bin/cp "$arg" `+kept+`/ ;;
  esac
done`)
	deb := filepath.Join(t.TempDir(), "own_1.0_all.deb")
	sourcetest.WriteOld(t, deb, []byte("a package"))
	own := func() *debian.Source {
		d := w.source()
		d.PackageFiles, d.Mode = []string{deb}, "root"
		d.Mirror, d.MirrorKey = w.server.URL+"/mirror", key
		d.AdditionalSuites = []string{}
		d.Repositories = []debian.Repository{
			{URI: w.server.URL + "/other/", Suite: "stable", Components: []string{"main", "contrib"}, Key: key},
			{URI: w.server.URL + "/other", Suite: "stable"},
		}
		return d
	}
	w.set("other/stable", strings.Repeat("5", 64))
	d := own()
	_, done, err := sourcetest.Read(t, d)
	sourcetest.Must(t, err)
	sourcetest.Must(t, done())
	sum := tree.Sum([]byte("a package")).Hex()
	call := w.calls()[0]
	for _, want := range []string{
		"--mode=root", "--include=dbus,nginx-light",
		"--hook-dir=/usr/share/mmdebstrap/hooks/file-mirror-automount", "/" + sum + ".deb",
		"/sharedos-0.sources", "/sharedos-1.sources", "deb " + w.server.URL + "/other stable main",
	} {
		if !strings.Contains(call, want) {
			t.Errorf("mmdebstrap is called %q, want %q in it", call, want)
		}
	}
	for name, want := range map[string]string{
		sum + ".deb": "a package",
		"sharedos-0.sources": "Types: deb\nURIs: " + w.server.URL +
			"/mirror\nSuites: trixie\nComponents: main\nSigned-By:\n" +
			" -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDME\n -----END PGP PUBLIC KEY BLOCK-----\n",
		"sharedos-1.sources": "Types: deb\nURIs: " + w.server.URL +
			"/other\nSuites: stable\nComponents: main contrib\nSigned-By:\n" +
			" -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDME\n -----END PGP PUBLIC KEY BLOCK-----\n",
	} {
		if data, err := os.ReadFile(filepath.Join(kept, name)); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v, want %q", name, data, err, want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "sharedos-mmdebstrap-*")); err != nil ||
		slices.ContainsFunc(left, func(dir string) bool {
			_, err := os.Stat(filepath.Join(dir, sum+".deb"))
			return err == nil
		}) {
		t.Errorf("%q are left, %v", left, err)
	}

	first := w.fingerprint(own())
	for what, change := range map[string]func(*debian.Source){
		"the key of the mirror": func(d *debian.Source) { d.MirrorKey += "\n" },
		"a key":                 func(d *debian.Source) { d.Repositories[0].Key = "" },
		"a component":           func(d *debian.Source) { d.Repositories[0].Components = nil },
		"package files":         func(d *debian.Source) { d.PackageFiles = nil },
		"the repository":        func(*debian.Source) { w.set("other/stable", strings.Repeat("6", 64)) },
	} {
		d := own()
		change(d)
		if w.fingerprint(d) == first {
			t.Errorf("%s changed, and the fingerprint did not", what)
		}
	}
	w.set("other/stable", strings.Repeat("5", 64))
	sourcetest.WriteOld(t, deb, []byte("another one"))
	if w.fingerprint(own()) == first {
		t.Error("another file under the same path, and the fingerprint is the same")
	}
}

func TestDebianLooksAtFilesOfThisMachineAlone(t *testing.T) {
	w := newDebianWorld(t)
	file := filepath.Join(t.TempDir(), "own.deb")
	sourcetest.WriteOld(t, file, []byte("1"))
	local := func(change func(*debian.Source)) string {
		t.Helper()
		d := w.source()
		change(d)
		text, err := d.LocalFingerprint(t.Context())
		sourcetest.Must(t, err)
		return text
	}
	none := local(func(d *debian.Source) { d.Files = []debian.File{{Path: "/a", Content: "b"}} })
	if none != "" {
		t.Errorf("of words alone: %q", none)
	}
	deb := local(func(d *debian.Source) { d.PackageFiles = []string{file} })
	from := local(func(d *debian.Source) { d.Files = []debian.File{{Path: "/a", From: file}} })
	sourcetest.WriteOld(t, file, []byte("2"))
	if deb == "" || from == "" || deb == from ||
		local(func(d *debian.Source) { d.PackageFiles = []string{file} }) == deb ||
		local(func(d *debian.Source) { d.Files = []debian.File{{Path: "/a", From: file}} }) == from {
		t.Errorf("%q, %q", deb, from)
	}
	if len(w.asked) > 0 {
		t.Errorf("the archive was asked: %q", w.asked)
	}
}

func TestDebianRefusesWrongWordsOfRepositories(t *testing.T) {
	w := newDebianWorld(t)
	d := w.source()
	d.MirrorKey, d.Mode = "not a key", "sudo"
	d.Repositories = []debian.Repository{{URI: "https://example.com/x [trusted=yes]", Suite: "a b",
		Components: []string{"-"}, Key: "no"}}
	d.PackageFiles = []string{"/etc/passwd"}
	_, err := d.Fingerprint(t.Context())
	for _, want := range []string{
		"key of the mirror: it is no OpenPGP", "a key of the mirror and no mirror", "trusted=yes", `"a b"`, `"-"`,
		"key of the repository", `"sudo" is not a mode`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v\nsays nothing of %q", err, want)
		}
	}
	d = w.source()
	d.PackageFiles = []string{"/etc/passwd"}
	if _, err := d.Fingerprint(t.Context()); err == nil || !strings.Contains(err.Error(), "ends in .deb") {
		t.Errorf("got %v", err)
	}
}

// A user who may not make a tree gets an error before anything is fetched, which says what to install.
func TestDebianSaysWhichRightsAreMissing(t *testing.T) {
	for mode, want := range map[string]string{
		"auto": "uidmap", "root": "run as root", "unshare": "apt-get install uidmap",
		"fakechroot": "apt-get install fakechroot fakeroot",
	} {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^TestDebianAsNobody$", "-test.v")
		cmd.Env = append(os.Environ(), "SHAREDOS_TEST_MODE="+mode)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Dir = "/"
		said, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(said), want) {
			t.Errorf("%s: %v\n%s\nsays nothing of %q", mode, err, said, want)
		}
	}
}

// It is the other process of TestDebianSaysWhichRightsAreMissing, and makes a tree only as that.
func TestDebianAsNobody(t *testing.T) {
	mode := os.Getenv("SHAREDOS_TEST_MODE")
	if mode == "" {
		return
	}
	w := newDebianWorld(t)
	d := w.source()
	d.Mode = mode
	_, _, err := sourcetest.Read(t, d)
	if !errors.Is(err, source.ErrRequirement) {
		t.Errorf("got %v, want ErrRequirement", err)
	}
	t.Log(err)
}

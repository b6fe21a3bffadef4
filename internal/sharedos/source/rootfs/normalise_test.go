package rootfs_test

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func normalise(t *testing.T, items ...sourcetest.Item) *tree.Tree {
	t.Helper()
	n, err := rootfs.Normalise(sourcetest.ReadTar(t, sourcetest.Tar(t, items...)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNormaliseRemovesWhatIsOneMachinesOwn(t *testing.T) {
	gone := []string{
		"etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub", "etc/hostname", "etc/resolv.conf",
		"var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "var/lib/systemd/credential.secret",
		"var/cache/apt/pkgcache.bin", "var/cache/apt/archives/lock", "var/cache/apt/archives/x.deb",
		"var/lib/apt/lists/mirror_InRelease", "var/lib/apt/lists/lock",
		"var/cache/debconf/config.dat-old", "var/cache/ldconfig/aux-cache",
		"var/lib/dpkg/status-old", "var/lib/dpkg/lock", "var/lib/dpkg/lock-frontend", "var/lib/dpkg/triggers/Lock",
		"var/log/dpkg.log", "var/log/apt/term.log", "var/log/syslog.1", "var/log/journal/0123/system.journal",
		"boot/vmlinuz-6.1", "tmp/x", "var/tmp/x", "run/x/y", "dev/null", "proc/1", "sys/x",
		"etc/shadow-", "etc/passwd-",
	}
	kept := []string{
		"etc/ssh/sshd_config", "etc/shadow", "var/cache/debconf/config.dat", "var/cache/apt/archives/partial",
		"var/lib/apt/lists/partial", "var/lib/systemd/catalog", "var/log/private", "home/user/.bashrc",
		"boot", "tmp", "run", "dev", "proc", "sys", "var/tmp", "var/log/journal",
	}
	var items []sourcetest.Item
	for _, p := range gone {
		items = append(items, sourcetest.File(p, "secret"))
	}
	for _, p := range kept {
		if strings.Contains(p, ".") || strings.HasPrefix(p, "etc/") {
			items = append(items, sourcetest.File(p, "content"))
		} else {
			items = append(items, sourcetest.Dir(p))
		}
	}
	items = append(items, sourcetest.Link("vmlinuz", "boot/vmlinuz-6.1"),
		sourcetest.Link("initrd.img.old", "/boot/initrd.img-6.1"))
	n := normalise(t, items...)
	for _, p := range append(gone, "vmlinuz", "initrd.img.old", "usr/lib/sysimage/dpkg/status-old",
		"usr/lib/sysimage/dpkg/lock", "usr/lib/sysimage/dpkg/triggers/Lock") {
		if _, ok := n.Lookup(p); ok {
			t.Errorf("%s is still there", p)
		}
	}
	for _, p := range kept {
		if _, ok := n.Lookup(p); !ok {
			t.Errorf("%s is lost", p)
		}
	}
}

func TestNormaliseEmptiesLogsAndMachineID(t *testing.T) {
	access := sourcetest.File("var/log/nginx/access.log", "GET /")
	access.Uid, access.Gid, access.Mode = 33, 4, 0o640
	n := normalise(t, access, sourcetest.File("etc/machine-id", "0123456789abcdef0123456789abcdef\n"))
	e, ok := n.Lookup("var/log/nginx/access.log")
	if !ok || e.Size != 0 || e.UID != 33 || e.GID != 4 || e.Mode != 0o640 {
		t.Errorf("log %+v, want it empty with its owner and mode", e)
	}
	for _, p := range []string{"var/log/nginx/access.log", "etc/machine-id", "etc/.updated", "var/.updated"} {
		if data, err := n.ReadFile(p, 0); err != nil || len(data) != 0 {
			t.Errorf("%s: %q, %v, want it empty", p, data, err)
		}
	}
}

func TestNormaliseKeepsAResolverLink(t *testing.T) {
	const target = "../run/systemd/resolve/stub-resolv.conf"
	n := normalise(t, sourcetest.Link("etc/resolv.conf", target),
		sourcetest.Link("var/lib/dbus/machine-id", "/etc/machine-id"))
	if e, ok := n.Lookup("etc/resolv.conf"); !ok || e.Link != target {
		t.Errorf("resolv.conf %+v", e)
	}
}

func TestNormaliseMovesWhatGoesElsewhere(t *testing.T) {
	own := sourcetest.Dir("opt/app")
	own.Uid = 1000
	n := normalise(t, sourcetest.File("var/lib/dpkg/status", "Package: a\n"),
		sourcetest.File("var/lib/dpkg/info/a.list", "/."),
		sourcetest.File("var/lib/rpm/rpmdb.sqlite", "rpm"), sourcetest.File("var/lib/pacman/local/a-1/desc", "a"),
		sourcetest.File("var/lib/pacman/sync/core.db", "core"),
		sourcetest.File("usr/local/bin/tool", "tool"), sourcetest.Link("usr/local/man", "share/man"),
		sourcetest.Dir("usr/local/share/man"),
		sourcetest.Link("usr/local/bin/sh", "../../bin/sh"), sourcetest.Link("usr/local/bin/root", "../../../.."),
		sourcetest.Link("usr/local/bin/abs", "/bin/sh"), sourcetest.Link("usr/bin/tool", "../local/bin/tool"),
		own, sourcetest.File("opt/app/run", "run"), sourcetest.Dir("var/opt"))
	for p, target := range map[string]string{
		"var/lib/dpkg":            "../../usr/lib/sysimage/dpkg",
		"var/lib/rpm":             "../../usr/lib/sysimage/rpm",
		"var/lib/pacman/local":    "../../../usr/lib/sysimage/pacman/local",
		"usr/local":               "../var/usrlocal",
		"opt":                     "var/opt",
		"var/usrlocal/man":        "share/man",
		"var/usrlocal/bin/sh":     "/usr/bin/sh",
		"var/usrlocal/bin/root":   "/",
		"var/usrlocal/bin/abs":    "/bin/sh",
		"usr/bin/tool":            "../local/bin/tool",
		"var/usrlocal/share/none": "",
	} {
		if e, ok := n.Lookup(p); ok != (target != "") || ok && (e.Type != tree.Symlink || e.Link != target) {
			t.Errorf("%s is %+v, want a link to %q", p, e, target)
		}
	}
	// Every old path still leads to the same content.
	for p, want := range map[string]string{
		"var/lib/dpkg/status": "Package: a\n", "var/lib/rpm/rpmdb.sqlite": "rpm", "var/lib/pacman/local/a-1/desc": "a",
		"var/lib/pacman/sync/core.db": "core", "usr/local/bin/tool": "tool",
		"usr/bin/tool": "tool", "opt/app/run": "run",
	} {
		if data, err := n.ReadFile(p, 100); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", p, data, err)
		}
	}
	if e, ok := n.Lookup("var/opt/app"); !ok || e.UID != 1000 {
		t.Errorf("var/opt/app %+v, want its owner kept", e)
	}
}

func TestNormaliseRefusesAMoveOntoSomethingElse(t *testing.T) {
	_, err := rootfs.Normalise(sourcetest.ReadTar(t,
		sourcetest.Tar(t, sourcetest.File("opt/a", "1"), sourcetest.File("var/opt/a", "2"))))
	if err == nil || !strings.Contains(err.Error(), "/var/opt/a") {
		t.Errorf("error %v, want one that names /var/opt/a", err)
	}
	_, err = rootfs.Normalise(sourcetest.ReadTar(t, sourcetest.Tar(t, sourcetest.Link("home", "usr"))))
	if err == nil || !strings.Contains(err.Error(), "/home") {
		t.Errorf("error %v, want one that names /home", err)
	}
}

func TestNormaliseMakesMountPoints(t *testing.T) {
	home := sourcetest.Dir("home")
	home.Mode = 0o711
	n := normalise(t, home)
	for p, mode := range map[string]uint32{
		"dev": 0o755, "proc": 0o555, "sys": 0o555, "run": 0o755, "tmp": 0o1777, "var": 0o755, "var/tmp": 0o1777,
		"home": 0o711, "root": 0o700, "srv": 0o755, "mnt": 0o755, "etc": 0o755, "usr": 0o755, "boot": 0o755,
	} {
		if e, ok := n.Lookup(p); !ok || e.Type != tree.Directory || e.Mode != mode {
			t.Errorf("%s: %+v, want a directory of mode %#o", p, e, mode)
		}
	}
}

// The stamps are not older than /usr, in this release and in any later one.
func TestNormaliseStampsAsUpdated(t *testing.T) {
	usr := sourcetest.Dir("usr")
	usr.ModTime = time.Unix(2_000_000_000, 0)
	n := normalise(t, usr)
	at, _ := n.Lookup("usr")
	for _, p := range []string{"etc/.updated", "var/.updated"} {
		e, ok := n.Lookup(p)
		if !ok || e.ModTime.Before(at.ModTime) || !at.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s: %+v, /usr is of %v", p, e, at.ModTime)
		}
	}
}

// Normalising is the same twice as once, leaves what it was given alone, and loses no content.
func TestNormaliseIsIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{
			"opt", "var", "usr", "local", "lib", "dpkg", "log", "etc", "machine-id", ".updated",
			"tmp", "boot", "sysimage", "a",
		}
		entries := []tree.Entry{{Path: ".", Type: tree.Directory}}
		seen := map[string]bool{}
		for range rapid.IntRange(0, 25).Draw(t, "entries") {
			parents := slices.DeleteFunc(slices.Clone(entries),
				func(e tree.Entry) bool { return e.Type != tree.Directory })
			p := rapid.SampledFrom(parents).Draw(t, "parent").Path + "/" + rapid.SampledFrom(names).Draw(t, "name")
			p = strings.TrimPrefix(p, "./")
			if seen[p] {
				continue
			}
			seen[p] = true
			switch rapid.IntRange(0, 3).Draw(t, "type") {
			case 0:
				entries = append(entries,
					tree.Entry{Path: p, Type: tree.Regular, Size: int64(len(p)), Digest: tree.Sum([]byte(p))})
			case 1:
				entries = append(entries,
					tree.Entry{Path: p, Type: tree.Symlink,
						Link: rapid.SampledFrom([]string{"a", "../a", "/a", "../../.."}).Draw(t, "target")})
			default:
				entries = append(entries, tree.Entry{Path: p, Type: tree.Directory, Mode: 0o750})
			}
		}
		given, err := tree.New(entries, none{})
		if err != nil {
			t.Fatal(err)
		}
		before := slices.Clone(given.Entries)
		once, err := rootfs.Normalise(given)
		same := func(a, b tree.Entry) bool { return tree.Equal(a, b) && a.ModTime.Equal(b.ModTime) }
		if !slices.EqualFunc(given.Entries, before, same) {
			t.Fatal("the given tree was changed")
		}
		if err != nil {
			// A file where a directory has to be, or a move onto something else: refused, not made worse.
			return
		}
		twice, err := rootfs.Normalise(once)
		if err != nil {
			t.Fatalf("the second time: %v\n%q", err, sourcetest.Paths(once))
		}
		if !slices.EqualFunc(once.Entries, twice.Entries, same) {
			t.Fatalf("once\n%+v\ntwice\n%+v", once.Entries, twice.Entries)
		}
	})
}

// none is a content of nothing.
type none struct{}

func (none) Open(tree.Digest) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }

// What Normalise moves to the VM's disk is what a refresh carries there.
func TestMovedDirectoriesAreCarried(t *testing.T) {
	n, err := rootfs.Normalise(sourcetest.ReadTar(t,
		sourcetest.Tar(t, sourcetest.File("opt/acme/acmed", "1"), sourcetest.File("usr/local/bin/x", "1"))))
	if err != nil {
		t.Fatal(err)
	}
	var moved []string
	for _, e := range n.Entries {
		if e.Type == tree.Regular && tree.OwnerOf(e.Path) == tree.CarriedByOS {
			moved = append(moved, e.Path)
		}
	}
	if want := []string{"var/opt/acme/acmed", "var/usrlocal/bin/x"}; !slices.Equal(moved, want) {
		t.Errorf("carried are %q, want %q", moved, want)
	}
}

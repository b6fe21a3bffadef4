package standin_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin/paths"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type memory map[tree.Digest]string

func (m memory) Open(digest tree.Digest) (io.ReadCloser, error) {
	text, has := m[digest]
	if !has {
		return nil, fmt.Errorf("no content %s: %w", digest, fs.ErrNotExist)
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

// files are a tree: the text of a path that ends in "*" is an executable's, one that begins with "-> " a link's target,
// and a path that ends in "/" is a directory.
type files map[string]string

var base = files{
	"etc/": "", "usr/bin/sh*": "shell", "usr/sbin/": "",
	"usr/lib/systemd/system/dbus.service": "[Unit]\nDescription=Bus\n",
	"usr/lib/systemd/system-generators/":  "", "usr/share/": "", "var/": "",
}

func (f files) with(more files) files {
	all := maps.Clone(f)
	maps.Copy(all, more)
	return all
}

func (f files) tree(t *testing.T) *tree.Tree {
	t.Helper()
	all, content := map[string]tree.Entry{tree.Root: {Path: tree.Root, Type: tree.Directory, Mode: 0o755}}, memory{}
	for at, text := range f {
		e := tree.Entry{Path: at, Type: tree.Regular, Mode: 0o644}
		if program, is := strings.CutSuffix(at, "*"); is {
			e.Path, e.Mode = program, 0o4755
		}
		if directory, is := strings.CutSuffix(at, "/"); is {
			e = tree.Entry{Path: directory, Type: tree.Directory, Mode: 0o755}
		}
		if target, is := strings.CutPrefix(text, "-> "); is {
			e.Type, e.Mode, e.Link = tree.Symlink, 0o777, target
		}
		if e.Type == tree.Regular {
			e.Size, e.Digest = int64(len(text)), tree.Sum([]byte(text))
			content[e.Digest] = text
		}
		all[e.Path] = e
		for up := tree.Parent(e.Path); up != tree.Root; up = tree.Parent(up) {
			if _, has := all[up]; !has {
				all[up] = tree.Entry{Path: up, Type: tree.Directory, Mode: 0o700, UID: 7}
			}
		}
	}
	made, err := tree.New(slices.Collect(maps.Values(all)), content)
	must(t, err)
	return made
}

// stoodIn returns the stand-ins of a component that adds files to a base.
func stoodIn(t *testing.T, base, adds files) files {
	t.Helper()
	below, whole := standin.System{Tree: base.tree(t)}, standin.System{
		Tree: base.with(adds).tree(t), Users: map[string]uint32{"app": 990},
		Groups: map[string]uint32{"app": 991, "adm": 4},
	}
	below.Groups = map[string]uint32{"adm": 4}
	made, err := standin.On("app", below, whole)
	must(t, err)
	found := files{}
	for _, e := range layer.Delta(below.Tree.Entries, made.Entries) {
		if was, has := below.Tree.Lookup(e.Path); has {
			if !tree.Equal(*was, e) {
				t.Errorf("it changes /%s", e.Path)
			}
			continue
		}
		if owner := tree.OwnerOf(e.Path); owner != tree.OwnedByOS || e.UID != 0 || e.GID != 0 || len(e.Xattrs) > 0 {
			t.Errorf("it adds %+v", e)
		}
		switch e.Type {
		case tree.Symlink:
			found[e.Path] = "-> " + e.Link
		case tree.Regular:
			text, err := made.ReadFile(e.Path, 1<<20)
			must(t, err)
			if e.Mode == 0o755 {
				e.Path += "*"
			} else if e.Mode != 0o644 {
				t.Errorf("/%s has mode %o", e.Path, e.Mode)
			}
			found[e.Path] = string(text)
		default:
			if e.Type != tree.Directory || e.Mode != 0o755 {
				t.Errorf("it adds %+v", e)
			}
		}
	}
	return found
}

const (
	units  = "usr/lib/systemd/system/"
	local  = "etc/systemd/system/"
	script = "#!/run/sharedos/bin/agent call app\n"
)

// own are the stand-ins of a component that has nothing that can be used.
var own = files{
	"usr/lib/systemd/system-generators/sharedos-on-demand": "-> /run/sharedos/bin/agent",
	"usr/sbin/sharedos": "-> /run/sharedos/bin/agent", "usr/lib/sharedos/on-demand/components/app": "",
}

func service(description string) string {
	return `# Stands in for a unit of component "app", which is attached when the unit is started.
[Unit]
Description=` + description + ` (attaches component app)
After=sharedos-agent.service
StartLimitIntervalSec=10min
StartLimitBurst=5

[Service]
Type=oneshot
ExecStart=/run/sharedos/bin/agent use app
TimeoutStartSec=infinity
`
}

func TestWhatStandsInForAComponent(t *testing.T) {
	real := "[Unit]\nDescription=An app\n[Service]\nExecStart=/usr/bin/app\n"
	for name, test := range map[string]struct{ adds, want files }{
		"nothing that can be used": {files{"usr/lib/libapp.so": "library", "etc/app.conf": "1", "opt/app/bin/app*": "1"}, nil},
		"a server with an alias, enabled at boot": {files{
			units + "app-server.service":                       real,
			local + "app.service":                              "-> /usr/lib/systemd/system/app-server.service",
			local + "multi-user.target.wants/app.service":      "-> /usr/lib/systemd/system/app-server.service",
			units + "app-server.service.d/50-more.conf":        "[Service]\nNice=1\n",
			"usr/bin/app-server*":                              "program",
			"usr/bin/app-check":                                "-> app-server",
			"etc/init.d/app*":                                  "script",
			"etc/app/app.conf":                                 "1",
			"var/lib/app/data":                                 "1",
			local + "multi-user.target.wants/unrelated.socket": "-> /usr/lib/systemd/system/dbus.socket",
		}, files{
			"U/app-server.service": service("An app"), "U/app.service": "-> app-server.service",
			"usr/bin/app-server*": script, "usr/bin/app-check*": script,
		}},
		"what waits for connections, times and paths": {files{
			units + "app.socket":                          "[Unit]\nDescription=S\n[Socket]\nListenStream=/run/app\nSocketUser=app\nSocketGroup = app\n",
			units + "app.service":                         real,
			units + "app@.socket":                         "[Socket]\nSocketGroup=adm\n",
			units + "daily.timer":                         "[Timer]\nOnCalendar=daily\n",
			units + "spool.path":                          "[Path]\nPathExists=/run/spool\n",
			local + "sockets.target.wants/app.socket":     "-> /lib/systemd/system/app.socket",
			local + "sockets.target.wants/app@1.socket":   "-> /lib/systemd/system/app@.socket",
			units + "timers.target.wants/daily.timer":     "-> ../daily.timer",
			local + "paths.target.requires/spool.path":    "-> /usr/lib/systemd/system/spool.path",
			local + "graphical.target.upholds/app.socket": "-> /usr/lib/systemd/system/app.socket",
			local + "timers.target.wants/masked.timer":    "-> /dev/null",
			units + "app.socket.d/10.conf":                "[Socket]\nSocketGroup=app\n",
			local + "app.socket.d/10.conf":                "-> /dev/null",
			units + "app.socket.d/readme":                 "no drop-in",
			units + "socket.d/all.conf":                   "[Socket]\nBacklog=1\n",
		}, files{
			"U/app.socket":  "[Unit]\nDescription=S\n[Socket]\nListenStream=/run/app\nSocketUser=990\nSocketGroup=991\n",
			"U/app.service": service("An app"), "U/app@.socket": "[Socket]\nSocketGroup=adm\n",
			"U/daily.timer": "[Timer]\nOnCalendar=daily\n", "U/spool.path": "[Path]\nPathExists=/run/spool\n",
			"U/sockets.target.wants/app.socket":     "-> ../app.socket",
			"U/sockets.target.wants/app@1.socket":   "-> ../app@.socket",
			"U/timers.target.wants/daily.timer":     "-> ../daily.timer",
			"U/paths.target.requires/spool.path":    "-> ../spool.path",
			"U/graphical.target.upholds/app.socket": "-> ../app.socket", "U/app.socket.d/10.conf": "",
		}},
		"templates": {files{
			units + "app@.service":                          "[Unit]\nDescription=Instance %i\n",
			local + "alias@.service":                        "-> /usr/lib/systemd/system/app@.service",
			local + "multi-user.target.wants/app@1.service": "-> /usr/lib/systemd/system/app@.service",
		}, files{"U/app@.service": service("Instance %%i"), "U/alias@.service": "-> app@.service"}},
		"descriptions": {files{
			units + "none.service":    "[Service]\nDescription=not here\n",
			units + "last.service":    "[Unit]\nDescription=1\nDescription = a\tb \\\n# no\n  c\n",
			units + "odd.service":     "[Unit]\nDescription=\x1b[1m\xff50% \\\n",
			units + "comment.service": "[Unit]\n; Description=no\n",
		}, files{
			"U/none.service": service("none.service"), "U/last.service": service("a b c"),
			"U/odd.service":     service("odd.service"),
			"U/comment.service": service("comment.service"),
		}},
		"masked units": {files{
			units + "a.service": real, local + "a.service": "-> /dev/null", units + "b.service": "",
			units + "c.socket":  "-> /dev/null",
			units + "d.service": "-> a.service",
		}, files{}},
		"a file of the VM's directory wins": {files{
			units + "a.service": real, local + "a.service": "[Unit]\nDescription=Mine\n",
			units + "b.service": real, local + "b.service": "-> /usr/lib/systemd/system/b.service",
			local + "c.service": "-> /usr/lib/app/c.service", "usr/lib/app/c.service": real,
			"var/usrlocal/lib/systemd/system/d.timer": "[Timer]\n", units + "d.timer": "[Timer]\nOnBootSec=1\n",
		}, files{
			"U/a.service": service("Mine"), "U/b.service": service("An app"), "U/c.service": service("An app"),
			"U/d.timer": "[Timer]\n",
		}},
		"aliases of aliases, and in circles": {files{
			units + "a.service": "-> b.service", units + "b.service": "-> c.service", units + "c.service": real,
			units + "x.service": "-> y.service", units + "y.service": "-> x.service",
			units + "z.service": "-> c.socket", units + "c.socket": "[Socket]\n",
			units + "v.service": "-> dbus.service",
		}, files{
			"U/a.service": "-> c.service", "U/b.service": "-> c.service", "U/c.service": service("An app"),
			"U/z.service": service("z.service"),
			"U/c.socket":  "[Socket]\n",
		}},
		"other units": {files{units + "a.target": "[Unit]\n", units + "a.mount": "[Mount]\n", units + "a.slice": "[Slice]\n", units + "a.timers": "[Timer]\n"}, files{}},
		"what the base has": {files{
			units + "dbus.service": "[Unit]\nDescription=Another\n", local + "dbus.service": "[Unit]\n",
			"usr/bin/sh*": "another",
			local + "sockets.target.wants/dbus.socket": "-> /usr/lib/systemd/system/dbus.socket",
		}, files{}},
		"commands": {files{
			"usr/bin/a*": "1", "usr/sbin/b*": "1", "usr/games/c*": "1", "usr/bin/text": "no program",
			"usr/bin/broken":      "-> gone",
			"usr/bin/alternative": "-> /etc/alternatives/alternative", "etc/alternatives/alternative": "-> /usr/bin/a",
			"usr/bin/deeper/d*":   "1",
			"var/usrlocal/bin/e*": "1", "opt/f*": "1", "usr/bin/of-base": "-> sh", "usr/bin/directory": "-> ../lib",
			"usr/lib/app/helper*": "1",
		}, files{"usr/bin/a*": script, "usr/sbin/b*": script, "usr/games/c*": script, "usr/bin/alternative*": script,
			"usr/bin/of-base*": script}},
		"names on the bus": {files{
			"usr/share/dbus-1/system-services/org.App.service": "[D-BUS Service]\nName=org.App\nSystemdService=dbus-org.App.service\n",
			"usr/share/dbus-1/system-services/readme":          "text",
			"usr/share/dbus-1/system.d/org.App.conf":           "<busconfig/>",
			"etc/dbus-1/system.d/org.App.conf":                 "<busconfig/>\n",
			"etc/dbus-1/system.d/other.conf":                   "<busconfig/>\n",
			"usr/share/dbus-1/session.d/session.conf":          "<busconfig/>\n",
			units + "app.service":                              real,
			local + "dbus-org.App.service":                     "-> /lib/systemd/system/app.service",
		}, files{
			"usr/share/dbus-1/system-services/org.App.service": "[D-BUS Service]\nName=org.App\nSystemdService=dbus-org.App.service\n",
			"usr/share/dbus-1/system.d/org.App.conf":           "<busconfig/>\n<!-- stand-in -->\n",
			"usr/share/dbus-1/system.d/app-org.App.conf":       "<busconfig/>\n<!-- stand-in -->\n",
			"usr/share/dbus-1/system.d/other.conf":             "<busconfig/>\n<!-- stand-in -->\n",
			"U/app.service":                                    service("An app"),
			"U/dbus-org.App.service":                           "-> app.service",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			want := maps.Clone(own)
			for at, text := range test.want {
				if rest, is := strings.CutPrefix(at, "U/"); is {
					at = paths.Units + "/" + rest
				}
				want[at] = text
			}
			if diff := cmp.Diff(want, stoodIn(t, base.with(files{"lib": "-> usr/lib"}), test.adds)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// The base of some distributions has one directory for all commands.
func TestCommandsInOneDirectory(t *testing.T) {
	merged := base.with(files{"usr/sbin": "-> bin"})
	delete(merged, "usr/sbin/")
	found := stoodIn(t, merged, files{"usr/bin/app*": "1"})
	if found["usr/bin/sharedos"] != "-> "+paths.Agent || found["usr/bin/app*"] != script {
		t.Errorf("it has %v", found)
	}
}

func TestABaseThatHasThePathsOfStandIns(t *testing.T) {
	found := stoodIn(t, base.with(files{"usr/sbin/sharedos*": "its own"}), files{"usr/bin/app*": "1"})
	if _, has := found["usr/sbin/sharedos"]; has || found["usr/bin/app*"] == "" {
		t.Errorf("with a command of its own it has %v", found)
	}
	for _, at := range []string{paths.Generator, paths.OnDemand + "/units/x", "usr/lib/sharedos"} {
		whole := base.with(files{at: "its own"})
		_, err := standin.On("app", standin.System{Tree: whole.tree(t)}, standin.System{Tree: whole.tree(t)})
		if err == nil || !strings.Contains(err.Error(), "from the base") &&
			!strings.Contains(err.Error(), "mend the base") {
			t.Errorf("with /%s: %v", at, err)
		}
	}
}

func TestEqualTreesHaveEqualStandIns(t *testing.T) {
	adds := files{units + "a.service": "1", units + "b.service": "-> a.service",
		local + "c.service": "-> ../../../usr/lib/systemd/system/b.service", "usr/bin/a*": "1"}
	first := stoodIn(t, base, adds)
	for range 5 {
		if diff := cmp.Diff(first, stoodIn(t, base, adds)); diff != "" {
			t.Fatalf("again: %s", diff)
		}
	}
}

func TestPathsOfTheAgent(t *testing.T) {
	if paths.Agent != mounts.AgentBinary || paths.AgentUnit != boot.AgentUnit {
		t.Errorf("%s and %s", paths.Agent, paths.AgentUnit)
	}
	if !bytes.HasPrefix([]byte(script), []byte("#!"+paths.Agent+" "+paths.CallVerb+" ")) {
		t.Errorf("%s", script)
	}
}

package components_test

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// real are components of packages that do more than to serve pages, each on the first base, and an
// application of files that needs one of them.
type real struct{ database, interpreter, app, schemas tree.Digest }

// app is an application of Python: a service that answers on a port.
var app = []guest.Edit{
	guest.Write("usr/lib/systemd/system/app.service", 0o644,
		"[Service]\nType=notify\nNotifyAccess=all\nDynamicUser=yes\nExecStart=/usr/bin/python3 /usr/lib/app/app.py\n"),
	guest.Link("etc/systemd/system/multi-user.target.wants/app.service", "/usr/lib/systemd/system/app.service"),
	guest.Write("usr/lib/app/app.py", 0o644, `import http.server, os, socket

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"an application\n")

server = http.server.HTTPServer(("", 8090), Handler)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
server.serve_forever()
`),
}

// buildReal builds these components.
func (h *house) buildReal(t *testing.T, w *guest.World) {
	t.Helper()
	for _, one := range []struct {
		name     string
		packages []string
		built    *tree.Digest
	}{
		{"database", []string{"postgresql"}, &h.real.database},
		{"interpreter", []string{"python3"}, &h.real.interpreter},
		{"schemas", []string{"gsettings-desktop-schemas", "libglib2.0-bin"}, &h.real.schemas},
	} {
		adds, err := w.Packages(guest.Plain, one.packages...)
		if err != nil {
			t.Fatal(err)
		}
		if *one.built, err = w.Component(t.Context(), one.name, h.bases[0], adds); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if h.real.app, err = w.Component(t.Context(), "app", h.bases[0], guest.Files(app...)); err != nil {
		t.Fatal(err)
	}
}

// sql is a command that asks the database.
func sql(statements string) string {
	return "setpriv --reuid=postgres --regid=postgres --init-groups psql -At -c \"" + statements + "\""
}

// realOnes has real components come and go, one in place of the other.
func (h *house) realOnes(t *testing.T) {
	before := h.states(t)
	planned, _ := h.moves(t, h.bases[0], h.real.database)
	if !starts(planned.GetStarts(), "postgresql.service") {
		t.Errorf("planned %v", planned.GetStarts())
	}
	h.check(t, prints(sql("create table things (name text); insert into things values ('kept')")+" >/dev/null", ""),
		h.untouched(before), h.truthful("postgresql-client-common", "/usr/bin/psql", true))

	before = h.states(t)
	h.moves(t, h.bases[0], h.real.interpreter, h.real.app)
	if text := h.get(t, 8090, "/"); text != "an application\n" {
		t.Errorf("the application answers %q", text)
	}
	h.attached(t, h.real.database, false)
	h.check(t, h.gone("postgresql.service", "postgresql@17-main.service"),
		prints("pgrep postgres || echo ended; test -s /var/lib/postgresql/17/main/PG_VERSION && echo kept",
			"ended\nkept"),
		listed("postgresql-client-common", "/usr/bin/psql", false),
		h.truthful("python3-minimal", "/usr/bin/python3", true),
		h.untouched(before, "postgresql.service", "postgresql@17-main.service"))

	h.moves(t, h.bases[0], h.real.database)
	h.attached(t, h.real.interpreter, false)
	h.check(t, prints(sql("select name from things"), "kept"), h.gone("app.service"))

	h.moves(t, h.bases[0], h.real.schemas)
	h.check(t, []check{{"GSETTINGS_BACKEND=memory gsettings get org.gnome.desktop.interface clock-format",
		func(t *testing.T, value string) {
			if value != "'24h'" && value != "'12h'" {
				t.Errorf("a setting of its schemas is %q", value)
			}
		}}}, h.truthful("libglib2.0-bin", "/usr/bin/gsettings", true))
	h.moves(t, h.bases[0])
	h.check(t, h.truthful("libglib2.0-bin", "/usr/bin/gsettings", false),
		prints("ls -d /usr/share/glib-2.0/schemas 2>/dev/null || echo gone", "gone"), h.untouched(nil), readable)
	matrix.Record(t, "a database, an application with its interpreter, and schemas take each other's place", "restart",
		"each serves alone; the database has its data when it comes back")
}

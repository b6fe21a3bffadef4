package faults

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

func TestMain(m *testing.M) {
	if encoded := os.Getenv(childVariable); encoded != "" {
		if err := applyAsChild(encoded); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(matrix.Run(m))
}

// library is mapped by nginx only.
const library = "/libssl.so.3"

// world has two releases that differ in a library, in a unit, and in files in /etc that are added, changed and removed.
type world struct {
	*guest.World
	one, two tree.Digest
	// agent is the binary of the agent with failpoints.
	agent string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{World: guest.New(t), agent: guest.AgentWithPoints(t)}
	w.Expected, w.KeepLogin = 12*time.Minute, true
	w.Host.Fleet.AgentBinary = func() ([]byte, error) { return os.ReadFile(w.agent) }
	ids, err := w.Releases(t.Context(), "debian", guest.Plain, edits("one"), edits("two"))
	if err != nil {
		t.Fatal(err)
	}
	w.one, w.two = ids[0], ids[1]
	return w
}

func edits(name string) []guest.Edit {
	return append([]guest.Edit{
		guest.Append(library, name),
		guest.Write("usr/share/mark", 0o644, name),
		guest.Write("usr/share/"+name+"-only", 0o644, name),
		guest.Write("etc/mark/changes.conf", 0o644, name),
		guest.Write("etc/mark/mode.conf", 0o600, name),
		guest.Write("etc/mark/changed-here.conf", 0o644, name),
		guest.Write("etc/mark/"+name+"-only/file.conf", 0o644, name),
		guest.Write("etc/systemd/system/nginx.service", 0o644, strings.ReplaceAll(nginxUnit, "MARK", name)),
	}, guest.Lean()...)
}

// nginxUnit does not wait for the network, unlike Debian's: no test connects to nginx.
const nginxUnit = `[Unit]
Description=nginx, of release MARK

[Service]
Environment=MARK=MARK
ExecStart=/usr/sbin/nginx -g "daemon off; master_process off;"

[Install]
WantedBy=multi-user.target
`

// third publishes a third release.
func (w *world) third(t *testing.T, more ...guest.Edit) tree.Digest {
	t.Helper()
	id, err := w.Publish(t.Context(), "debian", guest.Plain, append(edits("three"), more...)...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

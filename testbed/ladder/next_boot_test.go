package ladder_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// The strategy next_boot changes nothing before the next power-off and start. Then /etc, /opt and /usr/local follow the
// stack, also onto a full layer, and go back with it when the stack cannot be read any more.
func TestTheNextBoot(t *testing.T) {
	t.Parallel()
	w := guest.New(t)
	w.Expected, w.KeepLogin = 4*time.Minute, true
	system := func(name string) []guest.Edit {
		number := map[string]string{"now": "990", "next": "991", "rebased": "992"}[name]
		return slices.Concat(guest.Lean(), marks(name),
			[]guest.Edit{guest.Write("etc/ours", 0o644, name), guest.Append("etc/group", name+":x:"+number+":\n"),
				guest.Write("opt/acme/bin/acmed", 0o755, name), guest.Write("usr/local/bin/acme", 0o755, name),
				guest.Write("etc/blocked", 0o644, name),
				guest.Write("etc/tls.key", 0o600, "-----BEGIN PRIVATE KEY-----\n")})
	}
	releases, err := w.Releases(t.Context(), "next", guest.Plain, system("now"), system("next"))
	if err != nil {
		t.Fatal(err)
	}
	now, next := releases[0], releases[1]
	v, err := w.Create(t.Context(), "next", now, func(s *vm.Spec) { s.Refresh.Strategy = vm.NextBoot })
	if err != nil {
		t.Fatal(err)
	}
	run := func(command string) string {
		t.Helper()
		text, err := v.Run(t.Context(), command)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	// runs fails unless the VM runs the release with this mark completely. groups are the groups of releases that
	// it has, acme is the content of a file in /usr/local that was changed in the VM once.
	runs := func(mark, groups, acme string) {
		t.Helper()
		got := run("cat /usr/share/mark; echo; cat /etc/mark; echo; cat /etc/ours; getent group own | cut -d: -f1; " +
			"cat /opt/acme/bin/acmed; echo; cat /usr/local/bin/acme; echo; cat /opt/acme/own; grep -oE " +
			"'^(now|next|rebased):' /etc/group | tr -d '\\n'; echo; systemctl is-system-running --wait; ls " +
			"/run/sharedos/private/sharedos | grep -c '^undo$' || true")
		if want := strings.Join([]string{mark, mark, "own", "own", mark, acme, "own", groups, "running", "0"},
			"\n"); got != want {
			t.Fatalf("it runs %q, want %q\n%s", got, want, v.Console())
		}
	}
	// start cuts the power, calls meanwhile, and starts the VM.
	start := func(meanwhile func() error) *agentapi.StatusResponse {
		t.Helper()
		if err := v.CutPower(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := meanwhile(); err != nil {
			t.Fatal(err)
		}
		status, err := v.Start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	run("echo own > /etc/ours; echo own > /opt/acme/own; printf own > /usr/local/bin/acme; groupadd own; sync")
	if report, err := v.Refresh(t.Context(), next); err != nil || report.GetCommitted() {
		t.Fatalf("%v, %v", report, err)
	}
	runs("now", "now:", "own")
	started := start(func() error { return nil })
	if last := started.GetLast(); len(started.GetRefused()) > 0 || !last.GetCommitted() ||
		last.GetStrategy() != vm.NextBoot ||
		len(last.GetConflicts()) != 2 || !strings.HasPrefix(last.GetConflicts()[0], "/etc/ours: ") ||
		!strings.HasPrefix(last.GetConflicts()[1], "/usr/local/bin/acme: ") {
		t.Errorf("it refused %q, and tells of the start %v", started.GetRefused(), last)
	}
	runs("next", "now:next:", "next")

	manifest, err := w.Host.Publisher.Get(t.Context(), next)
	if err != nil {
		t.Fatal(err)
	}
	delta := manifest.Layers[len(manifest.Layers)-1]
	path, err := w.Host.Store.LayerPath(t.Context(), delta.ID)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The hash tree is behind the data.
	status := start(func() error { return os.Truncate(path, delta.DataSize) })
	if told := strings.Join(status.GetRefused(), "\n"); !strings.Contains(told, delta.ID.Hex()) {
		t.Errorf("of the layer that cannot be read it tells %q", told)
	}
	runs("now", "now:", "own")

	// The VM runs the old stack until it is refreshed again: it runs other than what was asked for, but what it
	// runs is known to work.
	start(func() error { return os.WriteFile(path, whole, 0o644) })
	runs("now", "now:", "own")
	v.Spec.Refresh.Strategy = vm.Live
	// A file that cannot be replaced and a number that is taken are reported, and block nothing else.
	run("mount --bind /etc/hostname /etc/blocked; groupadd -g 991 mine")
	report, err := v.Refresh(t.Context(), next)
	if err != nil || !report.GetCommitted() {
		t.Fatalf("%v, %v", report, err)
	}
	runs("next", "now:next:", "next")
	kinds := map[string]string{}
	for _, conflict := range report.GetConflictDetails() {
		kinds[conflict.GetPath()] = conflict.GetKind()
	}
	if kinds["/etc/blocked"] != "mount" || kinds["/etc/group"] != "account_number" {
		t.Errorf("it reports %v", report.GetConflictDetails())
	}
	if got := run("umount /etc/blocked; cat /etc/blocked; echo; getent group mine | cut -d: -f3; test $(getent group next | cut -d: -f3) = 991 || echo free; test -e /etc/tls.key || echo no key"); got != "now\n991\nfree\nno key" {
		t.Errorf("the VM has %q", got)
	}
	if kept := run("cat /run/sharedos/private/sharedos/replaced/*/usr/local/bin/acme"); kept != "own" {
		t.Errorf("what the release has replaced is kept as %q", kept)
	}

	// A release of one full layer shares no layer with what the VM runs.
	w.Host.Publisher.MaxChain = 1
	rebased, err := w.Publish(t.Context(), "next", guest.Plain, system("rebased")...)
	if err != nil {
		t.Fatal(err)
	}
	v.Spec.Refresh.Strategy = vm.NextBoot
	if report, err := v.Refresh(t.Context(), rebased); err != nil || report.GetCommitted() {
		t.Fatalf("%v, %v", report, err)
	}
	started = start(func() error { return nil })
	if last := started.GetLast(); len(started.GetRefused()) > 0 ||
		len(started.GetPending()) > 0 || !last.GetCommitted() {
		t.Errorf("it refused %q, awaits %q, and reports of the start %v", started.GetRefused(),
			started.GetPending(), last)
	}
	runs("rebased", "now:next:rebased:", "rebased")
	if got := run("cat /etc/blocked"); got != "rebased" {
		t.Errorf("what could not be replaced is %q after the next boot", got)
	}
	matrix.Record(t, "truncated layer", "in a boot", "old stack, reported; the next apply converges")
}

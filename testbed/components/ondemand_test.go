package components_test

import (
	"bufio"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// echo is a component of files: a service that answers on a socket of systemd, and a command.
var echo = []guest.Edit{
	guest.Write("usr/lib/systemd/system/echo.socket", 0o644, "[Socket]\nListenStream=7071\n"),
	guest.Write("usr/lib/systemd/system/echo.service", 0o644,
		"[Unit]\nDescription=Echo\n[Service]\nTimeoutStartSec=infinity\nExecStart=/usr/bin/echod\n"),
	guest.Write("usr/bin/echod", 0o755, `#!/usr/bin/perl
open(my $listener, "+<&=", 3) or die;
while (accept(my $client, $listener)) { syswrite($client, "answer\n"); close $client; }
`),
	guest.Write("usr/bin/say-words", 0o755, "#!/bin/sh\necho \"said $*\"\n"),
	guest.Link("usr/bin/say", "say-words"),
	guest.Link("etc/systemd/system/sockets.target.wants/echo.socket", "/usr/lib/systemd/system/echo.socket"),
}

// offered is a VM with components on demand.
type offered struct {
	*house
	// echo and uuid are the components on each base; uuid is a real package with a socket.
	echo, uuid []tree.Digest
	// broken and kinds are on the second base.
	broken, kinds tree.Digest
}

// spec has the VM run a base with the components on demand on it.
func (o *offered) spec(i int) vm.Spec {
	spec := o.vm.Spec
	spec.Base, spec.Components, spec.OnDemand = o.bases[i], nil, []tree.Digest{o.echo[i], o.uuid[i]}
	return spec
}

// TestComponentsOnDemand shares one guest. Each test begins with what the one before it has left.
func TestComponentsOnDemand(t *testing.T) {
	w := guest.New(t)
	w.Debian, w.Expected = guest.Bare, 8*time.Minute
	o := &offered{house: &house{}}
	var err error
	if o.bases, err = w.Releases(t.Context(), "debian", guest.Plain, base("one"), base("two")); err != nil {
		t.Fatal(err)
	}
	packages, err := w.Packages(guest.Plain, "uuid-runtime")
	if err != nil {
		t.Fatal(err)
	}
	o.uuid, o.echo = onEach(t, w, o.bases, "uuid", packages), onEach(t, w, o.bases, "echo", guest.Files(echo...))
	if o.broken, err = w.Component(t.Context(), "broken", o.bases[1], guest.Files(broken...)); err != nil {
		t.Fatal(err)
	}
	if o.kinds, err = w.Component(t.Context(), "kinds", o.bases[1], guest.Files(kinds...)); err != nil {
		t.Fatal(err)
	}
	shape := func(spec *vm.Spec) { spec.OnDemand = []tree.Digest{o.echo[0], o.uuid[0]} }
	if o.vm, err = w.Create(t.Context(), "on-demand", o.bases[0], shape, 7071, 7072); err != nil {
		t.Fatal(err)
	}
	t.Run("there, and not attached", o.idle)
	t.Run("a connection", o.connection)
	t.Run("a command", o.command)
	t.Run("the host knows", o.known)
	t.Run("removed by root", o.removed)
	t.Run("started by hand", o.started)
	t.Run("the base is patched", o.patched)
	t.Run("a unit of it fails", o.fails)
	t.Run("after a boot", o.boot)
	t.Run("every kind of use", o.everyKind)
	t.Run("detached while it is off", o.detachedOff)
	t.Run("detached by the host", o.detached)
}

// list checks what root sees of the components.
func (o *offered) list(attached ...string) []check {
	return []check{{"sharedos component list", func(t *testing.T, text string) {
		t.Helper()
		var found []string
		for line := range strings.Lines(text) {
			if fields := strings.Fields(line); len(fields) == 3 && fields[1] == "yes" {
				found = append(found, fields[0])
			}
		}
		if !slices.Equal(found, attached) {
			t.Errorf("attached are %q, want %q:\n%s", found, attached, text)
		}
	}}}
}

func (o *offered) idle(t *testing.T) {
	o.check(t, o.list(),
		prints("systemctl is-active echo.socket uuidd.socket; systemctl is-active echo.service uuidd.service || true; "+
			"type uuidgen say >/dev/null && echo offered", "active\nactive\ninactive\ninactive\noffered"),
		o.truthful("uuid-runtime", "/usr/bin/uuidgen", false),
		prints("ls /run/sharedos/layers | grep "+o.layerOf(t, o.uuid[0]).Hex()+" || echo closed", "closed"),
		o.untouched(nil))
	o.attached(t, o.uuid[0], true)
}

// greet connects to the service and returns what it says.
func (o *offered) greet(t *testing.T) string {
	t.Helper()
	began := time.Now()
	connection, err := net.DialTimeout("tcp", o.vm.Address(7071), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }() // it is read by then
	if err := connection.SetDeadline(time.Now().Add(4 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(connection).ReadString('\n')
	t.Logf("first byte after %v: %q, %v", time.Since(began), line, err)
	return line
}

func (o *offered) connection(t *testing.T) {
	before := o.states(t)
	if line := o.greet(t); line != "answer\n" {
		t.Errorf("the first connection is answered by %q", line)
	}
	o.settled(t)
	o.check(t, o.list("echo"), o.untouched(before),
		prints("systemctl show -P FragmentPath echo.service echo.socket; say hello",
			"/usr/lib/systemd/system/echo.service\n\n/usr/lib/systemd/system/echo.socket\nsaid hello"))
	matrix.Record(t, "a connection to a component on demand", "attach",
		"it is answered by the service; nothing else is interrupted")
}

// settled waits until the refresh that the guest does by itself has ended.
func (o *offered) settled(t *testing.T) {
	t.Helper()
	o.seen = nil
	if _, err := o.vm.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (o *offered) command(t *testing.T) {
	before := o.states(t)
	if text := o.run(t, "setpriv --reuid=65534 --regid=65534 --clear-groups uuidgen --random"); len(text) != 36 {
		t.Errorf("the command of a user prints %q", text)
	}
	o.settled(t)
	o.whole = nil // what the VM attaches by itself is another stack
	o.check(t, o.list("echo", "uuid"), o.untouched(before), o.truthful("uuid-runtime", "/usr/bin/uuidgen", true),
		[]check{{"setpriv --reuid=65534 --regid=65534 --clear-groups sharedos component remove uuid 2>&1 || true",
			func(t *testing.T, text string) {
				if !strings.Contains(text, "only root") {
					t.Errorf("a user removes it: %q", text)
				}
			}}})
	matrix.Record(t, "a command of a component on demand is called", "attach", "it runs, for any user")
}

func (o *offered) known(t *testing.T) {
	fleet := o.vm.World.Host.Fleet
	now, err := fleet.Read(t.Context(), o.vm.Spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(now.Spec.Attached, []string{"echo", "uuid"}) || !now.Stack.Same(now.Configured) ||
		len(now.Faults)+len(now.Surplus)+len(now.Spec.Components) > 0 {
		t.Errorf("the host reads %+v", now)
	}
	if impact, err := fleet.Assess(t.Context(), o.vm.Spec); err != nil || impact != nil {
		t.Errorf("the next plan: %v, %v", impact, err)
	}
	before := o.states(t)
	if _, report, err := fleet.Update(t.Context(), o.vm.Spec, func(step string) { t.Log(step) }); err != nil ||
		report != nil {
		t.Errorf("the next apply: %v, %v", report, err)
	}
	o.check(t, o.untouched(before), o.list("echo", "uuid"))
}

func (o *offered) removed(t *testing.T) {
	before := o.states(t)
	o.check(t, prints("sharedos component remove echo >/dev/null", ""), o.list("uuid"),
		o.untouched(before, "echo.service", "echo.socket"),
		prints("systemctl is-active echo.socket; systemctl show -P ActiveState echo.service; pgrep echod || echo ended",
			"active\ninactive\nended"))
	if line := o.greet(t); line != "answer\n" {
		t.Errorf("the next connection is answered by %q", line)
	}
	o.settled(t)
	o.check(t, o.list("echo", "uuid"))
	matrix.Record(t, "root removes a component on demand", "detach",
		"its units are gone, its sockets listen, the next use attaches it")
}

func (o *offered) started(t *testing.T) {
	o.check(t, prints("(sharedos component remove uuid; sharedos component remove echo) >/dev/null", ""), o.list(),
		[]check{{"systemctl start uuidd.service && systemctl is-active uuidd.service; systemctl show -P Description uuidd.service", func(t *testing.T, text string) {
			if !strings.HasPrefix(text, "active\n") || strings.Contains(text, "attaches") {
				t.Errorf("started by hand: %s", text)
			}
		}}}, prints("sharedos component add echo >/dev/null", ""), o.list("echo", "uuid"), o.untouched(nil))
	matrix.Record(t, "a unit of a component on demand is started by hand", "attach",
		"systemctl waits for the unit itself")
}

func (o *offered) patched(t *testing.T) {
	spec := o.spec(1)
	planned, err := o.vm.World.Host.Fleet.Assess(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	before := o.states(t)
	_, report, err := o.vm.World.Host.Fleet.Update(t.Context(), spec, func(step string) { t.Log(step) })
	if err != nil || !report.GetCommitted() {
		t.Fatalf("%v: %v", err, report)
	}
	o.vm.Spec = spec
	o.check(t, o.untouched(before), o.list("echo", "uuid"), o.truthful("uuid-runtime", "/usr/bin/uuidgen", true),
		prints("cat /usr/share/mark", "two"))
	if planned.GetLevel() != agentapi.Level_NONE {
		t.Errorf("planned %v", planned)
	}
	matrix.Record(t, "the base is patched under components that were attached by use", "restart",
		"they stay attached, in their new releases")
}

// fails uses a component whose unit does not start.
func (o *offered) fails(t *testing.T) {
	spec := o.vm.Spec
	spec.OnDemand, spec.DetachUsed = []tree.Digest{o.echo[1], o.broken, o.kinds}, true
	if _, report, err := o.vm.World.Host.Fleet.Update(t.Context(), spec,
		func(step string) { t.Log(step) }); err != nil || !report.GetCommitted() {
		t.Fatalf("%v: %v", err, report)
	}
	spec.DetachUsed = false
	o.vm.Spec, o.seen = spec, nil
	before := o.states(t)
	o.check(
		t, []check{{"systemctl start broken.service 2>&1 && echo started; sharedos component add broken 2>&1 && echo " +
			"attached; systemctl is-failed broken.service before-broken.service || " +
			"true", func(t *testing.T, text string) {
			if strings.Contains(text, "started") || strings.Contains(text, "attached\n") ||
				!strings.Contains(text, "broken.service") {
				t.Errorf("a component whose unit fails: %s", text)
			}
		}}})
	o.settled(t)
	o.check(t, o.untouched(before))
	matrix.Record(t, "a unit of a component on demand fails", "attach",
		"the component is not attached; whoever has started the unit is told")
}

func (o *offered) boot(t *testing.T) {
	if line := o.greet(t); line != "answer\n" {
		t.Errorf("the connection is answered by %q", line)
	}
	o.settled(t)
	o.check(t, o.list("echo"), prints("sync", ""))
	// The power is cut while the VM attaches another component.
	connection, err := net.DialTimeout("tcp", o.vm.Address(7072), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }() // nobody answers it any more
	begun := func(s *agentapi.StatusResponse) bool {
		return s.GetState() != agentapi.State_IDLE || len(s.GetStack().GetComponents()) > 1
	}
	if _, err := o.vm.Await(t.Context(), "a refresh that has begun", guest.Services(), begun); err != nil {
		t.Fatal(err)
	}
	if err := o.vm.CutPower(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := o.vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.settled(t)
	o.check(t, prints("sharedos component remove kinds >/dev/null", ""),
		o.list("echo")) // it is no error if it was not attached
	matrix.Record(t, "power cut", "while a component is attached by its use",
		"it starts with or without it, and with what was attached before; the next use is answered")
	if line := o.greet(t); line != "answer\n" {
		t.Errorf("after the boot the connection is answered by %q", line)
	}
}

// detachedOff powers the VM off, and has one apply start it without what it has attached by itself.
func (o *offered) detachedOff(t *testing.T) {
	o.check(t, o.list("echo"))
	off, on := o.vm.Spec, o.vm.Spec
	off.Running, on.DetachUsed = false, true
	for _, spec := range []vm.Spec{off, on} {
		if _, _, err := o.vm.World.Host.Fleet.Update(t.Context(), spec, func(step string) { t.Log(step) }); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.vm.Await(t.Context(), "the services", guest.Services(),
		func(s *agentapi.StatusResponse) bool { return agentapi.Started(s.GetSystemState()) }); err != nil {
		t.Fatal(err)
	}
	o.check(t, o.list())
	if line := o.greet(t); line != "answer\n" {
		t.Errorf("the next connection is answered by %q", line)
	}
	o.settled(t)
	o.check(t, o.list("echo"))
	matrix.Record(t, "one apply starts a VM and detaches what it had attached by use", "attach",
		"it starts without it, and attaches it again when it is used")
}

func (o *offered) detached(t *testing.T) {
	spec := o.vm.Spec
	spec.DetachUsed = true
	if _, report, err := o.vm.World.Host.Fleet.Update(t.Context(), spec,
		func(step string) { t.Log(step) }); err != nil || !report.GetCommitted() {
		t.Fatalf("%v: %v", err, report)
	}
	o.check(t, o.list())
	spec.OnDemand, spec.DetachUsed = nil, false
	if _, report, err := o.vm.World.Host.Fleet.Update(t.Context(), spec,
		func(step string) { t.Log(step) }); err != nil || !report.GetCommitted() {
		t.Fatalf("%v: %v", err, report)
	}
	o.check(t, o.gone("echo.service", "echo.socket"),
		[]check{{"type sharedos say 2>&1 || true; ls /usr/lib/sharedos 2>&1 || true",
			func(t *testing.T, text string) {
				if strings.Contains(text, "is /usr") || !strings.Contains(text, "No such file") {
					t.Errorf("what is no longer offered has left %s", text)
				}
			}}})
	layers := o.layers(t)
	now, err := o.vm.World.Host.Fleet.Read(t.Context(), spec.Name)
	if err != nil || len(layers) > len(now.Stack.Layers)+len(now.Surplus) {
		t.Errorf("%d layers are attached: %v, %v", len(layers), now.Surplus, err)
	}
}

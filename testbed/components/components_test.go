package components_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

func TestMain(m *testing.M) { os.Exit(matrix.Run(m)) }

// house is the VM that the tests share.
type house struct {
	vm *guest.VM
	// bases are two releases of the base. web is nginx and keys is Redis, built on each of them;
	// tool and broken are files on the first.
	bases, web, keys []tree.Digest
	tool, broken     tree.Digest
	real             real
	// verified is what dpkg --verify prints with the base alone; nil before the first check. whole
	// are the stacks that were checked since the VM booted.
	verified *string
	whole    map[string]bool
	// seen is what the last check of the states has found; nil if there was none since the VM booted.
	seen map[string]string
}

// base returns the edits of one release of the base. The service of the VM itself is the same in all of them.
func base(version string) []guest.Edit {
	return append(guest.Quick(),
		guest.Write("usr/share/mark", 0o644, version),
		// The bus gives up a service that has not started after 25 s otherwise.
		guest.Write("etc/dbus-1/system-local.conf", 0o644,
			"<busconfig><limit name=\"service_start_timeout\">600000</limit></busconfig>\n"),
		guest.Write("usr/lib/systemd/system/own.service", 0o644, "[Service]\nExecStart=/usr/bin/sleep infinity\n"),
		guest.Link("etc/systemd/system/multi-user.target.wants/own.service", "/usr/lib/systemd/system/own.service"),
	)
}

// tool is a component of files: a service with an account, configuration, data and a directory in /run of its own, and
// a socket for another one.
var tool = []guest.Edit{
	guest.Write("usr/share/tool/data", 0o644, "data"),
	guest.Write("usr/lib/sysusers.d/tool.conf", 0o644, "u tool - \"Tool\" /var/lib/tool\n"),
	guest.Write("usr/lib/tmpfiles.d/tool.conf", 0o644, "d /run/tool 0750 tool tool -\n"),
	guest.Write("etc/tool.conf", 0o644, "configured\n"),
	guest.Write("var/lib/tool/seed", 0o644, "seeded\n"),
	guest.Write("usr/lib/systemd/system/tool.service", 0o644, "[Service]\nType=exec\nUser=tool\n"+
		"ExecStartPre=/usr/bin/grep configured /etc/tool.conf\nExecStartPre=/usr/bin/grep seeded /var/lib/tool/seed\n"+
		"ExecStartPre=/usr/bin/touch /run/tool/here\nExecStart=/usr/bin/sleep infinity\n"),
	guest.Write("usr/lib/systemd/system/answer.socket", 0o644, "[Socket]\nListenStream=127.0.0.1:7070\nAccept=yes\n"),
	guest.Write("usr/lib/systemd/system/answer@.service", 0o644,
		"[Service]\nExecStart=/usr/bin/echo answer\nStandardOutput=socket\n"),
	guest.Write("usr/lib/systemd/system/tool.timer", 0o644, "[Timer]\nOnActiveSec=1h\nUnit=answer@x.service\n"),
	guest.Link("etc/systemd/system/multi-user.target.wants/tool.service", "/usr/lib/systemd/system/tool.service"),
	guest.Link("etc/systemd/system/multi-user.target.wants/tool.timer", "/usr/lib/systemd/system/tool.timer"),
	guest.Link("etc/systemd/system/sockets.target.wants/answer.socket", "/usr/lib/systemd/system/answer.socket"),
}

// broken is a component with one service that starts and one that does not.
var broken = []guest.Edit{
	guest.Write("usr/share/broken/data", 0o644, "data"),
	guest.Write("etc/broken.conf", 0o644, "configured\n"),
	guest.Write("usr/lib/systemd/system/before-broken.service", 0o644,
		"[Unit]\nBefore=broken.service\n[Service]\nExecStart=/usr/bin/sleep infinity\n"),
	guest.Write("usr/lib/systemd/system/broken.service", 0o644, "[Service]\nType=oneshot\nExecStart=/bin/false\n"),
	guest.Link("etc/systemd/system/multi-user.target.wants/before-broken.service",
		"/usr/lib/systemd/system/before-broken.service"),
	guest.Link("etc/systemd/system/multi-user.target.wants/broken.service", "/usr/lib/systemd/system/broken.service"),
}

func build(t *testing.T) *house {
	t.Helper()
	w := guest.New(t)
	w.Debian, w.Expected = guest.Bare, 9*time.Minute
	h := &house{}
	var err error
	if h.bases, err = w.Releases(t.Context(), "debian", guest.Plain, base("one"), base("two")); err != nil {
		t.Fatal(err)
	}
	for name, built := range map[string]*[]tree.Digest{"nginx-light": &h.web, "redis-server": &h.keys} {
		packages, err := w.Packages(guest.Plain, name)
		if err != nil {
			t.Fatal(err)
		}
		*built = onEach(t, w, h.bases, strings.Split(name, "-")[0], packages)
	}
	// A plan makes the layers that join two package databases. Here they are made while the VM does
	// not hold its slot yet.
	for i, base := range h.bases {
		if _, err := w.Host.Publisher.Join(t.Context(), base, []tree.Digest{h.web[i], h.keys[i]}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for name, files := range map[string][]guest.Edit{"tool": tool, "broken": broken} {
		id, err := w.Component(t.Context(), name, h.bases[0], guest.Files(files...))
		if err != nil {
			t.Fatal(err)
		}
		if name == "tool" {
			h.tool = id
		} else {
			h.broken = id
		}
	}
	h.buildReal(t, w)
	if h.vm, err = w.Create(t.Context(), "components", h.bases[0], nil, 80, 8090); err != nil {
		t.Fatal(err)
	}
	h.check(t, h.complete())
	h.whole = nil // the base alone is checked again once a component has come and gone
	return h
}

// onEach builds a component on each of these base releases.
func onEach(t *testing.T, w *guest.World, bases []tree.Digest, name string,
	adds source.Addition) (built []tree.Digest) {
	t.Helper()
	for _, base := range bases {
		id, err := w.Component(t.Context(), name, base, adds)
		if err != nil {
			t.Fatal(err)
		}
		built = append(built, id)
	}
	return built
}

func (h *house) run(t *testing.T, command string) string {
	t.Helper()
	text, err := h.vm.Run(t.Context(), command)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return text
}

// check is one thing that a test looks at in the guest: a command, and what judges its output.
type check struct {
	command string
	judge   func(t *testing.T, found string)
}

// check makes checks in their order, all in one login.
func (h *house) check(t *testing.T, groups ...[]check) {
	t.Helper()
	checks := slices.Concat(groups...)
	commands := make([]string, len(checks))
	for i, one := range checks {
		commands[i] = one.command
	}
	found, err := h.vm.RunAll(t.Context(), commands...)
	if err != nil {
		t.Fatal(err)
	}
	for i, one := range checks {
		one.judge(t, found[i])
	}
}

// prints checks that a command prints a text.
func prints(command, want string) []check {
	return []check{{command, func(t *testing.T, found string) {
		t.Helper()
		if found != want {
			t.Errorf("%s: it prints %q, want %q", command, found, want)
		}
	}}}
}

// activeUnits prints the main process and the start of each active unit that can be interrupted. It
// asks systemd about these alone: about all units it takes an emulated guest three seconds.
const activeUnits = "systemctl show --property=Id,ActiveState,InvocationID,MainPID " +
	"$(systemctl list-units --type=service,socket,timer --state=active --plain --no-legend --full | cut -d ' ' -f 1)"

// states returns the main process and the start of each active unit that can be interrupted: what
// the last check has found, because nothing that happens between two refreshes interrupts a unit.
func (h *house) states(t *testing.T) map[string]string {
	t.Helper()
	if h.seen == nil {
		h.check(t, h.untouched(nil))
	}
	return h.seen
}

// parseStates returns the properties of each unit, without its name.
func parseStates(text string) map[string]string {
	all := map[string]string{}
	for block := range strings.SplitSeq(text, "\n\n") {
		name, rest := "", ""
		for line := range strings.Lines(block) {
			if id, is := strings.CutPrefix(strings.TrimSpace(line), "Id="); is {
				name = id
			} else {
				rest += strings.TrimSpace(line) + " "
			}
		}
		all[name] = rest
	}
	return all
}

// untouched checks that all units which ran before run on with the same processes, but for those named.
func (h *house) untouched(before map[string]string, but ...string) []check {
	return []check{{activeUnits, func(t *testing.T, found string) {
		t.Helper()
		h.seen = parseStates(found)
		for name, state := range before {
			if strings.Contains(state, "ActiveState=active ") && h.seen[name] != state && !slices.Contains(but, name) {
				t.Errorf("%s was interrupted: %q, then %q", name, state, h.seen[name])
			}
		}
	}}}
}

// move has the VM run a base and components, and returns what the plan said and what happened.
func (h *house) move(t *testing.T, base tree.Digest,
	components ...tree.Digest) (planned *agentapi.Impact, report *agentapi.Report, err error) {
	t.Helper()
	spec := h.vm.Spec
	spec.Base, spec.Components = base, components
	if planned, err = h.vm.World.Host.Fleet.Assess(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	_, report, err = h.vm.World.Host.Fleet.Update(t.Context(), spec, func(step string) { t.Log(step) })
	if err == nil {
		h.vm.Spec = spec
	}
	h.seen = nil
	t.Logf("planned %v\nreport %v", planned, report)
	return planned, report, err
}

// moves is move that has to succeed.
func (h *house) moves(t *testing.T, base tree.Digest, components ...tree.Digest) (*agentapi.Impact, *agentapi.Report) {
	t.Helper()
	planned, report, err := h.move(t, base, components...)
	if err != nil || !report.GetCommitted() {
		t.Fatalf("%v: %v", err, report)
	}
	return planned, report
}

// page gets a page of the web server.
func (h *house) page(t *testing.T, path string) string {
	t.Helper()
	return h.get(t, 80, path)
}

// get gets what a server in the VM answers.
func (h *house) get(t *testing.T, port uint16, path string) string {
	t.Helper()
	client := http.Client{Timeout: time.Minute}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.vm.Address(port)+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = answer.Body.Close() }() // it is read by then
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// truthful checks that the package database tells of a package exactly if it is there, and that it is in order.
func (h *house) truthful(name, file string, there bool) []check {
	return slices.Concat(listed(name, file, there),
		prints("dpkg --audit; apt-get check >/dev/null 2>&1 || echo apt-get check fails", ""), h.complete())
}

// listed checks that the package database tells of a package exactly if it is there.
func listed(name, file string, there bool) []check {
	return []check{
		{"dpkg-query -W -f '${db:Status-Abbrev}' " + name + " 2>/dev/null || true", func(t *testing.T, status string) {
			t.Helper()
			if strings.HasPrefix(status, "ii") != there {
				t.Errorf("dpkg lists %s as %q", name, status)
			}
		}},
		{"dpkg -S " + file + " 2>/dev/null || true", func(t *testing.T, owner string) {
			t.Helper()
			if strings.HasPrefix(owner, name+":") != there {
				t.Errorf("dpkg says that %s is of %q", file, owner)
			}
		}},
	}
}

// complete checks that dpkg finds all files of all packages as it finds them in the base alone, but for configuration
// that was changed here. It does so once for each stack and boot, because dpkg reads all of /usr for that.
func (h *house) complete() []check {
	stack := fmt.Sprint(h.vm.Spec.Base, h.vm.Spec.Components)
	if h.whole[stack] {
		return nil
	}
	if h.whole == nil {
		h.whole = map[string]bool{}
	}
	h.whole[stack] = true
	return []check{{"dpkg --verify | grep -v '^??5?????? c ' || true", func(t *testing.T, found string) {
		t.Helper()
		if h.verified == nil {
			h.verified = &found
		}
		if found != *h.verified {
			t.Errorf("dpkg --verify: %s, and of the base alone: %s", found, *h.verified)
		}
	}}}
}

// gone checks that units are not even known any more.
func (h *house) gone(units ...string) []check {
	var checks []check
	for _, unit := range units {
		checks = append(checks,
			prints("systemctl show --property=LoadState,ActiveState --value "+unit, "not-found\ninactive")...)
	}
	return checks
}

// layers returns the ids of the layers that are attached to the running VM.
func (h *house) layers(t *testing.T) []tree.Digest {
	t.Helper()
	layers, err := h.vm.World.Host.Fleet.Hypervisor.AttachedLayers(t.Context(), h.vm.Spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

// layerOf returns the layer of a component.
func (h *house) layerOf(t *testing.T, component tree.Digest) tree.Digest {
	t.Helper()
	manifest, err := h.vm.World.Host.Publisher.Components().Get(t.Context(), component)
	if err != nil {
		t.Fatal(err)
	}
	return manifest.Layers[0].ID
}

func (h *house) attached(t *testing.T, component tree.Digest, want bool) {
	t.Helper()
	if slices.Contains(h.layers(t), h.layerOf(t, component)) != want {
		t.Errorf("the layer of the component is attached: %v", !want)
	}
}

func starts(all []*agentapi.UnitStart, unit string) bool {
	return slices.ContainsFunc(all, func(s *agentapi.UnitStart) bool {
		return s.GetUnit() == unit && s.GetSkipped() == "" && s.GetError() == ""
	})
}

func stops(impact *agentapi.Impact, unit string) bool {
	return slices.ContainsFunc(impact.GetUnits(), func(u *agentapi.UnitImpact) bool {
		return u.GetUnit() == unit && strings.Contains(u.GetReason(), "is stopped")
	})
}

func TestComponents(t *testing.T) {
	h := build(t)
	t.Run("attach", h.attach)
	t.Run("detach", h.detach)
	t.Run("attach again", h.attachAgain)
	t.Run("a file of it is open", h.held)
	t.Run("there at boot", h.atBoot)
	t.Run("a unit of it fails", h.fails)
	t.Run("real ones", h.realOnes)
	t.Run("the base is patched", h.patched)
}

// copyright is a file of the package nginx-light.
const copyright = "/usr/share/doc/nginx-light/copyright"

func (h *house) attach(t *testing.T) {
	before := h.states(t)
	planned, report := h.moves(t, h.bases[0], h.web[0])
	if !starts(planned.GetStarts(), "nginx.service") || !starts(report.GetStarts(), "nginx.service") ||
		planned.GetLevel() > agentapi.Level_RELOAD {
		t.Errorf("planned %v, started %v", planned, report.GetStarts())
	}
	if page := h.page(t, "/"); !strings.Contains(page, "nginx") {
		t.Errorf("its page is %q", page)
	}
	h.check(t, h.untouched(before), h.truthful("nginx-light", copyright, true))
	h.attached(t, h.web[0], true)
	matrix.Record(t, "a component is attached to a running VM", "restart",
		"its units run; no other service is interrupted")
}

func (h *house) detach(t *testing.T) {
	h.run(t, "echo mine > /var/www/html/mine; echo '# mine' >> /etc/nginx/mime.types")
	before := h.states(t)
	planned, _ := h.moves(t, h.bases[0])
	if !stops(planned, "nginx.service") {
		t.Errorf("planned %v", planned)
	}
	h.check(t, h.gone("nginx.service"), h.untouched(before, "nginx.service"),
		h.truthful("nginx-light", copyright, false),
		prints("tail -n 1 /etc/nginx/mime.types; cat /var/www/html/mine; ls /etc/nginx/nginx.conf; pgrep nginx || echo ended; "+
			"ls /usr/sbin/nginx 2>/dev/null || echo gone", "# mine\nmine\n/etc/nginx/nginx.conf\nended\ngone"),
		prints("find /etc -xtype l -lname '/*nginx*'", ""))
	h.attached(t, h.web[0], false)
	matrix.Record(t, "a component is detached from a running VM", "restart",
		"its units are gone, its layer is unplugged, its data stays")
}

func (h *house) attachAgain(t *testing.T) {
	before := h.states(t)
	planned, report := h.moves(t, h.bases[0], h.web[0], h.tool)
	for _, unit := range []string{"nginx.service", "tool.service", "answer.socket", "tool.timer"} {
		if !starts(planned.GetStarts(), unit) || !starts(report.GetStarts(), unit) {
			t.Errorf("of %s: planned %v, started %v", unit, planned.GetStarts(), report.GetStarts())
		}
	}
	if page := h.page(t, "/mine"); page != "mine\n" {
		t.Errorf("its page is %q", page)
	}
	h.check(t, h.untouched(before), h.truthful("nginx-light", copyright, true),
		prints("tail -n 1 /etc/nginx/mime.types; stat -c %U /run/tool; systemctl is-active tool.service answer.socket tool.timer",
			"# mine\ntool\nactive\nactive\nactive"))
}

// held detaches a component while a process that belongs to no unit has a file of it open.
func (h *house) held(t *testing.T) {
	pid := h.run(t, `mkdir -p /sys/fs/cgroup/holder
sh -c 'echo $$ > /sys/fs/cgroup/holder/cgroup.procs; exec 3</usr/share/tool/data; echo $$ > /run/holder; exec setsid sleep infinity' >/dev/null 2>&1 </dev/null &
while ! test -s /run/holder; do sleep 0.1; done
cat /run/holder`)
	before := h.states(t)
	planned, report := h.moves(t, h.bases[0], h.web[0])
	for _, unit := range []string{"tool.service", "answer.socket", "tool.timer"} {
		if !stops(planned, unit) {
			t.Errorf("%s: planned %v", unit, planned)
		}
	}
	if !slices.ContainsFunc(report.GetRemaining(), func(line string) bool { return strings.Contains(line, pid) }) {
		t.Errorf("process %s is not named: %v", pid, report.GetRemaining())
	}
	h.attached(t, h.tool, true)
	if by := h.heldBy(t, h.tool); !strings.Contains(by, "process "+pid+" ") {
		t.Errorf("process %s is not named: %s", pid, by)
	}
	h.check(t, h.gone("tool.service", "answer.socket", "tool.timer", "answer@x.service"),
		h.untouched(before, "tool.service", "answer.socket", "tool.timer"),
		prints("grep -c :1B9E /proc/net/tcp || true", "0"), // its socket
		prints("cat /etc/tool.conf /var/lib/tool/seed; id -u tool >/dev/null && kill -0 "+pid+" && kill "+pid+
			" && echo ran", "configured\nseeded\nran"))
	// The web server was started from a /usr with this layer in it, of which it uses nothing.
	before = h.states(t)
	h.unplugged(t, h.tool)
	h.check(t, h.untouched(before), readable)
	matrix.Record(t, "a file of a component is open while it is detached", "restart",
		"the process goes on and is named; it holds the layer")
}

// heldBy returns what the agent says of a layer that is attached and in no stack any more.
func (h *house) heldBy(t *testing.T, component tree.Digest) string {
	t.Helper()
	now, err := h.vm.World.Host.Fleet.Read(t.Context(), h.vm.Spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(now.Surplus, func(s vm.SurplusLayer) bool { return s.ID == h.layerOf(t, component) })
	if at < 0 {
		t.Fatalf("the layer is not among %v", now.Surplus)
	}
	return strings.Join(now.Surplus[at].InUseBy, "; ")
}

// unplugged has an apply unplug the layer of a component that nothing uses any more.
func (h *house) unplugged(t *testing.T, component tree.Digest) {
	t.Helper()
	if _, _, err := h.vm.World.Host.Fleet.Update(t.Context(), h.vm.Spec, func(string) {}); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(h.layers(t), h.layerOf(t, component)) {
		t.Errorf("the layer is held by %s", h.heldBy(t, component))
	}
}

// atBoot detaches a component that was there when the VM booted.
func (h *house) atBoot(t *testing.T) {
	h.run(t, "sync")
	for _, running := range []bool{false, true} {
		spec := h.vm.Spec
		spec.Running = running
		if _, _, err := h.vm.World.Host.Fleet.Update(t.Context(), spec, func(step string) { t.Log(step) }); err != nil {
			t.Fatal(err)
		}
		h.vm.Spec = spec
	}
	h.whole, h.seen = nil, nil
	if page := h.page(t, "/mine"); page != "mine\n" {
		t.Errorf("its page is %q", page)
	}
	h.check(t, h.truthful("nginx-light", copyright, true), h.untouched(nil))
	before := h.states(t)
	h.moves(t, h.bases[0])
	// Whatever was started at boot runs from a /usr with the layer in it, of which it uses nothing.
	h.attached(t, h.web[0], false)
	h.check(t, h.gone("nginx.service"), h.untouched(before, "nginx.service"),
		h.truthful("nginx-light", copyright, false), readable)
	matrix.Record(t, "a component that was there at boot is detached", "restart",
		"its units are gone, its layer is unplugged; no other service is interrupted")

	before = h.states(t)
	planned, _ := h.moves(t, h.bases[0], h.web[0], h.keys[0])
	if !starts(planned.GetStarts(), "nginx.service") || !starts(planned.GetStarts(), "redis-server.service") {
		t.Errorf("planned %v", planned.GetStarts())
	}
	h.check(t, h.untouched(before), h.serveBoth(t))
	before = h.states(t)
	h.moves(t, h.bases[0], h.keys[0])
	h.check(t, h.gone("nginx.service"), h.untouched(before, "nginx.service"), listed("nginx-light", copyright, false),
		h.truthful("redis-server", "/usr/share/doc/redis-server/copyright", true))
	h.moves(t, h.bases[0])
	h.attached(t, h.web[0], false)
	h.attached(t, h.keys[0], false)
	h.check(t, h.untouched(nil), readable)
	matrix.Record(t, "two components of packages are attached at once, and one of them is detached", "restart",
		"both serve; the package database tells of what is there; the other one is not interrupted")
}

// serveBoth checks that both components of packages serve, with what users have left there, and
// that the package database has both.
func (h *house) serveBoth(t *testing.T) []check {
	t.Helper()
	if page := h.page(t, "/mine"); page != "mine\n" {
		t.Errorf("its page is %q", page)
	}
	return slices.Concat(prints("redis-cli setnx key mine >/dev/null; redis-cli get key; stat -c %U /var/lib/redis",
		"mine\nredis"),
		listed("nginx-light", copyright, true),
		h.truthful("redis-server", "/usr/share/doc/redis-server/copyright", true))
}

// readable checks that no read of a layer has failed, and that the services which were there before can go on.
var readable = slices.Concat(
	prints("dmesg | grep -E 'I/O error|erofs:.*(error|failed)|device-mapper: .*(error|corrupt)' || true", ""),
	prints("systemctl reload dbus.service; systemctl --failed --plain --no-legend; systemctl is-active systemd-journald systemd-udevd | sort -u", "active"))

func (h *house) fails(t *testing.T) {
	before := h.states(t)
	_, report, err := h.move(t, h.bases[0], h.broken)
	if !errors.Is(err, vm.ErrRolledBack) || !guest.Says(err, "broken.service") {
		t.Errorf("%v: %v", err, report)
	}
	h.check(t, h.gone("broken.service", "before-broken.service"), h.untouched(before),
		prints("ls -d /etc/broken.conf /usr/share/broken /etc/systemd/system/multi-user.target.wants/*broken* 2>/dev/null || true; "+
			"systemctl is-failed broken.service || true", "inactive"))
	h.attached(t, h.broken, false)
	status, err := h.vm.Status(t.Context())
	if err != nil || status.GetStack().GetBase() != h.bases[0].String() || len(status.GetStack().GetComponents()) > 0 {
		t.Errorf("it runs %v, %v", status.GetStack(), err)
	}
	matrix.Record(t, "a unit of a component fails while it is attached", "restart", "rolled back; nothing of it runs")
}

// patched patches the base underneath two components that were rebuilt on it, in one refresh.
func (h *house) patched(t *testing.T) {
	h.moves(t, h.bases[0], h.web[0], h.keys[0])
	before := h.states(t)
	started := time.Now()
	_, report := h.moves(t, h.bases[1], h.web[1], h.keys[1])
	t.Logf("it took %v", time.Since(started))
	h.check(t, h.untouched(before), prints("cat /usr/share/mark; id -u www-data", "two33"), h.serveBoth(t))
	if len(report.GetRestarts()) > 0 {
		t.Errorf("restarted were %v", report.GetRestarts())
	}
	h.attached(t, h.web[0], h.layerOf(t, h.web[0]) == h.layerOf(t, h.web[1]))
}

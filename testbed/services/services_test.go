package services_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

func TestMain(m *testing.M) { os.Exit(matrix.Run(m)) }

// house is the VM that the tests share, with what the tests have seen of it.
type house struct {
	vm       *guest.VM
	releases []tree.Digest
	// before and after have the states of all units before and after the refresh from the first release to the
	// second.
	before, after map[string]state
	// planned is the impact that a plan shows for that refresh, report is the refresh's report.
	planned *agentapi.Impact
	report  *agentapi.Report
	// old and changed are the digests of the program that differs.
	old, changed string
	mapped       []*agentapi.MappedFile
}

// state is a unit's state in systemd.
type state struct {
	active, invocation string
	pid                int
}

func (h *house) run(t *testing.T, command string) string {
	t.Helper()
	text, err := h.vm.Run(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// states asks systemd for all services and sockets.
func (h *house) states(t *testing.T) map[string]state {
	t.Helper()
	return h.statesOf(t, "'*.service' '*.socket'")
}

// statesOf asks systemd for the units that match patterns. systemd answers for each unit separately, which takes an
// emulated guest some seconds for all of them.
func (h *house) statesOf(t *testing.T, patterns string) map[string]state {
	t.Helper()
	text := h.run(t, "systemctl show --property=Id,ActiveState,InvocationID,MainPID "+patterns)
	all := map[string]state{}
	for block := range strings.SplitSeq(text, "\n\n") {
		var one state
		name := ""
		for line := range strings.Lines(block) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch key {
			case "Id":
				name = value
			case "ActiveState":
				one.active = value
			case "InvocationID":
				one.invocation = value
			case "MainPID":
				pid, err := strconv.Atoi(value)
				if err != nil {
					t.Fatal(err)
				}
				one.pid = pid
			}
		}
		all[name] = one
	}
	return all
}

// active lists the services and sockets that are active.
func (h *house) active(t *testing.T) []string {
	t.Helper()
	var units []string
	for line := range strings.Lines(h.run(t,
		"systemctl list-units --full --plain --no-legend --state=active --type=service,socket")) {
		units = append(units, strings.Fields(line)[0])
	}
	return units
}

// digest of a file in the guest.
func (h *house) digest(t *testing.T, name string) string {
	t.Helper()
	sum, _, _ := strings.Cut(h.run(t, "sha256sum "+name), " ")
	return "sha256:" + sum
}

// mappedFiles returns the processes that map a file, as the agent reports them.
func (h *house) mappedFiles(t *testing.T, suffix string) []*agentapi.MappedFile {
	t.Helper()
	agent, err := h.vm.Agent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agent.Close() }() // only a question was asked on it
	answer, err := agent.Mapped(t.Context(), &agentapi.MappedRequest{Suffix: suffix})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetFiles()
}

// checks returns a health check of each kind, and one that always fails.
func checks() []*agentapi.HealthCheck {
	return []*agentapi.HealthCheck{
		{Name: "unit", Kind: &agentapi.HealthCheck_Unit{Unit: "moody.service"}, TimeoutMs: 90_000},
		{Name: "tcp", Kind: &agentapi.HealthCheck_Tcp{Tcp: "127.0.0.1:7003"}, TimeoutMs: 90_000},
		{Name: "http", Kind: &agentapi.HealthCheck_Http{Http: "http://127.0.0.1:7003/"}, TimeoutMs: 90_000},
		{Name: "command", Kind: &agentapi.HealthCheck_Command{Command: &agentapi.Command{Argv: []string{"/usr/bin/test", "-e", "/run/moody.ok"}}}, TimeoutMs: 90_000},
		{Name: "bad", Kind: &agentapi.HealthCheck_Command{Command: &agentapi.Command{Argv: []string{"/bin/false"}}}, TimeoutMs: 1000},
	}
}

// build makes the VM with the first release and starts the services that do not start by themselves.
func build(t *testing.T) *house {
	t.Helper()
	w := guest.New(t)
	w.Expected = 7 * time.Minute
	h := &house{}
	var err error
	if h.releases, err = w.Releases(t.Context(), "debian", guest.Plain, contents(t, "one"), contents(t, "two"),
		contents(t, "three"), contents(t, "four")); err != nil {
		t.Fatal(err)
	}
	h.vm, err = w.Create(t.Context(), "services", h.releases[0], func(spec *vm.Spec) {
		spec.Memory = 768 << 20
		// Not more: of guests with four emulated processors one in a few dozen fails while it boots
		// (testbed.EmulatorFailed).
		spec.VCPUs = 2
		spec.MaxVCPUs, spec.MaxMemory = 2, 896<<20
		spec.Refresh = vm.RefreshPolicy{
			Strategy: "live", MaxImpact: agentapi.Level_RESTART, Settle: 5 * time.Second, HealthChecks: checks(),
			Units: &agentapi.UnitPolicy{
				Units: map[string]string{"report.service": "report", "reload.service": "reload"},
				Paths: map[string]*agentapi.PathList{
					"declared.service": {Paths: []string{"/usr/share/t/data/"}}, "systemd-networkd.service": {Paths: []string{"/usr/share/t/data/"}},
				},
			},
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	h.old = h.digest(t, "/usr/lib/t/changing")
	h.run(t, "systemctl start --no-block once.service bomb.service swarm.service refusing.service; mkfifo /run/hold; rm -f /run/starts")
	h.confine(t)
	return h
}

func (h *house) refresh(t *testing.T) {
	t.Helper()
	if _, err := h.vm.RunWith(t.Context(), "cat > /var/lib/ask", strings.NewReader(program(t, "ask"))); err != nil {
		t.Fatal(err)
	}
	h.run(t, "systemd-run --unit=asker --quiet --property=Type=exec /usr/bin/perl /var/lib/ask 7000 7001 7002")
	session, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := h.vm.Run(session, "exec /usr/bin/bash -c 'echo $$ > /run/session; read line < /run/hold; echo $line'")
		ended <- err
	}()
	t.Cleanup(func() {
		end()
		<-ended
	})
	h.run(t, byHand)
	h.before = h.states(t)
	spec := h.vm.Spec
	spec.Base = h.releases[1]
	var err error
	if h.planned, err = h.vm.World.Host.Fleet.Assess(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if h.report, err = h.vm.Refresh(t.Context(), h.releases[1]); err != nil {
		t.Fatal(err)
	}
	h.after = h.states(t)
	h.changed = h.digest(t, "/usr/lib/t/changing")
	h.mapped = h.mappedFiles(t, "/t/changing")
	t.Logf("%v", h.report)
}

func program(t *testing.T, name string) string {
	t.Helper()
	text, err := programs.ReadFile("testdata/guest/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// restarted reports whether a unit is active and was started again.
func (h *house) restarted(unit string) bool {
	return h.after[unit].active == "active" && h.before[unit].invocation != h.after[unit].invocation
}

// untouched reports whether a unit is in the same state, with the same process.
func (h *house) untouched(unit string) bool {
	return h.before[unit].active == h.after[unit].active && h.before[unit].invocation == h.after[unit].invocation &&
		h.before[unit].pid == h.after[unit].pid
}

// stale lists the processes of a unit that run the old program.
func (h *house) stale(unit string) []int64 {
	var pids []int64
	for _, file := range h.mapped {
		if file.GetUnit() == unit && file.GetDigest() != h.changed {
			pids = append(pids, file.GetPid())
		}
	}
	return pids
}

// reported returns the part of the report about a unit; nil if there is none.
func (h *house) reported(unit string) *agentapi.UnitRestart {
	at := slices.IndexFunc(h.report.GetRestarts(), func(r *agentapi.UnitRestart) bool { return r.GetUnit() == unit })
	if at < 0 {
		return nil
	}
	return h.report.GetRestarts()[at]
}

// impact returns the part of the plan about a unit; nil if there is none.
func (h *house) impact(unit string) *agentapi.UnitImpact {
	at := slices.IndexFunc(h.planned.GetUnits(), func(u *agentapi.UnitImpact) bool { return u.GetUnit() == unit })
	if at < 0 {
		return nil
	}
	return h.planned.GetUnits()[at]
}

// starts lists the units that were started since the refresh began, in this order.
func (h *house) starts(t *testing.T) []string {
	t.Helper()
	return strings.Fields(h.run(t, "cat /run/starts"))
}

func count(all []string, one string) (times int) {
	for _, other := range all {
		if other == one {
			times++
		}
	}
	return times
}

// lists reports whether one of the lines is about the unit, and so begins with its name.
func lists(lines []string, unit string) bool {
	return slices.ContainsFunc(lines, func(line string) bool {
		return strings.HasPrefix(line, unit+" ") || strings.HasPrefix(line, unit+":") || line == unit
	})
}

// TestServices refreshes one VM from release to release, and looks at what that did to its services.
func TestServices(t *testing.T) {
	h := build(t)
	h.refresh(t)
	if !h.report.GetCommitted() {
		t.Fatalf("%v", h.report)
	}
	t.Run("who is restarted", h.whoIsRestarted)
	t.Run("the plan is what happens", h.thePlanIsWhatHappens)
	t.Run("order", h.order)
	t.Run("policy", h.policy)
	t.Run("clients", h.clients)
	t.Run("sessions", h.sessions)
	t.Run("sandboxes", h.sandboxes)
	t.Run("confined", h.confined)
	t.Run("health", h.health)
	t.Run("new units", h.newUnits)
	t.Run("secrets", h.secrets)
	t.Run("network", h.network)
	t.Run("hostile", h.hostile)
	t.Run("stone", h.stone)
	t.Run("processors and memory", h.processorsAndMemory)
	t.Run("failures", h.failures)
	t.Run("a lost disk", h.lostDisk)
}

func (h *house) whoIsRestarted(t *testing.T) {
	for _, unit := range []string{
		"first.service", "second.service", "third.service", "zero.service", "late.service",
		"declared.service", "script.service",
		"inline.service", "env.service", "dropin.service", "typed@1.service", "direct.service", "answer.service",
		"ssh.service", "nginx.service", "systemd-journald.service", "systemd-udevd.service",
	} {
		if !h.restarted(unit) {
			t.Errorf("%s was not restarted: %+v, then %+v", unit, h.before[unit], h.after[unit])
		}
		if r := h.reported(unit); r == nil || r.GetError() != "" || r.GetLevel() != agentapi.Level_RESTART {
			t.Errorf("%s is reported as %v", unit, r)
		}
	}
	for _, unit := range []string{"still.service", "own.service", "exited.service", "once.service", "refusing.service",
		"answer.socket", "dbus.service"} {
		if !h.untouched(unit) {
			t.Errorf("%s was touched: %+v, then %+v", unit, h.before[unit], h.after[unit])
		}
		if r := h.reported(unit); r != nil && r.GetLevel() != agentapi.Level_RELOAD {
			t.Errorf("%s is reported as %v", unit, r)
		}
	}
	// The configuration and the code of the message bus differ. The new code is pending.
	if r := h.reported("dbus.service"); r == nil || r.GetLevel() != agentapi.Level_RELOAD ||
		!lists(h.report.GetPending(), "dbus.service") {
		t.Errorf("the message bus is reported as %v, pending is %q", r, h.report.GetPending())
	}
	if r := h.reported("init.scope"); r == nil {
		t.Error("PID 1 did not re-execute itself")
	}
	if h.after["gone.service"].active == "active" {
		t.Errorf("a unit that is no part of the release runs: %+v", h.after["gone.service"])
	}
	for _, unit := range []string{"refusing.service", "once.service"} {
		if !lists(h.report.GetRemaining(), unit) || !lists(h.report.GetPending(), unit) {
			t.Errorf("%s runs old code and is not listed", unit)
		}
	}
	for _, file := range h.mapped {
		known := slices.Contains([]string{"refusing.service", "once.service", "report.service", "reload.service",
			"own.service"}, file.GetUnit())
		if file.GetDigest() != h.changed && !known {
			t.Errorf("%s (pid %d) runs the old program", file.GetUnit(), file.GetPid())
		}
	}
}

func (h *house) thePlanIsWhatHappens(t *testing.T) {
	names := func(impact *agentapi.Impact) []string {
		var all []string
		for _, unit := range impact.GetUnits() {
			all = append(all, fmt.Sprintf("%s %s %s %v %v", unit.GetUnit(), unit.GetLevel(), unit.GetReason(),
				unit.GetPaths(), unit.GetPackages()))
		}
		return all
	}
	planned, done := names(h.planned), names(h.report.GetImpact())
	if !slices.Equal(planned, done) {
		t.Errorf("planned was\n%s\nand the refresh found\n%s", strings.Join(planned, "\n"), strings.Join(done, "\n"))
	}
	for _, unit := range h.planned.GetUnits() {
		if unit.GetUnit() == "gone.service" {
			continue
		}
		if h.reported(unit.GetUnit()) == nil {
			t.Errorf("%s was planned and is not reported", unit.GetUnit())
		}
	}
	for _, restart := range h.report.GetRestarts() {
		if h.impact(restart.GetUnit()) == nil {
			t.Errorf("%s was interrupted and not planned", restart.GetUnit())
		}
	}
	ssh := h.impact("ssh.service")
	if !slices.ContainsFunc(ssh.GetPaths(),
		func(path string) bool { return strings.Contains(path, "/libpcre2-8.so") }) ||
		!slices.Contains(ssh.GetPackages(), "libpcre2-8-0") {
		t.Errorf("of ssh.service the plan says %v", ssh)
	}
	for unit, reason := range map[string]string{
		"first.service": "it runs code that differs", "third.service": "it is restarted with first.service",
		"script.service": "it interprets code that differs",
		"inline.service": "it interprets code that differs", "env.service": "its unit files differ",
		"dropin.service":  "its unit files differ",
		"typed@1.service": "its unit files differ", "declared.service": "files that were declared for it differ",
		"gone.service": "it is no part of the new stack",
	} {
		if got := h.impact(unit).GetReason(); !strings.HasPrefix(got, reason) {
			t.Errorf("%s is affected because %q, want %q", unit, got, reason)
		}
	}
}

func (h *house) order(t *testing.T) {
	starts := h.starts(t)
	for _, unit := range []string{"first.service", "second.service", "third.service", "zero.service", "late.service",
		"declared.service", "server.service", "customer.service"} {
		if times := count(starts, unit); times != 1 {
			t.Errorf("%s was started %d times: %v", unit, times, starts)
		}
	}
	for _, pair := range [][2]string{{"first.service", "second.service"}, {"first.service", "third.service"},
		{"zero.service", "late.service"}, {"server.service", "customer.service"}} {
		if slices.Index(starts, pair[0]) > slices.Index(starts, pair[1]) {
			t.Errorf("%s was started after %s: %v", pair[0], pair[1], starts)
		}
	}
}

func (h *house) policy(t *testing.T) {
	if !h.untouched("report.service") || len(h.stale("report.service")) != 1 {
		t.Errorf("report.service: %+v, then %+v", h.before["report.service"], h.after["report.service"])
	}
	if !h.untouched("reload.service") || h.run(t, "cat /run/reloads") != "reloaded" {
		t.Errorf("reload.service: %+v, then %+v", h.before["reload.service"], h.after["reload.service"])
	}
	if r := h.reported("reload.service"); r.GetLevel() != agentapi.Level_RELOAD || r.GetInterruptionUs() != 0 {
		t.Errorf("reload.service is reported as %v", r)
	}
	left := h.report.GetLeft()
	if len(left) != 1 || !lists(left, "report.service") || !slices.Equal(left, h.planned.GetLeft()) {
		t.Errorf("left are %q, and planned were %q", left, h.planned.GetLeft())
	}
	// A reload does not bring new code to a plain program, and the report says so.
	for _, unit := range []string{"report.service", "reload.service"} {
		if !lists(h.report.GetRemaining(), unit) {
			t.Errorf("%s runs old code and is not listed: %q", unit, h.report.GetRemaining())
		}
	}
}

// clients checks three services that clients used all the time.
func (h *house) clients(t *testing.T) {
	text := h.run(t, "systemctl stop asker; cat /run/asked")
	t.Logf("port, answers, failures, longest gap in ms:\n%s", text)
	var gaps [3]float64
	for i, line := range strings.Split(text, "\n") {
		var port, answered, failed int
		if _, err := fmt.Sscan(line, &port, &answered, &failed, &gaps[i]); err != nil {
			t.Fatal(err)
		}
		if answered < 20 {
			t.Errorf("port %d answered %d times only", port, answered)
		}
		if port != 7001 && failed > 0 {
			t.Errorf("port %d: %d requests failed", port, failed)
		}
	}
	told := float64(h.reported("direct.service").GetInterruptionUs()) / 1000
	// The client asks at intervals and is delayed on a busy machine. The longest gap of the service that was not
	// restarted shows by how much.
	if gaps[1] < told*0.8 || gaps[1] > told+gaps[2]+500 {
		t.Errorf("a client saw a gap of %.0f ms where it was held up for %.0f ms, and %.0f ms are reported", gaps[1],
			gaps[2], told)
	}
	for _, restart := range h.report.GetRestarts() {
		if restart.GetLevel() == agentapi.Level_RESTART && restart.GetInterruptionUs() <= 0 &&
			restart.GetUnit() != "gone.service" {
			t.Errorf("%s was restarted in no time", restart.GetUnit())
		}
	}
}

// sessions checks a login session that was open during the refresh, with a shell that differs.
func (h *house) sessions(t *testing.T) {
	pid := h.run(t, "cat /run/session")
	if command := h.run(t, "cat /proc/"+pid+"/comm"); command != "bash" {
		t.Errorf("the session is now %q", command)
	}
	unit := h.run(t, "sed 's|.*/||' /proc/"+pid+"/cgroup")
	told := slices.Concat(h.report.GetRemaining(), h.report.GetImpact().GetSessions())
	if !slices.ContainsFunc(told, func(line string) bool { return strings.HasPrefix(line, unit+" "+pid+" ") }) {
		t.Errorf("process %s of %s runs an old shell and is not listed: %q", pid, unit, told)
	}
	h.run(t, "echo end > /run/hold")
}

func (h *house) health(t *testing.T) {
	if unchecked := h.report.GetUnchecked(); len(unchecked) != 1 || !lists(unchecked, "bad") {
		t.Errorf("unchecked are %q", unchecked)
	}
}

// byHand adds to the network what its configuration does not have.
const byHand = `set -e
dev=$(ip -4 route show default | sed 's/.* dev \([^ ]*\).*/\1/'); gateway=$(ip -4 route show default | sed 's/.* via \([^ ]*\).*/\1/')
ip address add 10.9.0.1/24 dev $dev
ip route add 10.8.0.0/16 via $gateway
ip route add 10.7.0.0/16 via 10.9.0.5
ip rule add from 10.9.0.0/24 lookup 99 priority 70
ip neighbour add 10.9.0.7 lladdr 02:00:00:00:00:01 dev $dev`

// network checks that what was added by hand is there after networkd was restarted, and that the plan has said so.
func (h *house) network(t *testing.T) {
	const networkd = "systemd-networkd.service"
	if !h.restarted(networkd) || !strings.Contains(h.impact(networkd).GetReason(), "added by hand") {
		t.Errorf("%+v, then %+v; the plan says %v", h.before[networkd], h.after[networkd], h.impact(networkd))
	}
	now := h.run(t, "ip -4 -o address; ip -4 route; ip -4 rule; ip -4 neighbour")
	for _, want := range []string{"10.9.0.1/24", "10.8.0.0/16 via", "10.7.0.0/16 via 10.9.0.5",
		"70:\tfrom 10.9.0.0/24 lookup 99", "10.9.0.7 dev", "default via"} {
		if !strings.Contains(now, want) {
			t.Errorf("the network has lost %s: %s", want, now)
		}
	}
	if slices.ContainsFunc(h.report.GetPending(), func(line string) bool { return strings.Contains(line, "network") }) {
		t.Errorf("pending is %q", h.report.GetPending())
	}
	matrix.Record(t, "networkd is restarted", "restart", "new stack; addresses, routes and rules of others stay")
}

// newUnits checks the units that the release enables.
func (h *house) newUnits(t *testing.T) {
	for _, unit := range []string{"new.service", "sharedos-secret-rndc.service"} {
		for what, starts := range map[string][]*agentapi.UnitStart{"planned": h.planned.GetStarts(),
			"reported": h.report.GetStarts()} {
			at := slices.IndexFunc(starts, func(s *agentapi.UnitStart) bool { return s.GetUnit() == unit })
			if at < 0 || starts[at].GetSkipped() != "" || starts[at].GetError() != "" {
				t.Errorf("the start of %s is %s as %v", unit, what, starts)
			}
		}
	}
	if h.before["new.service"].active == "active" || h.after["new.service"].active != "active" ||
		count(h.starts(t), "new.service") != 1 {
		t.Errorf("new.service: %+v, then %+v", h.before["new.service"], h.after["new.service"])
	}
}

// secrets checks those that packages make: the VM has its own, one since its first boot and one since the refresh, and
// no layer has the build's.
func (h *house) secrets(t *testing.T) {
	for _, secret := range []string{"/etc/munge/munge.key", "/etc/bind/rndc.key"} {
		if text := h.run(t, "stat -c '%a %U' "+secret+"; cat "+secret); !strings.HasPrefix(text, "400 root\n") ||
			strings.Contains(text, ofTheBuild) || len(text) < 40 {
			t.Errorf("%s: %s", secret, text)
		}
		if found := h.run(t, "ls -d /run/sharedos/layers/*"+secret+" || true"); found != "" {
			t.Errorf("the base has %s", found)
		}
	}
}

// lostDisk takes the disk of a layer away. The status says so, and no refresh begins.
func (h *house) lostDisk(t *testing.T) {
	status, err := h.vm.Status(t.Context())
	if err != nil || len(status.GetUnreadable()) > 0 {
		t.Fatalf("before: %v, %v", status.GetUnreadable(), err)
	}
	layers := status.GetStack().GetLayers()
	lost := layers[len(layers)-1].GetId()
	id, err := tree.ParseDigest(lost)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.vm.World.Host.Fleet.Hypervisor.DetachLayer(t.Context(), h.vm.Spec.Name, id); err != nil {
		t.Fatal(err)
	}
	// As the next plan reads it.
	status, err = h.vm.Status(t.Context())
	if err != nil || len(status.GetUnreadable()) != 1 || !strings.Contains(status.GetUnreadable()[0], lost) {
		t.Errorf("unreadable is %q, %v", status.GetUnreadable(), err)
	}
	_, err = h.vm.Refresh(t.Context(), h.releases[3])
	if !errors.Is(err, vm.ErrRefused) || !guest.Says(err, lost) || !guest.Says(err, "power the VM off and start it") {
		t.Errorf("a refresh: %v", err)
	}
	matrix.Record(t, "a layer's disk is taken away", "status and plan", "reported as unreadable, with the way out")
}

package agentlife_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

const ownUnit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"

// configured is a VM with a configuration of its guest.
func configured(v *guest.VM, change func(d *guestconfig.Document)) vm.Spec {
	yes, unit := true, ownUnit
	spec := v.Spec
	spec.Configuration = &guestconfig.Document{
		Version: guestconfig.Version,
		Files: map[string]guestconfig.File{
			"/etc/issue":           {Content: []byte("ours\n"), Mode: 0o644, Owner: "root", Group: "root"},
			"/etc/own/key":         {Secret: true, SecretVersion: 1, Mode: 0o600, Owner: "alice", Group: "alice"},
			"/usr/local/etc/x.ini": {Content: []byte("x"), Mode: 0o644, Owner: "root", Group: "root", Restart: []string{"own.service"}},
		},
		Units: map[string]guestconfig.Unit{"own.service": {Content: &unit, Enabled: &yes, Started: &yes}},
		Users: map[string]guestconfig.User{"alice": {
			Home: "/home/alice", Shell: "/bin/bash", Groups: []string{"adm"},
			AuthorizedKeys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA alice"},
		}},
		Sysctl: map[string]string{"vm.swappiness": "17"}, Locale: "C.UTF-8", Swap: 8 << 20,
	}
	spec.Secrets = guestconfig.Secrets{"/etc/own/key": []byte("secret")}
	spec.Refresh.MaxImpact = agentapi.Level_RESTART
	if change != nil {
		change(spec.Configuration)
	}
	return spec
}

const lookAtConfiguration = "cat /etc/issue /etc/own/key; echo; stat -c '%U %a' /etc/own/key /home/alice " +
	"/home/alice/.ssh/authorized_keys; id -nG alice; systemctl is-active own.service; systemctl is-enabled " +
	"own.service; cat /proc/sys/vm/swappiness /etc/locale.conf /usr/local/etc/x.ini; echo; grep -o '^/var[^ ]*' " +
	"/proc/swaps"

const isConfigured = "ours\nsecret\nalice 600\nalice 700\nalice 600\nalice adm\nactive\nenabled\n17\nLANG=C.UTF-8\nx\n/var/lib/sharedos/swapfile"

// testConfiguration has a running VM take on a configuration, and leaves it there for testConfigurationLasts.
func testConfiguration(t *testing.T, v *guest.VM) {
	stock := run(t, v, "cat /etc/issue; cat /proc/sys/vm/swappiness > /root/swappiness")
	if !strings.Contains(stock, "Debian") {
		t.Fatalf("the stack has another file to override: %q", stock)
	}
	update := func(spec vm.Spec) error {
		t.Helper()
		_, _, err := v.World.Host.Fleet.Update(t.Context(), spec, func(step string) { t.Log(step) })
		return err
	}
	wanted := configured(v, nil)
	impact, err := v.World.Host.Fleet.Assess(t.Context(), wanted)
	if err != nil || impact.GetLevel() != agentapi.Level_NONE || len(impact.GetStarts()) != 1 {
		t.Errorf("assessed %v, %v", impact, err)
	}
	must(t, update(wanted))
	if got := run(t, v, lookAtConfiguration); got != isConfigured {
		t.Fatalf("it is\n%s\nwant\n%s", got, isConfigured)
	}
	// What uses a file that changes is restarted, and nothing else.
	pids := run(t, v, "systemctl show -P MainPID own.service ssh.service systemd-journald.service")
	changed := configured(v, func(d *guestconfig.Document) {
		x := d.Files["/usr/local/etc/x.ini"]
		x.Content = []byte("y")
		d.Files["/usr/local/etc/x.ini"] = x
	})
	impact, err = v.World.Host.Fleet.Assess(t.Context(), changed)
	if err != nil || impact.GetLevel() != agentapi.Level_RESTART || len(impact.GetUnits()) != 1 ||
		impact.GetUnits()[0].GetUnit() != "own.service" {
		t.Errorf("assessed %v, %v", impact, err)
	}
	must(t, update(changed))
	before, after := strings.Fields(pids),
		strings.Fields(run(t, v, "systemctl show -P MainPID own.service ssh.service systemd-journald.service"))
	if len(after) != 3 || before[0] == after[0] || before[1] != after[1] || before[2] != after[2] {
		t.Errorf("the processes were %v and are %v", before, after)
	}
	must(t, update(wanted))
	// A unit that does not start takes the whole configuration back.
	broken := "[Service]\nType=oneshot\nExecStart=/bin/false\n"
	err = update(configured(v, func(d *guestconfig.Document) {
		yes := true
		d.Units["broken.service"] = guestconfig.Unit{Content: &broken, Started: &yes}
		d.Files["/etc/issue"] = guestconfig.File{Content: []byte("broken\n"), Mode: 0o644, Owner: "root", Group: "root"}
	}))
	if got := run(t, v, lookAtConfiguration+
		"; ls /etc/systemd/system/broken.service 2>&1 | grep -c 'No such'; systemctl is-system-running"); !errors.Is(
		err, vm.ErrTakenBack) || got != isConfigured+"\n1\nrunning" {
		t.Errorf("%v, and it is\n%s", err, got)
	}
	v.Spec = wanted
}

// testConfigurationLasts finds the configuration after reboots and refreshes, tells what somebody
// changed, and takes it all away.
func testConfigurationLasts(t *testing.T, v *guest.VM) {
	run(t, v, "/usr/lib/systemd/systemd-sysctl") // as its service does at boots, which these guests do without
	if got := run(t, v, lookAtConfiguration); got != isConfigured {
		t.Errorf("it is\n%s\nwant\n%s", got, isConfigured)
	}
	run(t, v, "echo mine > /etc/issue")
	found, err := v.World.Host.Fleet.Read(t.Context(), v.Spec.Name)
	must(t, err)
	if len(found.Drift) != 1 || !strings.Contains(found.Drift["/etc/issue"], "content") {
		t.Errorf("it tells %v", found.Drift)
	}
	spec := v.Spec
	spec.Configuration, spec.Secrets, spec.Refresh.MaxImpact = guestconfig.New(), nil, agentapi.Level_RESTART
	if _, _, err := v.World.Host.Fleet.Update(t.Context(), spec,
		func(string) {}); !errors.Is(err, vm.ErrNotConfigured) {
		t.Errorf("what was changed is overwritten: %v", err)
	}
	spec.Overwrite = []string{"/etc/issue"}
	_, _, err = v.World.Host.Fleet.Update(t.Context(), spec, func(step string) { t.Log(step) })
	must(t, err)
	got := run(
		t, v, "grep -c Debian /etc/issue; ls -d /etc/own /usr/local/etc/x.ini /var/lib/sharedos/swapfile "+
			"/etc/systemd/system/own.service /etc/sysusers.d/90* 2>&1 | grep -vc 'No such'; getent passwd alice | wc "+
			"-l; ls -d /home/alice; systemctl is-active own.service; cmp /proc/sys/vm/swappiness /root/swappiness && "+
			"echo same; systemctl is-system-running")
	if want := "1\n0\n0\n/home/alice\ninactive\nsame\nrunning"; got != want {
		t.Errorf("then it is\n%s\nwant\n%s", got, want)
	}
	spec.Overwrite = nil
	v.Spec = spec
}

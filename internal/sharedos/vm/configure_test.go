package vm_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// withFile is a VM with one file, which is a secret.
func (w *world) withFile(content string) vm.Spec {
	spec := w.spec()
	spec.Refresh.MaxImpact = agentapi.Level_RESTART
	spec.Configuration = guestconfig.New()
	spec.Configuration.Files = map[string]guestconfig.File{
		"/etc/a": {Content: []byte(content), Mode: 0o644, Owner: "root", Group: "root"}, "/etc/key": {Secret: true, Mode: 0o600, Owner: "root", Group: "root"},
	}
	spec.Secrets = guestconfig.Secrets{"/etc/key": []byte("secret")}
	return spec
}

func TestAGuestIsConfiguredWhenItIsMadeAndWhenThatChanges(t *testing.T) {
	w := newWorld(t)
	made := w.create(t, w.withFile("one"))
	agent := w.agent(t, "web-a")
	given := func(want int) {
		t.Helper()
		if all := agent.Configured(); len(all) != want {
			t.Fatalf("it was configured %d times, want %d", len(all), want)
		}
	}
	given(1)
	if string(agent.Configured()[0].GetSecrets()["/etc/key"]) != "secret" {
		t.Error("it did not get the secret")
	}
	want, err := w.withFile("one").Configuration.ID()
	if got, errGot := made.Spec.Configuration.ID(); err != nil || errGot != nil || got != want {
		t.Errorf("it has %s, want %s", got, want)
	}
	update := func(spec vm.Spec) error {
		t.Helper()
		_, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
		return err
	}
	if err := update(w.withFile("one")); err != nil {
		t.Fatal(err)
	}
	given(1)
	agent.Uses = []string{"a.service"}
	impact, err := w.fleet.Assess(t.Context(), w.withFile("two"))
	if err != nil || impact.GetLevel() != agentapi.Level_RESTART || impact.GetUnits()[0].GetUnit() != "a.service" {
		t.Errorf("assessed %v, %v", impact, err)
	}
	given(1)
	strict := w.withFile("two")
	strict.Refresh.MaxImpact = agentapi.Level_RELOAD
	if err := update(strict); !errors.Is(err, vm.ErrImpact) {
		t.Errorf("it interrupts too much: %v", err)
	}
	if err := update(w.withFile("two")); err != nil {
		t.Fatal(err)
	}
	given(2)
	agent.Change(map[string]string{"/etc/a": "it is gone"})
	if err := update(w.withFile("three")); !errors.Is(err, vm.ErrNotConfigured) {
		t.Errorf("what was changed is overwritten: %v", err)
	}
	if found, err := w.fleet.Read(t.Context(), "web-a"); err != nil || found.Drift["/etc/a"] != "it is gone" {
		t.Errorf("it tells %v, %v", found.Drift, err)
	}
	over := w.withFile("three")
	over.Overwrite = []string{"/etc/a"}
	if err := update(over); err != nil {
		t.Fatal(err)
	}
	given(3)
	agent.ConfigureError = "it does not start"
	if err := update(w.withFile("four")); !errors.Is(err, vm.ErrTakenBack) {
		t.Errorf("it is %v", err)
	}
	agent.ConfigureError = ""
	if err := update(w.spec()); err != nil { // a specification that says nothing
		t.Fatal(err)
	}
	given(3)
}

func TestAConfigurationIsNotTakenForGivenWithoutAnAnswer(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.withFile("one"))
	w.fleet.BootLimit = time.Millisecond
	w.guests.Silence("web-a", true)
	if _, _, err := w.fleet.Update(within(t, time.Minute), w.withFile("one"), quiet); err != nil {
		t.Errorf("nothing is to be changed: %v", err)
	}
	if _, _, err := w.fleet.Update(within(t, time.Minute), w.withFile("two"), quiet); !errors.Is(err, vm.ErrNoAnswer) {
		t.Errorf("it is %v", err)
	}
	w.guests.Silence("web-a", false)
	if _, _, err := w.fleet.Update(within(t, time.Minute), w.withFile("two"), quiet); err != nil {
		t.Fatal(err)
	}
	if given := w.agent(t, "web-a").Configured(); len(given) != 2 {
		t.Errorf("it was configured %d times", len(given))
	}
}

// The first boot begins with the networks, unless they are too long for a boot configuration: then
// the guest gets them from its agent.
func TestTheBootConfigurationHasTheNetworksThatFit(t *testing.T) {
	for routes, fits := range map[int]bool{1: true, 1000: false} {
		w := newWorld(t)
		spec := w.spec()
		spec.Running = false
		spec.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: "br0"}}
		lan := guestconfig.Network{DHCP4: true}
		for i := range routes {
			lan.Routes = append(lan.Routes,
				guestconfig.Route{To: fmt.Sprintf("10.%d.%d.0/24", i/256, i%256), Via: "192.0.2.1"})
		}
		spec.Configuration = guestconfig.New()
		spec.Configuration.Networks = map[string]guestconfig.Network{"lan": lan}
		w.create(t, spec)
		domain, _, err := w.hypervisor.Lookup(t.Context(), spec.Name)
		if err != nil {
			t.Fatal(err)
		}
		var boot agentapi.BootConfig
		if err := json.Unmarshal(domain.BootConfig, &boot); err != nil {
			t.Fatal(err)
		}
		if has := boot.Networks["lan"].MAC == hypervisor.MAC(spec.UUID, "lan"); has != fits {
			t.Errorf("with %d routes it has %+v", routes, boot.Networks)
		}
	}
}

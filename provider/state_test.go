package provider

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
)

// upgraded is the state of a resource that Terraform stored with a version of the schema.
func upgraded[Model any](t *testing.T, version int64, name, file string, plan testPlan[Model]) testPlan[Model] {
	t.Helper()
	stored, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := NewServer(New("test", nil)).UpgradeResourceState(t.Context(), &tfprotov6.UpgradeResourceStateRequest{
		TypeName: name, Version: version, RawState: &tfprotov6.RawState{JSON: stored},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range resp.Diagnostics {
		t.Fatalf("%s: %s", d.Summary, d.Detail)
	}
	if plan.Raw, err = resp.UpgradedState.Unmarshal(plan.Raw.Type()); err != nil {
		t.Fatal(err)
	}
	return plan
}

// The last version had lists of units and packages, and attributes that only data sources have now.
func TestTheStateOfTheLastVersionIsRead(t *testing.T) {
	web := upgraded(t, 0, "sharedos_vm", "testdata/vm-last-version.json", newPlan[vmModel](t, &vmResource{}))
	base := upgraded(t, 0, "sharedos_base", "testdata/base-last-version.json", newPlan[baseModel](t, newBaseResource()))
	id := `"sha256:` + strings.Repeat("0", 64) + `"`
	for at, want := range map[string]string{
		web.at(path.Root("memory")): `"512MiB"`,
		web.at(path.Root("interfaces").AtMapKey("lan").AtName("user").AtName("forwards").AtMapKey("8080")): "80",
		web.at(path.Root("stack").AtName("base")):                                                          id,
		web.at(path.Root("last_refresh").AtName("restarted").AtMapKey("a.service").AtName(
			"interruption_ms")): "12.500000",
		web.at(path.Root("impact").AtName("units").AtMapKey("a.service").AtName(
			"reason")): `"maps libssl.so.3"`,
		base.at(
			path.Root("change").AtName("packages").AtMapKey("server")): `"1 → 2"`,
		base.at(
			path.Root("archive").AtName("path")): `"rootfs.tar"`,
		base.at(path.Root("change").AtName("layer_bytes")): "8192",
	} {
		if at != want {
			t.Errorf("an attribute is %s, want %s", at, want)
		}
	}
	if change := web.model().changeFrom(web.model()); change != (vmChange{}) {
		t.Errorf("the state differs from itself: %+v", change)
	}
	if diverged, diags := web.model().diverged(t.Context()); diverged || diags.HasError() {
		t.Errorf("a VM that runs its stack is taken to run another one: %v", diags)
	}
	if _, diags := web.model().spec(t.Context()); diags.HasError() {
		t.Error(diags)
	}
	if _, diags := inputOf(t.Context(), base.model(), "cache"); diags.HasError() {
		t.Error(diags)
	}
}

// Version 1 of the schema had what the data source sharedos_vm has now of the last refresh.
func TestTheStateOfVersion1IsRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	last := `{"committed": true, "error": null, "level": "restart", "delta_bytes": 4096, "started": [], "conflicts": ["/etc/x: kept"],
		"restarted": {"a.service": {"level": "restart", "interruption_ms": 12.5, "error": null}},
		"from": "sha256:0", "to": "sha256:1", "etc_carried": 1, "remaining": [], "left": [], "unchecked": [], "pending": []}`
	if err := os.WriteFile(file, []byte(`{"name": "web", "last_refresh": `+last+`}`), 0o600); err != nil {
		t.Fatal(err)
	}
	web := upgraded(t, 1, "sharedos_vm", file, newPlan[vmModel](t, &vmResource{}))
	for at, want := range map[string]string{
		web.at(path.Root("last_refresh").AtName("restarted").AtMapKey("a.service").AtName(
			"interruption_ms")): "12.500000",
		web.at(path.Root("last_refresh").AtName("conflicts").AtListIndex(
			0)): `"/etc/x: kept"`,
	} {
		if at != want {
			t.Errorf("an attribute is %s, want %s", at, want)
		}
	}
}

// Terraform prints a line for each attribute of an object that becomes unknown, and last_refresh does so in each patch.
func TestTheLastRefreshTakesFewLinesOfAPlan(t *testing.T) {
	if n := len(lastRefreshTypes); n > 8 {
		t.Errorf("last_refresh has %d attributes: what nobody reads in a plan belongs into the data source", n)
	}
}

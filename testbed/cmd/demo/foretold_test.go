package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/workspace"
)

func TestTheDemoFailsIfSomethingElseHappensThanThePlanForetold(t *testing.T) {
	id := tree.Sum([]byte("stack"))
	var p workspace.Plan
	if err := json.Unmarshal([]byte(`[
  {"address": "sharedos_base.debian", "change": {"after": {"name": "debian-13"}}},
  {"address": "sharedos_vm.web[\"a\"]", "change": {"after": {"name": "web-a", "stack": {"id": "`+id.String()+`"},
    "impact": {"level": "restart", "units": {"ssh.service": {}, "nginx.service": {}}}}}},
  {"address": "sharedos_vm.web[\"b\"]", "change": {"after": {"name": "web-b"}}}
]`), &p.Changes); err != nil {
		t.Fatal(err)
	}
	said, err := foretold(&p)
	if err != nil || len(said) != 2 {
		t.Fatalf("foretold %v, %v", said, err)
	}
	report := &agentapi.Report{
		Impact:   &agentapi.Impact{Level: agentapi.Level_RESTART},
		Restarts: []*agentapi.UnitRestart{{Unit: "ssh.service"}, {Unit: "nginx.service"}},
	}
	after := &vm.VM{Stack: release.Stack{ID: id}, Agent: &agentapi.StatusResponse{Last: report}}
	did := map[string]outcome{"web-a": happened(after), "web-b": happened(after)}

	var out bytes.Buffer
	same := newReport(&out)
	only := func(name string, of map[string]outcome) map[string]outcome {
		if one, ok := of[name]; ok {
			return map[string]outcome{name: one}
		}
		return map[string]outcome{}
	}
	same.table(only("web-a", said), only("web-a", did))
	if err := same.verdict(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	// A plan that says nothing foretells nothing, and a VM that was not refreshed has done nothing.
	did["web-c"] = happened(after)
	said["web-d"] = said["web-a"]
	for _, name := range []string{"web-b", "web-c", "web-d"} {
		unsaid := newReport(&out)
		unsaid.table(only(name, said), only(name, did))
		if err := unsaid.verdict(); err == nil || !strings.Contains(err.Error(), name+", stack") {
			t.Errorf("%s: %v", name, err)
		}
	}
	report.Restarts = append(report.Restarts, &agentapi.UnitRestart{Unit: "dbus.service"})
	did["web-a"] = happened(after)
	other := newReport(&out)
	other.table(only("web-a", said), only("web-a", did))
	if err := other.verdict(); err == nil || !strings.Contains(err.Error(), "web-a, units") {
		t.Errorf("one more unit: %v", err)
	}
}

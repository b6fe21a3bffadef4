package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/workspace"
)

// outcome is what a plan says that it does to a VM, or what its apply did.
type outcome struct {
	// stack is the id of the stack that the VM runs afterwards, and level the impact; "unknown" if
	// the plan does not say.
	stack, level string
	// units are those that are restarted or reloaded, sorted.
	units []string
}

// unsaid is what a plan does not say.
const unsaid = "unknown"

// foretold is what a plan says about each VM, by its name.
func foretold(p *workspace.Plan) (map[string]outcome, error) {
	said := map[string]outcome{}
	for _, change := range p.Changes {
		if !strings.Contains(change.Address, "sharedos_vm.") {
			continue
		}
		var after struct {
			Name  string `json:"name"`
			Stack *struct {
				ID string `json:"id"`
			} `json:"stack"`
			Impact *struct {
				Level string                     `json:"level"`
				Units map[string]json.RawMessage `json:"units"`
			} `json:"impact"`
		}
		if err := json.Unmarshal(change.Change.After, &after); err != nil {
			return nil, fmt.Errorf("read the plan of %s: %w", change.Address, err)
		}
		one := outcome{stack: unsaid, level: unsaid}
		if after.Stack != nil && after.Stack.ID != "" {
			one.stack = after.Stack.ID
		}
		if after.Impact != nil {
			one.level, one.units = after.Impact.Level, slices.Sorted(maps.Keys(after.Impact.Units))
		}
		said[after.Name] = one
	}
	return said, nil
}

// happened is what the refresh of a VM did, as its agent reports it.
func happened(after *vm.VM) outcome {
	report := after.Agent.GetLast()
	did := outcome{stack: after.Stack.ID.String(), level: strings.ToLower(report.GetImpact().GetLevel().String())}
	for _, restart := range report.GetRestarts() {
		did.units = append(did.units, restart.GetUnit())
	}
	slices.Sort(did.units)
	did.units = slices.Compact(did.units)
	return did
}

// table prints, for each VM, what the plan expected and what happened, and claims that they are the same.
func (r *report) table(foretold, happened map[string]outcome) {
	all := maps.Clone(foretold)
	maps.Copy(all, happened)
	names := slices.Sorted(maps.Keys(all))
	r.title("Foretold by the plan, and happened in the apply")
	r.print("  %-12s %-10s %-34s %s\n", "VM", "", "foretold", "happened")
	var differ []string
	for _, name := range names {
		said, did := foretold[name], happened[name]
		for _, row := range []struct{ what, said, did string }{
			{"stack", shortID(said.stack), shortID(did.stack)},
			{"impact", said.level, did.level},
			{"units", list(said.units), list(did.units)},
		} {
			mark := ""
			if row.said != row.did || row.what == "stack" && row.did == "" {
				mark = "   <- differs"
				differ = append(differ, name+", "+row.what)
			}
			r.print("  %-12s %-10s %-34s %s%s\n", name, row.what, printable(row.said), printable(row.did), mark)
		}
	}
	r.claim(len(differ) == 0 && len(names) > 0, "what the plan foretold is what happened", "%d VMs, different: %s",
		len(names), list(differ))
}

// shortID shortens "sha256:<64 hex>" to the first 12 digits.
func shortID(id string) string {
	hex := strings.TrimPrefix(id, "sha256:")
	return hex[:min(len(hex), 12)]
}

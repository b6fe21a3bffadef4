package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
)

// stateVersion is the version of the schemas of all resources. Version 0 had lists where units and
// packages are by their names now. It and version 1 had attributes that only data sources have now.
const stateVersion = 2

var (
	_ resource.ResourceWithUpgradeState = (*baseResource)(nil)
	_ resource.ResourceWithUpgradeState = (*vmResource)(nil)
)

// UpgradeState implements resource.ResourceWithUpgradeState.
func (r *baseResource) UpgradeState(context.Context) map[int64]resource.StateUpgrader {
	return upgrades("sharedos_base", func(state map[string]any) {
		delete(state, "packages")
		delete(state, "history")
		if change, ok := state["change"].(map[string]any); ok {
			if texts, ok := change["packages"].([]any); ok {
				packages := map[string]any{}
				for _, text := range texts {
					// "openssl 3.5.1-1 → 3.5.1-1+deb13u1"
					name, versions, _ := strings.Cut(fmt.Sprint(text), " ")
					packages[name] = versions
				}
				change["packages"] = packages
			}
		}
	})
}

// UpgradeState implements resource.ResourceWithUpgradeState.
func (r *vmResource) UpgradeState(context.Context) map[int64]resource.StateUpgrader {
	return upgrades("sharedos_vm", func(state map[string]any) {
		if impact, ok := state["impact"].(map[string]any); ok {
			byUnit(impact, "units")
		}
		if last, ok := state["last_refresh"].(map[string]any); ok {
			byUnit(last, "restarted")
			for _, name := range []string{
				"unaffected", "pinned", "timings_ms", "from", "to", "etc_carried", "remaining",
				"left", "unchecked", "pending",
			} {
				delete(last, name)
			}
		}
	})
}

// byUnit replaces a list of objects that have an attribute unit by a map of the others, by the unit.
func byUnit(object map[string]any, name string) {
	list, ok := object[name].([]any)
	if !ok {
		return
	}
	units := map[string]any{}
	for _, one := range list {
		if unit, ok := one.(map[string]any); ok {
			key := fmt.Sprint(unit["unit"])
			delete(unit, "unit")
			units[key] = unit
		}
	}
	object[name] = units
}

// upgrades are the upgrades of a state to stateVersion: of the JSON that Terraform stored. What is
// as it should be already has to stay so.
func upgrades(name string, upgrade func(state map[string]any)) map[int64]resource.StateUpgrader {
	upgrader := resource.StateUpgrader{
		StateUpgrader: func(_ context.Context, req resource.UpgradeStateRequest, resp *resource.UpgradeStateResponse) {
			var state map[string]any
			decoder := json.NewDecoder(strings.NewReader(string(req.RawState.JSON)))
			decoder.UseNumber()
			err := decoder.Decode(&state)
			var text []byte
			if err == nil {
				upgrade(state)
				text, err = json.Marshal(state)
			}
			if err != nil {
				resp.Diagnostics.Append(failed(failure{do: "read the state of", object: "a " + name, err: err})...)
				return
			}
			resp.DynamicValue = &tfprotov6.DynamicValue{JSON: text}
		},
	}
	return map[int64]resource.StateUpgrader{0: upgrader, 1: upgrader}
}

package provider

import (
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// strategies of a refresh: the rungs, from the lowest, and to climb none.
var strategies = []string{vm.Live, vm.SoftReboot, vm.Kexec, vm.Reboot, vm.NextBoot}

// What may be done with units that use what changes.
const (
	policyRestart = "restart"
	policyReload  = "reload"
	policyReport  = "report"
)

// Defaults of the attribute refresh.
const (
	defaultMaxImpact    = "restart"
	defaultSettle       = "5s"
	defaultCheckTimeout = "30s"
)

// levels of impact, smallest first.
var levels = []agentapi.Level{
	agentapi.Level_NONE, agentapi.Level_RELOAD, agentapi.Level_RESTART,
	agentapi.Level_SOFT_REBOOT, agentapi.Level_KEXEC, agentapi.Level_REBOOT,
}

// levelName is the user's word for a level: "soft_reboot". A level that is not known counts as none was told.
func levelName(level agentapi.Level) string {
	if !slices.Contains(levels, level) {
		return "unknown"
	}
	return strings.ToLower(level.String())
}

// allowances are the levels that max_impact can be.
func allowances() []string {
	names := make([]string, len(levels))
	for i, level := range levels {
		names[i] = levelName(level)
	}
	return names
}

// levelOf returns the level of a name; LEVEL_UNSPECIFIED if there is none.
func levelOf(name string) agentapi.Level {
	for _, level := range levels {
		if levelName(level) == name {
			return level
		}
	}
	return agentapi.Level_LEVEL_UNSPECIFIED
}

var (
	healthCheckType = types.ObjectType{AttrTypes: map[string]attr.Type{
		"unit": types.StringType, "http": types.StringType, "tcp": types.StringType,
		"command": types.ListType{ElemType: types.StringType}, "timeout": types.StringType,
	}}
	unitPolicyType = types.ObjectType{AttrTypes: map[string]attr.Type{
		"policy": types.StringType, "paths": types.ListType{ElemType: types.StringType},
	}}
	refreshTypes = map[string]attr.Type{
		"strategy": types.StringType, "max_impact": types.StringType, "settle": types.StringType,
		"restart_timeout": types.StringType,
		"policy":          types.StringType, "units": types.MapType{ElemType: unitPolicyType},
		"health_checks": types.MapType{ElemType: healthCheckType},
	}
)

// defaultRefresh is the policy of a VM that names none.
func defaultRefresh() types.Object {
	return types.ObjectValueMust(refreshTypes, map[string]attr.Value{
		"strategy":        types.StringValue(vm.Live),
		"max_impact":      types.StringValue(defaultMaxImpact),
		"settle":          types.StringValue(defaultSettle),
		"restart_timeout": types.StringNull(),
		"policy":          types.StringValue(policyRestart),
		"units":           types.MapNull(unitPolicyType),
		"health_checks":   types.MapNull(healthCheckType),
	})
}

// duration reads a text that the schema has checked; 0 if it is empty.
func duration(text string) time.Duration {
	parsed, err := time.ParseDuration(text)
	if err != nil {
		return 0
	}
	return parsed
}

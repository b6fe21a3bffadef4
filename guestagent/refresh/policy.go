package refresh

import (
	"errors"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// ErrPolicy means that a policy for units is not valid.
var ErrPolicy = errors.New("not a policy for units")

// maxPolicy bounds how many units a policy names.
const maxPolicy = 1024

// unitPolicy reads a policy for units. The default is to restart affected units.
func unitPolicy(message *agentapi.UnitPolicy) (impact.Policy, error) {
	policy := impact.Policy{Actions: map[string]impact.Action{}, Extra: map[string][]string{}}
	if len(message.GetUnits())+len(message.GetPaths()) > maxPolicy {
		return policy, fmt.Errorf("%w: it names more than %d units", ErrPolicy, maxPolicy)
	}
	var err error
	if policy.Default, err = action(message.GetDefault()); err != nil {
		return policy, err
	}
	for unit, name := range message.GetUnits() {
		if policy.Actions[unit], err = action(name); err != nil {
			return policy, fmt.Errorf("%w: unit %s", err, unit)
		}
	}
	for unit, list := range message.GetPaths() {
		for _, path := range list.GetPaths() {
			name, _ := impact.Resolve(path)
			if name == "" {
				return policy, fmt.Errorf("%w: unit %s: %q is not an absolute path", ErrPolicy, unit, path)
			}
			policy.Extra[unit] = append(policy.Extra[unit], name)
		}
	}
	return policy, nil
}

func action(name string) (impact.Action, error) {
	switch action := impact.Action(name); action {
	case "":
		return impact.Restart, nil
	case impact.Restart, impact.Reload, impact.Report:
		return action, nil
	default:
		return "", fmt.Errorf("%w: %q is none of restart, reload and report", ErrPolicy, name)
	}
}

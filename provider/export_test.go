package provider

import (
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rollout"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// RolloutFleet is what moves VMs to a target. A limit of 0 is the default one.
func RolloutFleet(vms vm.Interface, target vm.Target, limit time.Duration) rollout.Fleet {
	return rolloutFleet{vms: vms, target: target, tell: func(string, string) {}, limit: limit}
}

// StartedBy makes the provider take a command for the one of the Terraform that has started it. In
// tests, Terraform starts no provider. The path is that of a saved plan to apply, if there is one.
func (p *Provider) StartedBy(command, run, path string) error {
	found := invocation{command: command, run: run, destroys: command == "destroy"}
	if path != "" {
		saved, err := readSavedPlan(path)
		if err != nil {
			return err
		}
		found.appliesSaved, found.saved = true, saved
	}
	p.connection.invoked = func() invocation { return found }
	return nil
}

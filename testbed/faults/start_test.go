package faults

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// startsOldOrNew has the agent killed and the power cut in refreshes to a release with another loader, which no swap makes
// whole. Its new stack is started by a soft-reboot.
func (s *subject) startsOldOrNew(t *testing.T) {
	if s.at == s.two {
		s.mustMove(t)
	}
	to := *s.world
	to.two = s.third(t, guest.Append("/ld-linux-x86-64.so.2", "\x00"))
	climber := &subject{
		VM: s.VM, world: &to, at: s.one, looks: map[tree.Digest]string{},
		strategy: vm.SoftReboot, maxImpact: agentapi.Level_SOFT_REBOOT,
	}
	climber.learn(t)
	climber.covers(t, climbing, false)
	for _, at := range climbing {
		climber.killed(t, at, false)
	}
	for _, at := range climbing {
		climber.cut(t, moment{at}, false)
	}
	s.at = climber.at
}

package faults

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// climber is the VM on its way from the first release to one with another dynamic loader. Every
// process has mapped the loader, so only a soft-reboot makes the new stack take effect.
func (s *subject) climber(t *testing.T) *subject {
	t.Helper()
	if s.at == s.two {
		s.mustMove(t)
	}
	to := *s.world
	to.two = s.third(t, guest.Append("/ld-linux-x86-64.so.2", "\x00"))
	c := &subject{
		VM: s.VM, world: &to, at: s.one, looks: map[tree.Digest]string{s.one: s.looks[s.one]},
		strategy: vm.SoftReboot, maxImpact: agentapi.Level_SOFT_REBOOT,
	}
	c.attach(t, to.two)
	return c
}

// startsWhenItIsKilled kills the agent in refreshes by a soft-reboot, once in each: the start of
// the new stack's agent counts, too, when a refresh is given up. Each refresh begins with what the
// one before it has left, and passes its moment. A refresh without a kill follows the last one.
func (s *subject) startsWhenItIsKilled(t *testing.T) {
	c := s.climber(t)
	c.learn(t)
	outcome := ""
	for _, m := range climbing {
		outcome = c.killed(t, false, m)
	}
	c.converge(t, outcome)
	if c.at != c.one {
		c.converge(t, oldStack)
	}
	s.at = c.at
}

// staysWithoutPower cuts the power at each moment of a refresh by a soft-reboot. The last cut is
// followed by a refresh that ends.
func (s *subject) staysWithoutPower(t *testing.T) {
	c := s.climber(t)
	copies := c.copyAtEach(t, climbing, false)
	status, err := c.Settled(t.Context())
	if err != nil || status.GetStack().GetBase() != c.two.String() {
		t.Fatalf("a refresh by a soft-reboot: %v, %v", status.GetLast(), err)
	}
	c.at = c.two
	c.looks[c.two] = c.look(t)
	c.mustKnow(t, climbing...)
	c.boots(t, copies, c.one, false, false)
	c.converge(t, oldStack)
	if mark := c.run(t, "cat /usr/share/mark /etc/mark/changes.conf"); mark != "threethree" {
		t.Errorf("after the next refresh it has %q", mark)
	}
}

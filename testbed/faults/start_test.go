package faults

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// climber is the VM on its way from the first release to one with another loader, which no swap makes whole: a soft-reboot
// starts the new stack.
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

// startsWhenItIsKilled has the agent killed in refreshes that start the new stack.
func (s *subject) startsWhenItIsKilled(t *testing.T) {
	c := s.climber(t)
	c.passes(t)
	c.learn(t)
	c.mustKnow(t, climbing)
	for _, at := range climbing {
		c.killed(t, at, false)
	}
	if s.at = c.at; s.at != s.one {
		t.Fatal("it is not back on the first release")
	}
}

// staysWithoutPower has the power cut in such refreshes. Each goes further than the one before, and the last is followed by
// one that ends.
func (s *subject) staysWithoutPower(t *testing.T) {
	c := s.climber(t)
	for _, at := range climbing {
		c.cut(t, moment{at}, false, true)
	}
	c.mustMove(t)
	if mark := c.run(t, "cat /usr/share/mark /etc/mark/changes.conf"); mark != "threethree" {
		t.Errorf("after the next refresh it has %q", mark)
	}
}

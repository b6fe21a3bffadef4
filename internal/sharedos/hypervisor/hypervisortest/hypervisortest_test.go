package hypervisortest_test

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor/hypervisortest"
)

func TestFakeKeepsTheContract(t *testing.T) {
	fake := hypervisortest.New()
	fake.Deaf = true
	hypervisortest.Contract(t, "br0", "br1", func(*testing.T) hypervisor.Hypervisor { return fake })
}

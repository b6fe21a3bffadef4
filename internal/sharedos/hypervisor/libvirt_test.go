package hypervisor_test

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor/hypervisortest"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

func open(t *testing.T, bed *testbed.Testbed) *hypervisor.Libvirt {
	t.Helper()
	h, err := hypervisor.Open(t.Context(), hypervisor.Config{URI: bed.URI(), StateDir: bed.StateDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func TestLibvirtKeepsTheContract(t *testing.T) {
	h := open(t, testbed.New(t))
	hypervisortest.Contract(t, func(*testing.T) hypervisor.Hypervisor { return h })
}

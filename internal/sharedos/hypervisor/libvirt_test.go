package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor/hypervisortest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

func open(t *testing.T, bed *testbed.Testbed) *hypervisor.Libvirt {
	t.Helper()
	client, err := libvirtconn.Open(t.Context(), bed.URI(), machine.Local{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := hypervisor.New(t.Context(), client, machine.Local{}, bed.StateDir())
	if err != nil {
		t.Fatal(errors.Join(err, client.Close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(h.Close(), client.Close()); err != nil {
			t.Error(err)
		}
	})
	return h
}

func TestLibvirtKeepsTheContract(t *testing.T) {
	h := open(t, testbed.New(t))
	hypervisortest.Contract(t, bridge(t), func(*testing.T) hypervisor.Hypervisor { return h })
}

// bridge makes a bridge of its own for a test, as a host has them for VMs.
func bridge(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("so-%d", os.Getpid())
	if out, err := exec.CommandContext(t.Context(), "ip", "link", "add", name, "type", "bridge").CombinedOutput(); err != nil {
		t.Fatalf("make a bridge: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "ip", "link", "del", name).CombinedOutput(); err != nil {
			t.Errorf("remove the bridge: %v: %s", err, out)
		}
	})
	return name
}

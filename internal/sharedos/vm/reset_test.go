package vm

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

func TestAGuestIsNotDialledBeforeItsKexecHasResetItsDevices(t *testing.T) {
	starting := func(strategy string) *agentapi.StatusResponse {
		return &agentapi.StatusResponse{State: agentapi.State_STARTING, Last: &agentapi.Report{Strategy: strategy}}
	}
	began := time.Unix(1_800_000_000, 0)
	for name, test := range map[string]struct {
		last  *agentapi.StatusResponse
		state hypervisor.VSockState
		err   error
		after time.Duration
		over  bool
	}{
		"not reset yet":             {starting(Kexec), hypervisor.VSockUp, nil, time.Second, false},
		"reset":                     {starting(Kexec), hypervisor.VSockDown, nil, time.Second, true},
		"a reset that was not seen": {starting(Kexec), hypervisor.VSockUp, nil, resetLimit, true},
		"vsock of the kernel":       {starting(Kexec), hypervisor.VSockKernel, nil, time.Second, true},
		"libvirt does not answer":   {starting(Kexec), hypervisor.VSockUp, errors.New("no"), time.Second, true},
		"its start was not told": {&agentapi.StatusResponse{State: agentapi.State_CARRIED,
			Last: &agentapi.Report{Strategy: Kexec}}, hypervisor.VSockUp, nil, time.Second, false},
		"a soft-reboot":             {starting(SoftReboot), hypervisor.VSockUp, nil, time.Second, true},
		"an agent that is replaced": {&agentapi.StatusResponse{State: agentapi.State_IDLE}, hypervisor.VSockUp, nil, time.Second, true},
		"never connected":           {nil, hypervisor.VSockUp, nil, time.Second, true},
	} {
		var wait resetWait
		vsock := func(context.Context) (hypervisor.VSockState, error) { return test.state, test.err }
		wait.lost(test.last, began)
		if over := wait.over(t.Context(), vsock, began.Add(test.after)); over != test.over {
			t.Errorf("%s: it may be dialled: %t", name, over)
		}
		if test.over && !wait.over(t.Context(),
			func(context.Context) (hypervisor.VSockState, error) { return hypervisor.VSockUp, nil }, began) {
			t.Errorf("%s: it may not be dialled any more", name)
		}
	}
}

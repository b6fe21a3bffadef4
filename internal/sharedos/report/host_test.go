package report_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi/agenttest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

type agent = agenttest.Agent

// withError makes every refresh roll back.
func withError(fresh func(string, *agent), text string) func(string, *agent) {
	return func(name string, agent *agent) {
		fresh(name, agent)
		agent.RefreshError = text
	}
}

// hold attaches a layer to a running VM that only a process in the guest uses.
func (h *host) hold(ctx context.Context, name string, id tree.Digest, by string) error {
	guest, err := h.Guests.Agent(name)
	if err != nil {
		return err
	}
	guest.Hold = map[string][]string{id.String(): {by}}
	path := filepath.Join(h.dir, id.Hex())
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := h.Domains.AttachLayer(ctx, name, hypervisor.LayerDevice{ID: id, Path: path}); err != nil {
		return err
	}
	h.Domains.Alter(name, func(d *hypervisor.Domain) {
		d.Layers = slices.DeleteFunc(d.Layers, func(l hypervisor.LayerDevice) bool { return l.ID == id })
	})
	return nil
}

var errNoAnswer = errors.New("libvirt does not answer")

// failing is a host of which one VM cannot be read.
type failing struct {
	vm.Interface
	name string
}

func (f failing) Read(ctx context.Context, name string) (*vm.VM, error) {
	if name == f.name {
		return nil, errNoAnswer
	}
	return f.Interface.Read(ctx, name)
}

func (f failing) InUse(context.Context) (map[tree.Digest][]string, error) { return nil, errNoAnswer }

// altering is a host at which reads of VMs are altered.
type altering struct {
	vm.Interface
	alter func(*vm.VM)
}

func (a altering) Read(ctx context.Context, name string) (*vm.VM, error) {
	found, err := a.Interface.Read(ctx, name)
	if err == nil {
		a.alter(found)
	}
	return found, err
}

// ending is a host at which the time is up when the first VM is read.
type ending struct {
	vm.Interface
	end func()
}

func (e ending) Read(ctx context.Context, name string) (*vm.VM, error) {
	e.end()
	return e.Interface.Read(ctx, name)
}

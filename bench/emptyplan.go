package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing/fstest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/provider"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/workspace"
)

// manyVMs is the number of VMs in the plan.
const manyVMs = 20

// emptyPlan measures a plan with nothing to do for many VMs. Provider, fleet, TLS and Terraform are real. libvirt
// and the agents are the fakes in this process that pass the same contract tests.
func (b *bench) emptyPlan(ctx context.Context) (err error) {
	host, err := b.pretend(ctx, manyVMs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.stop()) }()
	plan, err := host.work.Plan(ctx)
	if err != nil {
		return err
	}
	for _, change := range plan.Changes {
		if !change.Is("no-op") {
			return fmt.Errorf("the plan is not empty: it would %v %s", change.Change.Actions, change.Address)
		}
	}
	if len(plan.Changes) != manyVMs+1 {
		return fmt.Errorf("the plan is about %d objects, not %d VMs and their base", len(plan.Changes), manyVMs)
	}
	b.results.add(fmt.Sprintf("plan with nothing to do, %d VMs", manyVMs), plan.Took.Seconds(), "seconds", 0, 2)
	return nil
}

// pretended is a host with VMs that Terraform has made. libvirt and the guests are fakes in this process.
type pretended struct {
	work  *workspace.Workspace
	world *providertest.World
	dir   string
	// archive is what the VMs' base is made from.
	archive string
	ends    []func() error
}

// stop ends the provider and the guests and removes their files.
func (p *pretended) stop() error {
	var failed []error
	for _, end := range slices.Backward(p.ends) {
		failed = append(failed, end())
	}
	return errors.Join(failed...)
}

// pretend makes a host with a number of VMs on one base.
func (b *bench) pretend(ctx context.Context, vms int) (*pretended, error) {
	return b.pretendWith(ctx, vms, func(archive string) (fs.FS, error) { return manyVMsOn(archive, vms), nil })
}

// pretendWith makes a host with a number of VMs, of a configuration that has a base of an archive.
func (b *bench) pretendWith(ctx context.Context, vms int,
	configuration func(archive string) (fs.FS, error)) (_ *pretended, err error) {
	dir, err := os.MkdirTemp("", "sharedos-")
	if err != nil {
		return nil, fmt.Errorf("make a directory to work in: %w", err)
	}
	p := &pretended{dir: dir, archive: filepath.Join(dir, "rootfs.tar"),
		ends: []func() error{func() error { return os.RemoveAll(dir) }}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	world, err := providertest.New(dir)
	if err != nil {
		return nil, err
	}
	p.ends = append(p.ends, func() error { world.Off(); return nil })
	if err := p.write(sourcetest.NewSystem("6.12.1")); err != nil {
		return nil, err
	}
	p.world = world
	configured, err := configuration(p.archive)
	if err != nil {
		return nil, err
	}
	reattach, stop, err := serve(ctx, world)
	if err != nil {
		return nil, err
	}
	p.ends = append(p.ends, stop)
	p.work, err = workspace.New(workspace.Config{
		Terraform: b.terraform, Provider: b.provider, Dir: filepath.Join(dir, "tf"), Tell: func(string) {},
		Configuration: configured,
		Env: []string{"TF_REATTACH_PROVIDERS=" + reattach, "SHAREDOS_CACHE=" + dir,
			"SHAREDOS_OPERATOR_KEY=" + filepath.Join(dir, "none")},
	})
	if err != nil {
		return nil, err
	}
	b.tell(fmt.Sprintf("making %d VMs on a pretended host", vms))
	plan, err := p.work.Plan(ctx)
	if err != nil {
		return nil, err
	}
	return p, p.work.Apply(ctx, plan)
}

// write writes another system to the archive.
func (p *pretended) write(system sourcetest.System) error {
	text, err := system.Tar()
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.archive, text, 0o600); err != nil {
		return fmt.Errorf("write a small system: %w", err)
	}
	return nil
}

// manyVMsOn is a configuration of a number of VMs on one base.
func manyVMsOn(archive string, vms int) fs.FS {
	return fstest.MapFS{"main.tf": {Data: []byte(manyVMsText(archive, vms))}}
}

func manyVMsText(archive string, vms int) string {
	const text = `terraform {
  required_providers {
    sharedos = { source = "sharedos/sharedos" }
  }
}

resource "sharedos_base" "small" {
  name    = "small"
  archive = { path = %q }
}

resource "sharedos_vm" "many" {
  count  = %d
  name   = "many-${count.index}"
  base   = sharedos_base.small.release
  memory = "512MiB"
  disk   = { size = "4GiB" }
}
`
	return fmt.Sprintf(text, archive, vms)
}

// serve serves the provider on a host until stop is called. Terraform finds it by the returned value of
// TF_REATTACH_PROVIDERS.
func serve(ctx context.Context, world *providertest.World) (reattach string, stop func() error, err error) {
	// A provider writes all log messages and lets Terraform choose, which is not there here.
	for _, logger := range []string{"TF_LOG_SDK", "TF_LOG_SDK_PROTO", "TF_LOG_PROVIDER_BENCH"} {
		if err := os.Setenv(logger, "OFF"); err != nil {
			return "", nil, fmt.Errorf("silence the provider: %w", err)
		}
	}
	sharedos := provider.New("bench", world.Open)
	ctx, cancel := context.WithCancel(ctx)
	configs, closed, served := make(chan *plugin.ReattachConfig, 1), make(chan struct{}), make(chan error, 1)
	go func() {
		served <- tf6server.Serve(provider.Address,
			func() tfprotov6.ProviderServer { return provider.NewServer(sharedos) },
			tf6server.WithDebug(ctx, configs, closed), tf6server.WithoutLogStderrOverride(),
			tf6server.WithLogEnvVarName("BENCH"),
			tf6server.WithGoPluginLogger(hclog.NewNullLogger()))
	}()
	stop = func() error {
		cancel()
		select {
		case <-closed:
			return sharedos.Close()
		case <-time.After(10 * time.Second):
			return errors.New("the provider's server did not end")
		}
	}
	select {
	case config := <-configs:
		text, err := json.Marshal(map[string]any{provider.Address: map[string]any{
			"Protocol": config.Protocol, "ProtocolVersion": config.ProtocolVersion,
			"Pid": config.Pid, "Test": config.Test,
			"Addr": map[string]string{"Network": config.Addr.Network(), "String": config.Addr.String()},
		}})
		return string(text), stop, err
	case err := <-served:
		cancel()
		return "", nil, fmt.Errorf("serve the provider: %w", err)
	case <-ctx.Done():
		cancel()
		return "", nil, ctx.Err()
	}
}

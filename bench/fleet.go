package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/workspace"
)

//go:embed fleet/main.tf
var configuration embed.FS

// fleet is a libvirt of the benchmark's own, with real guests made by the real Terraform.
type fleet struct {
	*bench
	work *workspace.Workspace
	host *host.Host
	key  *guest.Key
	vms  map[string]endpoint
	// tool is the benchmark's own program for guests.
	tool string
}

// endpoint has the ports of 127.0.0.1 that are forwarded to the services of a VM.
type endpoint struct {
	SSH     uint16 `json:"ssh"`
	Greeter uint16 `json:"greeter"`
}

func (e endpoint) ssh() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(e.SSH))) }
func (e endpoint) greeter() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(e.Greeter)))
}

// fleet runs the measurements that need VMs made by Terraform.
func (b *bench) fleet(ctx context.Context) error {
	return inTestbed(ctx, func(bed *testbed.Testbed, dir string) (err error) {
		b.tell("started a libvirt of the benchmark's own in " + dir)
		if _, err := bed.TakeSlots(ctx, testbed.GuestSlots, 0); err != nil {
			return err
		}
		f, err := b.newFleet(ctx, bed, dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.host.Close()) }()
		for _, measure := range []func(context.Context) error{
			f.firstBoot, f.initramfsSize, f.furtherVM, f.residentAgent, f.refresh, f.work.Destroy,
		} {
			if err := measure(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *bench) newFleet(ctx context.Context, bed *testbed.Testbed, dir string) (*fleet, error) {
	f := &fleet{bench: b, vms: map[string]endpoint{}, tool: filepath.Join(dir, "guest")}
	cache, err := testbed.CacheDir()
	if err != nil {
		return nil, err
	}
	if f.key, err = guest.NewKey(); err != nil {
		return nil, err
	}
	if err := buildTool(ctx, f.tool); err != nil {
		return nil, err
	}
	for _, name := range []string{"bench-a", "bench-b"} {
		var at endpoint
		for _, port := range []*uint16{&at.SSH, &at.Greeter} {
			if *port, err = testbed.FreePort(); err != nil {
				return nil, err
			}
		}
		f.vms[name] = at
	}
	files, err := fs.Sub(configuration, "fleet")
	if err != nil {
		return nil, fmt.Errorf("open the benchmark's configuration: %w", err)
	}
	pool, key := filepath.Join(dir, "pool"), filepath.Join(dir, "operator.key")
	f.work, err = workspace.New(workspace.Config{
		Terraform: b.terraform, Provider: b.provider, Configuration: files, Dir: filepath.Join(dir, "tf"), Tell: b.tell,
		Env: []string{
			"SHAREDOS_URI=" + bed.URI(), "SHAREDOS_POOL_PATH=" + pool, "SHAREDOS_OPERATOR_KEY=" + key,
			"SHAREDOS_CACHE=" + cache, "SHAREDOS_STATE_DIR=" + bed.StateDir(),
		},
	})
	if err != nil {
		return nil, err
	}
	f.work.Variables["vms"] = f.vms
	f.work.Variables["authorized_key"] = f.key.Authorized
	f.work.Variables["additional_suites"] = []string{}
	f.host, err = host.Open(ctx, host.Config{
		URI: bed.URI(), PoolPath: pool, OperatorKey: key, Cache: cache, StateDir: bed.StateDir(),
	})
	return f, err
}

// buildTool builds the benchmark's own program for guests.
func buildTool(ctx context.Context, to string) error {
	build := exec.CommandContext(ctx, "go", "build", "-o", to, "./bench/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program for the guests (run from the top of the repository): %w: %s", err, text)
	}
	return nil
}

// apply plans and applies the configuration as it is now, and returns how long the apply took.
func (f *fleet) apply(ctx context.Context, options ...string) (time.Duration, error) {
	plan, err := f.work.Plan(ctx, options...)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = f.work.Apply(ctx, plan)
	return time.Since(began), err
}

// release returns the id of the base release in Terraform's state.
func (f *fleet) release(ctx context.Context) (tree.Digest, error) {
	state, err := f.work.State(ctx)
	if err != nil {
		return tree.Digest{}, err
	}
	for _, r := range state.Values.Root.Resources {
		if r.Type != "sharedos_base" {
			continue
		}
		var base struct {
			Release string `json:"release"`
		}
		if err := json.Unmarshal(r.Values, &base); err != nil {
			return tree.Digest{}, fmt.Errorf("read %s in Terraform's state: %w", r.Address, err)
		}
		return tree.ParseDigest(base.Release)
	}
	return tree.Digest{}, errors.New("no base in Terraform's state")
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/workspace"
)

// demo is one run: a Terraform workspace, and a connection to the host on which it works.
type demo struct {
	out  *report
	bed  *testbed.Testbed
	dir  string
	pool string
	work *workspace.Workspace
	host *host.Host
	// key is an SSH key that the VMs accept.
	key *guest.Key
	// count is how many VMs are made; vms are their names, sorted.
	count int
	vms   []string
	// foretold is what the plan of the patch said about each VM, and happened what its apply did.
	foretold, happened map[string]outcome
}

func newDemo(ctx context.Context, s settings, bed *testbed.Testbed, dir string, out *report) (*demo, error) {
	cache, err := testbed.CacheDir()
	if err != nil {
		return nil, err
	}
	d := &demo{out: out, bed: bed, dir: dir, count: s.vms, pool: filepath.Join(dir, "pool"),
		happened: map[string]outcome{}}
	if d.key, err = guest.NewKey(); err != nil {
		return nil, err
	}
	key := filepath.Join(dir, "operator.key")
	d.work, err = workspace.New(workspace.Config{
		Terraform: s.terraform, Provider: s.provider, Configuration: os.DirFS(s.example), Dir: filepath.Join(dir, "tf"),
		Env: []string{
			"SHAREDOS_URI=" + bed.URI(), "SHAREDOS_POOL_PATH=" + d.pool, "SHAREDOS_OPERATOR_KEY=" + key,
			"SHAREDOS_CACHE=" + cache, "SHAREDOS_STATE_DIR=" + bed.StateDir(),
		},
		Tell: out.step,
	})
	if err != nil {
		return nil, err
	}
	d.host, err = host.Open(ctx, host.Config{
		URI: bed.URI(), PoolPath: d.pool, OperatorKey: key, Cache: cache, StateDir: bed.StateDir(),
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (d *demo) close() error { return d.host.Close() }

// plan makes a plan. It claims that the plan has only the given action, for at least one resource.
func (d *demo) plan(ctx context.Context, action string) (*workspace.Plan, error) {
	p, err := d.work.Plan(ctx)
	if err != nil {
		return nil, err
	}
	var other []string
	count := 0
	for _, c := range p.Changes {
		if c.Is(action) {
			count++
		} else {
			other = append(other, c.Address+": "+strings.Join(c.Change.Actions, " then "))
		}
	}
	d.out.claim(count > 0 && len(other) == 0, "the plan says "+action+" for every resource",
		"%d to %s, other: %s", count, action, list(other))
	return p, nil
}

// baseValues is what the demo reads of a sharedos_base.
type baseValues struct {
	Release  string `json:"release"`
	Sequence int64  `json:"sequence"`
	OS       string `json:"os"`
	Kernel   string `json:"kernel"`
	Bytes    int64  `json:"bytes"`
	Change   *struct {
		Added        int64             `json:"added"`
		Changed      int64             `json:"changed"`
		Removed      int64             `json:"removed"`
		AddedBytes   int64             `json:"added_bytes"`
		ChangedBytes int64             `json:"changed_bytes"`
		LayerBytes   int64             `json:"layer_bytes"`
		Packages     map[string]string `json:"packages"`
		KernelFrom   string            `json:"kernel_from"`
		KernelTo     string            `json:"kernel_to"`
	} `json:"change"`
}

// vmValues is what the demo reads of a sharedos_vm.
type vmValues struct {
	Name  string `json:"name"`
	Base  string `json:"base"`
	Agent struct {
		ReadySeconds float64 `json:"ready_seconds"`
	} `json:"agent"`
}

// resources reads base and VMs from Terraform's state.
func (d *demo) resources(ctx context.Context) (baseValues, map[string]vmValues, error) {
	var base baseValues
	vms := map[string]vmValues{}
	state, err := d.work.State(ctx)
	if err != nil {
		return base, nil, err
	}
	bases := 0
	for _, r := range state.Values.Root.Resources {
		switch r.Type {
		case "sharedos_base":
			bases++
			err = json.Unmarshal(r.Values, &base)
		case "sharedos_vm":
			var v vmValues
			err = json.Unmarshal(r.Values, &v)
			vms[v.Name] = v
		}
		if err != nil {
			return base, nil, fmt.Errorf("read %s in Terraform's state: %w", r.Address, err)
		}
	}
	if bases != 1 || len(vms) == 0 {
		return base, nil, fmt.Errorf(
			"%d bases and %d VMs are in Terraform's state; the demo is about one base and some VMs", bases, len(vms))
	}
	d.vms = d.vms[:0]
	for name := range vms {
		d.vms = append(d.vms, name)
	}
	slices.Sort(d.vms)
	return base, vms, nil
}

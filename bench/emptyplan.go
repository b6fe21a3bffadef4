package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing/fstest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi/agenttest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor/hypervisortest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/provider"
	"github.com/sharedos/terraform-provider-sharedos/testbed/workspace"
)

// manyVMs is how many VMs the plan is about.
const manyVMs = 20

// emptyPlan measures a plan with nothing to do for many VMs. Provider, fleet, TLS and Terraform are the real ones;
// libvirt and the agents are the fakes that keep the same contracts, in this process.
func (b *bench) emptyPlan(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "sharedos-")
	if err != nil {
		return fmt.Errorf("make a directory to work in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	pretended, err := pretend(ctx, dir)
	if err != nil {
		return err
	}
	defer pretended.off()
	reattach, stop, err := serve(ctx, pretended)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	work, err := workspace.New(workspace.Config{
		Terraform: b.terraform, Provider: b.provider, Dir: filepath.Join(dir, "tf"), Tell: func(string) {},
		Configuration: manyVMsOn(pretended.base),
		Env:           []string{"TF_REATTACH_PROVIDERS=" + reattach, "SHAREDOS_CACHE=" + dir, "SHAREDOS_OPERATOR_KEY=" + filepath.Join(dir, "none")},
	})
	if err != nil {
		return err
	}
	b.tell(fmt.Sprintf("making %d VMs on a pretended host", manyVMs))
	plan, err := work.Plan(ctx)
	if err != nil {
		return err
	}
	if err := work.Apply(ctx, plan); err != nil {
		return err
	}
	plan, err = work.Plan(ctx)
	if err != nil {
		return err
	}
	for _, change := range plan.Changes {
		if !change.Is("no-op") {
			return fmt.Errorf("the plan is not empty: it would %v %s", change.Change.Actions, change.Address)
		}
	}
	if len(plan.Changes) != manyVMs {
		return fmt.Errorf("the plan is about %d VMs, not %d", len(plan.Changes), manyVMs)
	}
	b.results.add(fmt.Sprintf("plan with nothing to do, %d VMs", manyVMs), plan.Took.Seconds(), "seconds", 0, 2)
	return nil
}

// manyVMsOn is a configuration of many VMs on one stored base.
func manyVMsOn(base tree.Digest) fs.FS {
	const text = `terraform {
  required_providers {
    sharedos = { source = "sharedos/sharedos" }
  }
}

resource "sharedos_vm" "many" {
  count  = %d
  name   = "many-${count.index}"
  base   = %q
  memory = "512MiB"
  disk   = { size = "4GiB" }
}
`
	return fstest.MapFS{"main.tf": {Data: fmt.Appendf(nil, text, manyVMs, base)}}
}

// serve serves the provider on a host to a Terraform that is told of it by the returned value of
// TF_REATTACH_PROVIDERS, until stop is called.
func serve(ctx context.Context, host provider.Backend) (reattach string, stop func() error, err error) {
	// A provider logs all, for Terraform to choose from; here nobody would.
	for _, logger := range []string{"TF_LOG_SDK", "TF_LOG_SDK_PROTO", "TF_LOG_PROVIDER_BENCH"} {
		if err := os.Setenv(logger, "OFF"); err != nil {
			return "", nil, fmt.Errorf("silence the provider: %w", err)
		}
	}
	sharedos := provider.New("bench", func(context.Context, provider.Config) (provider.Backend, error) { return host, nil })
	ctx, cancel := context.WithCancel(ctx)
	configs, closed, served := make(chan *plugin.ReattachConfig, 1), make(chan struct{}), make(chan error, 1)
	go func() {
		served <- tf6server.Serve(provider.Address, providerserver.NewProtocol6(sharedos),
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
			"Protocol": config.Protocol, "ProtocolVersion": config.ProtocolVersion, "Pid": config.Pid, "Test": config.Test,
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

// pretendedHost is a host whose libvirt and guests are fakes.
type pretendedHost struct {
	publisher *publish.Publisher
	fleet     *vm.Fleet
	base      tree.Digest

	mu     sync.Mutex
	agents map[string]*agenttest.Agent
}

func (p *pretendedHost) Publisher() publish.Interface { return p.publisher }
func (p *pretendedHost) VMs() vm.Interface            { return p.fleet }
func (p *pretendedHost) Close() error                 { return nil }

// pretend makes a host with one base.
func pretend(ctx context.Context, dir string) (*pretendedHost, error) {
	for _, name := range []string{"pool", "cache", "console"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return nil, fmt.Errorf("make a pretended host: %w", err)
		}
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	domains, volumes := hypervisortest.New(), storetest.In(filepath.Join(dir, "pool"))
	log := slog.New(slog.DiscardHandler)
	p := &pretendedHost{
		agents:    map[string]*agenttest.Agent{},
		publisher: &publish.Publisher{Store: volumes, Cache: filepath.Join(dir, "cache"), Key: key, Log: log},
		fleet: &vm.Fleet{
			Hypervisor: domains, Store: volumes, Key: key, Pool: "pool", Log: log,
			Cache: filepath.Join(dir, "cache"), ConsoleDir: filepath.Join(dir, "console"),
			AgentBinary: func() ([]byte, error) { return []byte("agent"), nil },
			Initramfs:   func(agent, modules []byte) ([]byte, error) { return slices.Concat(agent, modules), nil },
		},
	}
	domains.OnStart = func(d hypervisor.Domain) error {
		agent, err := p.agent(d.Name)
		if err != nil {
			return err
		}
		layers := make([]tree.Digest, len(d.Layers))
		for i, layer := range d.Layers {
			layers[i] = layer.ID
		}
		return agent.Boot(d.BootConfig, layers)
	}
	domains.Dial = func(name string) (transport.Dialer, error) { return p.agent(name) }
	p.base, err = publishPretended(ctx, volumes, key)
	return p, err
}

func (p *pretendedHost) agent(name string) (*agenttest.Agent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.agents[name] == nil {
		agent, err := agenttest.New()
		if err != nil {
			return nil, err
		}
		p.agents[name] = agent
	}
	return p.agents[name], nil
}

func (p *pretendedHost) off() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, agent := range p.agents {
		agent.Off()
	}
}

// publishPretended stores a release whose layer and kernel are bytes that nothing boots.
func publishPretended(ctx context.Context, volumes *storetest.Store, key ed25519.PrivateKey) (tree.Digest, error) {
	content := bytes.Repeat([]byte("layer"), 8192)[:8192]
	layer := release.Layer{ID: tree.Sum(content), DataSize: 4096, Size: int64(len(content))}
	if _, err := volumes.PutLayer(ctx, layer, bytes.NewReader(content), nil); err != nil {
		return tree.Digest{}, err
	}
	blobs := map[string]release.Blob{}
	for _, text := range []string{"contents", "kernel", "modules"} {
		blobs[text] = release.Blob{Digest: tree.Sum([]byte(text)), Size: int64(len(text))}
		if err := volumes.PutBlob(ctx, blobs[text], bytes.NewReader([]byte(text)), nil); err != nil {
			return tree.Digest{}, err
		}
	}
	note, id, err := release.Sign(&release.Manifest{
		Schema: release.Schema, Kind: release.Base, Name: "debian-13", Sequence: 1, Architecture: "amd64", OS: "Debian",
		Layers: []release.Layer{layer}, Contents: blobs["contents"],
		Kernel: &release.Kernel{Release: "6.12.1", Image: blobs["kernel"], Modules: blobs["modules"]},
		Users:  map[string]uint32{"root": 0}, Groups: map[string]uint32{"root": 0},
	}, key)
	if err != nil {
		return tree.Digest{}, err
	}
	return id, volumes.PutRelease(ctx, id, note)
}

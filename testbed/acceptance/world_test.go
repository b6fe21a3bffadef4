// Package acceptance runs the real Terraform on a real libvirt with real guests, as users do, and injects faults.
package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/workspace"
)

// world is a libvirt, a Terraform workspace on it, and the test's own connections to both.
type world struct {
	bed  *testbed.Testbed
	work *workspace.Workspace
	host *host.Host
	pool string
	// env is the environment of the provider.
	env []string

	// onStep is called with every message of Terraform and the provider.
	onStep func(string)
}

// newWorld makes a world for VMs that run. env overrides variables of the provider's environment.
func newWorld(t *testing.T, env ...string) *world {
	t.Helper()
	return newWorldOf(t, "fleet", env...)
}

// newWorldOf makes a world with a configuration from testdata.
func newWorldOf(t *testing.T, configuration string, env ...string) *world {
	t.Helper()
	cache, err := testbed.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{bed: testbed.New(t), onStep: func(string) {}}
	w.pool = filepath.Join(w.bed.Dir(), "pool")
	key := filepath.Join(w.bed.Dir(), "operator.key")
	w.env = append([]string{
		"SHAREDOS_URI=" + w.bed.URI(), "SHAREDOS_POOL_PATH=" + w.pool, "SHAREDOS_OPERATOR_KEY=" + key,
		"SHAREDOS_CACHE=" + cache, "SHAREDOS_STATE_DIR=" + w.bed.StateDir(),
	}, env...) // the last one of a name counts
	w.work = w.workspaceOf(t, configuration)
	w.host, err = host.Open(t.Context(), host.Config{
		URI: w.bed.URI(), PoolPath: w.pool, OperatorKey: key, Cache: cache, StateDir: w.bed.StateDir(),
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.host.Close(); err != nil {
			t.Errorf("close the host: %v", err)
		}
	})
	return w
}

// workspaceOf makes a Terraform workspace with a configuration from testdata, and a state of its own.
func (w *world) workspaceOf(t *testing.T, configuration string) *workspace.Workspace {
	t.Helper()
	terraform, err := workspace.Terraform()
	if err != nil {
		t.Fatal(err)
	}
	made, err := workspace.New(workspace.Config{
		Terraform: terraform, Provider: filepath.Join("..", "..", "bin", "terraform-provider-sharedos"),
		Configuration: os.DirFS(filepath.Join("testdata", configuration)),
		Dir:           filepath.Join(t.TempDir(), "tf"), Env: w.env,
		Tell: func(line string) {
			t.Log(line)
			w.onStep(line)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// takeSlot waits for a guest slot. The tests of this package run one after the other; remaining is how long this
// one and the following ones are expected to take.
func (w *world) takeSlot(t *testing.T, remaining time.Duration) {
	t.Helper()
	if _, err := w.bed.TakeSlots(t.Context(), 1, remaining); err != nil {
		t.Fatal(err)
	}
}

// limit bounds one Terraform command, and everything else that waits for a guest. An emulated guest boots in half a
// minute, and in several minutes on a busy machine.
const limit = 20 * time.Minute

func (w *world) plan(t *testing.T, extra ...string) *workspace.Plan {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	plan, err := w.work.Plan(ctx, extra...)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// apply plans and applies.
func (w *world) apply(t *testing.T, extra ...string) error {
	t.Helper()
	plan := w.plan(t, extra...)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return w.work.Apply(ctx, plan)
}

func (w *world) mustApply(t *testing.T, extra ...string) {
	t.Helper()
	if err := w.apply(t, extra...); err != nil {
		t.Fatal(err)
	}
}

// applyUntil plans and applies, and interrupts Terraform like Ctrl-C when a message contains text.
func (w *world) applyUntil(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	reached := make(chan struct{}, 1)
	w.onStep = func(line string) {
		if strings.Contains(line, text) {
			select {
			case reached <- struct{}{}:
			default:
			}
			cancel()
		}
	}
	defer func() { w.onStep = func(string) {} }()
	plan, err := w.work.Plan(ctx)
	if err == nil {
		err = w.work.Apply(ctx, plan)
	}
	select {
	case <-reached:
		t.Logf("interrupted at %q: %v", text, err)
	default:
		t.Fatalf("no message contained %q: %v", text, err)
	}
}

// mustBeSettled fails unless a plan has nothing to do.
func (w *world) mustBeSettled(t *testing.T) {
	t.Helper()
	for _, change := range w.plan(t).Changes {
		if !change.Is("no-op") {
			t.Errorf("a second plan wants to %v %s", change.Change.Actions, change.Address)
		}
	}
}

// values decodes the attributes of a resource in Terraform's state.
func (w *world) values(t *testing.T, address string, into any) {
	t.Helper()
	state, err := w.work.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, resource := range state.Values.Root.Resources {
		if resource.Address == address {
			if err := json.Unmarshal(resource.Values, into); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("the state has no %s", address)
}

// release is the release id of the base in Terraform's state.
func (w *world) release(t *testing.T) tree.Digest {
	t.Helper()
	var base struct {
		Release tree.Digest `json:"release"`
	}
	w.values(t, "sharedos_base.os", &base)
	return base.Release
}

// status returns the status that the agent of a VM reports.
func (w *world) status(t *testing.T, name string) *agentapi.StatusResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	found, err := w.host.Fleet.Read(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if !found.Answered {
		t.Fatalf("the agent of %s does not answer", name)
	}
	return found.Agent
}

// mustServe waits until the VM serves its page.
func mustServe(t *testing.T, port uint16) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	client := http.Client{Timeout: 30 * time.Second}
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
			err = errors.New(answer.Status)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", url, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// mustBeEmpty fails unless nothing is left in libvirt and in the pool.
func (w *world) mustBeEmpty(t *testing.T) {
	t.Helper()
	volumes, err := w.host.Store.Volumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, volume := range volumes {
		t.Errorf("volume %s is left", volume.Name)
	}
	files, err := os.ReadDir(w.pool)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // made with the first volume
		t.Fatal(err)
	}
	for _, file := range files {
		t.Errorf("%s is left in the pool's directory", file.Name())
	}
	consoles, err := os.ReadDir(filepath.Join(w.bed.StateDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	for _, console := range consoles {
		t.Errorf("console log %s is left", console.Name())
	}
	domains, err := w.host.Fleet.Hypervisor.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, domain := range domains {
		t.Errorf("domain %s is left", domain.Name)
	}
}

// digest returns the digest of the one regular file of a release whose path ends in suffix.
func (w *world) digest(t *testing.T, id tree.Digest, suffix string) tree.Digest {
	t.Helper()
	manifest, err := w.host.Publisher.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	contents, err := w.host.Store.GetBlob(t.Context(), manifest.Contents)
	if err != nil {
		t.Fatal(err)
	}
	var found []tree.Digest
	reader := release.NewContentsReader(bytes.NewReader(contents))
	for {
		entry, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if entry.Type == tree.Regular && strings.HasSuffix(entry.Path, suffix) {
			found = append(found, entry.Digest)
		}
	}
	if len(found) != 1 {
		t.Fatalf("release %s has %d files %s", id, len(found), suffix)
	}
	return found[0]
}

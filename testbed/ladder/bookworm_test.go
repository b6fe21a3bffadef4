package ladder_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/workspace"
)

// The releases of the chain. Each has one layer more than the previous one. The VM starts with first.
const (
	first = 1 + iota
	second
	sick
	last
)

// lacks has the reasons why a guest with Linux 6.1 and systemd 252 is not refreshed live, and not by a soft-reboot.
var lacks = []string{"cannot mount beneath (6.5 is needed)", "a soft-reboot needs systemd 254, this is 252"}

// nth returns the edits of the nth release, from 1: one file for each release so far, a file whose name changes
// with each release, and a service.
func nth(n int, more ...guest.Edit) []guest.Edit {
	edits := marked(fmt.Sprint(n),
		guest.Write("usr/lib/systemd/system/worker.service", 0o644, "[Service]\nExecStart=/usr/bin/worker infinity\n"),
		guest.Link("etc/systemd/system/multi-user.target.wants/worker.service",
			"/usr/lib/systemd/system/worker.service"),
		guest.Write(fmt.Sprintf("usr/share/chain/only-%d", n), 0o644, ""))
	for i := range n {
		edits = append(edits, guest.Write(fmt.Sprintf("usr/share/chain/%d", i+1), 0o644, fmt.Sprint(i+1)))
	}
	return append(edits, more...)
}

// worker is the program of the service.
func worker(more string) guest.Edit { return guest.Copy("usr/bin/worker", "usr/bin/sleep", more) }

// mustHaveChain fails unless the guest shows the merged files of the nth release and runs from n layers.
func (c *climber) mustHaveChain(n int) {
	c.t.Helper()
	want := []string{fmt.Sprintf("only-%d", n)}
	for i := range n {
		want = append(want, fmt.Sprint(i+1))
	}
	slices.Sort(want)
	got, err := c.Run(c.t.Context(),
		"cd /usr/share/chain && LC_ALL=C ls && for f in [0-9]*; do [ $f = $(cat $f) ] || echo $f is wrong; done")
	if err != nil || got != strings.Join(want, "\n") {
		c.t.Errorf("the guest shows %q, %v; want %q", got, err, want)
	}
	if layers := c.status().GetStack().GetLayers(); len(layers) != n {
		c.t.Errorf("it runs from %d layers, want %d", len(layers), n)
	}
}

func (c *climber) status() *agentapi.StatusResponse {
	c.t.Helper()
	status, err := c.Status(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return status
}

// planned imports the VM into Terraform and plans its move to a release. It returns the planned impact or the
// error.
func (c *climber) planned(to tree.Digest, strategy, maxImpact string) (level, said string, err error) {
	c.t.Helper()
	binary, err := workspace.Terraform()
	if err != nil {
		c.t.Fatal(err)
	}
	cache, err := testbed.CacheDir()
	if err != nil {
		c.t.Fatal(err)
	}
	bed := c.World.Bed
	work, err := workspace.New(workspace.Config{
		Terraform: binary, Provider: filepath.Join("..", "..", "bin", "terraform-provider-sharedos"),
		Configuration: os.DirFS(filepath.Join("testdata", "imported")), Dir: filepath.Join(c.t.TempDir(), "tf"),
		Env: []string{
			"SHAREDOS_URI=" + bed.URI(), "SHAREDOS_POOL_PATH=" + filepath.Join(bed.Dir(), "pool"),
			"SHAREDOS_CACHE=" + cache,
			"SHAREDOS_OPERATOR_KEY=" + filepath.Join(bed.Dir(), "operator.key"), "SHAREDOS_STATE_DIR=" + bed.StateDir(),
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(c.Address(22))
	if err != nil {
		c.t.Fatal(err)
	}
	ssh, err := strconv.Atoi(port)
	if err != nil {
		c.t.Fatal(err)
	}
	work.Variables = map[string]any{
		"name": c.Spec.Name, "release": to.String(), "key": c.World.Key.Authorized, "ssh": ssh,
		"refresh": map[string]any{"strategy": strategy, "max_impact": maxImpact},
	}
	plan, err := work.Plan(c.t.Context())
	if err != nil {
		return "", strings.Join(strings.Fields(err.Error()), " "), err
	}
	for _, change := range plan.Changes {
		var after struct {
			Impact struct {
				Level   string   `json:"level"`
				Reasons []string `json:"reasons"`
			} `json:"impact"`
		}
		if err := json.Unmarshal(change.Change.After, &after); err != nil || !change.Is("update") {
			c.t.Fatalf("the plan is to %v %s: %v", change.Change.Actions, change.Address, err)
		}
		level, said = after.Impact.Level, strings.Join(after.Impact.Reasons, "\n")
	}
	return level, said, nil
}

// mustSay fails unless a text contains all the words.
func mustSay(t *testing.T, what, text string, words []string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%s does not say %q: %s", what, word, text)
		}
	}
}

// TestAnOldKernelAndSystemd refreshes Debian 12 in every way that it supports, with one more layer each time. Such
// a kernel takes all layers of an overlay in one option; package mounts tests that the layers of the longest chain
// fit into it.
func TestAnOldKernelAndSystemd(t *testing.T) {
	t.Parallel()
	w := guest.New(t)
	w.Expected = 5 * time.Minute
	w.Debian = guest.Bookworm
	w.Host.Publisher.MaxChain = last
	chain := [last + 1]tree.Digest{}
	publish := func(n int, suites []string, edits ...guest.Edit) {
		id, err := w.Publish(t.Context(), "bookworm", suites, nth(n, edits...)...)
		if err != nil {
			t.Fatal(err)
		}
		chain[n] = id
	}
	publish(first, guest.Plain, worker(""))
	publish(second, guest.Plain, worker("\x00"))
	publish(sick, guest.Plain, guest.Write("usr/bin/worker", 0o755, "#!/bin/sh\necho no luck today\nexit 1\n"))
	publish(last, guest.Updated, worker("\x00\x00"))

	v, err := w.Create(t.Context(), "bookworm", chain[first], func(s *vm.Spec) {
		s.Refresh.HealthChecks = []*agentapi.HealthCheck{{Name: "work",
			Kind: &agentapi.HealthCheck_Unit{Unit: "worker.service"}}}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Run(t.Context(), "echo own > /root/own"); err != nil {
		t.Fatal(err)
	}
	c := &climber{VM: v, t: t}
	kernel := c.status().GetKernel()
	if !strings.HasPrefix(kernel, "6.1.") {
		t.Fatalf("its kernel is %s", kernel)
	}
	c.runs("1", kernel)
	c.mustHaveChain(first)

	t.Run("the plan tells why it is not live", func(t *testing.T) {
		c.t = t
		_, said, err := c.planned(chain[second], vm.Live, "restart")
		if err == nil {
			t.Error("a plan that allows a restart of units is taken")
		}
		mustSay(t, "the refused plan", said, append(lacks, "impact is reboot, and refresh.max_impact allows restart"))
		level, said, err := c.planned(chain[second], vm.SoftReboot, "reboot")
		if err != nil || level != "none" {
			t.Errorf("level %s, %v", level, err)
		}
		mustSay(t, "the plan for soft_reboot", said,
			append(lacks, "the change needs reboot, and refresh.strategy allows less"))
		level, said, err = c.planned(chain[second], vm.Reboot, "reboot")
		if err != nil || level != "reboot" {
			t.Errorf("level %s, %v", level, err)
		}
		mustSay(t, "the plan for reboot", said, lacks)
	})
	t.Run("a live refresh is left to the next start", func(t *testing.T) {
		c.t = t
		report, err := c.climb(chain[second], vm.Live)
		if err != nil || report.GetCommitted() || report.GetStrategy() != vm.NextBoot {
			t.Fatalf("%v, %v", report, err)
		}
		mustSay(t, "the report", strings.Join(report.GetImpact().GetReasons(), "\n"), lacks)
		mustSay(t, "the report", strings.Join(report.GetPending(), "\n"),
			[]string{"it takes reboot, and the strategy is live"})
		c.mustHaveChain(first)
		if err := c.CutPower(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.runs("2", kernel)
		c.mustHaveChain(second)
	})
	t.Run("a reboot starts the new stack, and after a service fails there another one the old", func(t *testing.T) {
		c.t = t
		report, err := c.climb(chain[sick], vm.Reboot)
		mustRollBack(t, report, err, vm.Reboot, "worker.service")
		mustSay(t, "the report", strings.Join(report.GetImpact().GetReasons(), "\n"), lacks)
		mustSay(t, "the error", err.Error(), []string{"no luck today"})
		c.runs("2", kernel)
		c.mustHaveChain(second)
	})
	t.Run("a kexec starts another kernel", func(t *testing.T) {
		c.t = t
		report, err := c.climb(chain[last], vm.Kexec)
		mustCommit(t, report, err, vm.Kexec)
		updated := report.GetTo().GetKernel()
		if updated == kernel {
			t.Errorf("it has kernel %s again", updated)
		}
		c.runs("4", updated)
		c.mustHaveChain(last)
	})
}

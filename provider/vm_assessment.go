package provider

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/hashicorp/terraform-plugin-log/tflog"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// assessment is a question about the impact of a change, and the answer that a plan showed.
//
// During an apply, Terraform plans every resource again in another process, and fails if a known value of the plan has
// changed. The processes in a guest change all the time, so the answer in the plan is stored and used for the second
// planning. The safety of the refresh does not depend on it: the agent assesses the change again before it changes
// anything.
type assessment struct {
	UUID   string           `json:"uuid"`
	From   string           `json:"from"`
	To     string           `json:"to"`
	Impact *agentapi.Impact `json:"impact,omitempty"`
}

// question describes the VM after the change. Of the refresh policy, it contains only what the assessment depends on:
// the policy for units, the strategy and the health checks.
func question(spec vm.Spec) string {
	spec.Refresh = vm.RefreshPolicy{
		Units: spec.Refresh.Units, Strategy: spec.Refresh.Strategy, HealthChecks: spec.Refresh.HealthChecks,
	}
	// Of the configuration the guest gets, its id says enough.
	id, err := spec.Configuration.ID()
	if err != nil {
		return ""
	}
	spec.Configuration, spec.Given = nil, id
	text, err := json.Marshal(spec)
	if err != nil {
		return "" // every Spec can be written as JSON; and an empty question is never recalled
	}
	return string(text)
}

// assessments stores the last assessment of each VM in a directory of the cache.
type assessments struct{ dir string }

func (r *vmResource) assessments() assessments {
	return assessments{filepath.Join(r.connection.cacheDir(), "assessments")}
}

func (a assessments) file(uuid string) string {
	return filepath.Join(a.dir, tree.Sum([]byte(uuid)).Hex()[:32]+".json")
}

// recall returns the stored answer, if the last question about the VM was the same.
func (a assessments) recall(ctx context.Context, question assessment) (*agentapi.Impact, bool) {
	text, err := os.ReadFile(a.file(question.UUID))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			a.log(ctx, "read", err)
		}
		return nil, false
	}
	var stored assessment
	if err := json.Unmarshal(text, &stored); err != nil {
		a.log(ctx, "read", err)
		return nil, false
	}
	return stored.Impact, stored.answers(question)
}

// answers reports whether the answer is one to the same question.
func (a *assessment) answers(question assessment) bool {
	return a.UUID == question.UUID && a.From == question.From && a.To == question.To && question.To != ""
}

// remember stores an answer. If this fails, the agent is asked again, which is only slower.
func (a assessments) remember(ctx context.Context, question assessment, impact *agentapi.Impact) {
	question.Impact = impact
	text, err := json.Marshal(question)
	if err == nil {
		err = os.MkdirAll(a.dir, 0o700)
	}
	if err == nil {
		err = renameio.WriteFile(a.file(question.UUID), text, 0o600, renameio.WithTempDir(a.dir))
	}
	if err != nil {
		a.log(ctx, "store", err)
	}
}

// forget deletes the stored answer about a VM.
func (a assessments) forget(ctx context.Context, uuid string) {
	if err := os.Remove(a.file(uuid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log(ctx, "delete", err)
	}
}

func (a assessments) log(ctx context.Context, do string, err error) {
	tflog.Warn(ctx, "unable to "+do+" the assessment of a VM", map[string]any{"error": err.Error()})
}

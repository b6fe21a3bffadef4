package provider

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/hashicorp/terraform-plugin-log/tflog"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// tfValue is a value that can be looked through for unknowns.
type tfValue interface {
	ToTerraformValue(ctx context.Context) (tftypes.Value, error)
}

// assessment is one question about the impact of a change, and the answer that a plan showed.
//
// Terraform plans every resource again while it applies, in another process, and fails the apply if a value that
// the plan told comes out otherwise. What runs in a guest changes by the second, so the answer that was shown is
// kept for that second asking. The agent assesses once more before it changes anything, so nothing rests on it.
type assessment struct {
	UUID   string           `json:"uuid"`
	From   string           `json:"from"`
	To     string           `json:"to"`
	Impact *agentapi.Impact `json:"impact,omitempty"`
}

// question writes what a VM is asked to become. How it may be changed is no part of it, but what may be done with units,
// and how high may be climbed.
func question(spec vm.Spec) string {
	spec.Refresh = vm.RefreshPolicy{Units: spec.Refresh.Units, Strategy: spec.Refresh.Strategy}
	text, err := json.Marshal(spec)
	if err != nil {
		return "" // a Spec has no value that JSON cannot write; an empty question is never recalled
	}
	return string(text)
}

// assessments keeps the last assessment of each VM in a directory of the cache.
type assessments struct{ dir string }

func (r *vmResource) assessments() assessments {
	return assessments{filepath.Join(r.connection.cacheDir(), "assessments")}
}

func (a assessments) file(uuid string) string {
	return filepath.Join(a.dir, tree.Sum([]byte(uuid)).Hex()[:32]+".json")
}

// recall returns the answer to the same question, if it was the last one asked about the VM.
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
	same := stored.UUID == question.UUID && stored.From == question.From && stored.To == question.To && question.To != ""
	return stored.Impact, same
}

// remember keeps an answer. If it cannot, the agent is asked again: that is slower and no worse.
func (a assessments) remember(ctx context.Context, question assessment, impact *agentapi.Impact) {
	question.Impact = impact
	text, err := json.Marshal(question)
	if err == nil {
		err = os.MkdirAll(a.dir, 0o700)
	}
	if err != nil {
		a.log(ctx, "keep", err)
		return
	}
	temporary, err := os.CreateTemp(a.dir, ".new-*")
	if err != nil {
		a.log(ctx, "keep", err)
		return
	}
	_, err = temporary.Write(text)
	if err = errors.Join(err, temporary.Close()); err == nil {
		err = os.Rename(temporary.Name(), a.file(question.UUID))
	}
	if err != nil {
		a.log(ctx, "keep", errors.Join(err, os.Remove(temporary.Name())))
	}
}

// forget drops the answer about a VM.
func (a assessments) forget(ctx context.Context, uuid string) {
	if err := os.Remove(a.file(uuid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log(ctx, "drop", err)
	}
}

func (a assessments) log(ctx context.Context, do string, err error) {
	tflog.Warn(ctx, "unable to "+do+" an assessment of impact", map[string]any{"error": err.Error()})
}

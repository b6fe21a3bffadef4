package provider

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
)

// vmNote is what a plan said about a VM.
type vmNote struct {
	// Stack is the stack at the end of the apply; empty if the plan did not know it.
	Stack string `json:"stack,omitempty"`
	// Assessment is what the agent answered; nil if it was not asked. The cache has it, too, on the
	// machine of the plan.
	Assessment *assessment `json:"assessment,omitempty"`
}

// noteOf is what a plan says.
func (m *vmModel) noteOf(ctx context.Context, asked *assessment) (vmNote, diag.Diagnostics) {
	running, diags := m.running(ctx)
	note := vmNote{Assessment: asked}
	if running != nil {
		note.Stack = running.text()
	}
	return note, diags
}

// errOtherEnd means that the apply would leave a VM with another stack than its plan said.
var errOtherEnd = errors.New("this is not what the plan said")

// sameEnd fails if the stack is not the one of the plan that is being applied; nil while planning.
func (p *vmNote) sameEnd(ctx context.Context, plan *vmModel) diag.Diagnostics {
	if p == nil || p.Stack == "" {
		return nil
	}
	now, diags := plan.noteOf(ctx, nil)
	if diags.HasError() || now.Stack == p.Stack {
		return diags
	}
	text := "that cannot be determined any more: a release is gone from the pool, or the VM is not what it was"
	if now.Stack != "" {
		text = "it would run " + now.Stack
	}
	return failedAt(path.Root("base"), failure{
		do: "apply the plan of", object: vmName(plan.Name.ValueString()),
		err: fmt.Errorf("%w: the VM was to run %s, and now %s", errOtherEnd, p.Stack, text), next: planAgain,
	})
}

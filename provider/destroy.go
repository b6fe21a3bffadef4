package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// Before Terraform destroys, it plans an ordinary apply to bring the state up to date, and throws
// that plan away except for the state (terraform.Context.destroyPlan). The protocol does not tell
// the two plans apart. An ordinary plan is refused for reasons that are none for a destroy: a change
// whose impact is larger than max_impact, a source that cannot be read, a manifest that is gone. So
// the provider looks at the command line of the Terraform that has started it (invocation).

// forDestroy is the server of a provider whose Terraform plans to destroy. Existing resources are not planned
// at all, and what cannot be read stays in state as it is. The deletions themselves are served as ever.
type forDestroy struct{ tfprotov6.ProviderServer }

// ReadResource implements tfprotov6.ResourceServer.
func (s forDestroy) ReadResource(ctx context.Context,
	request *tfprotov6.ReadResourceRequest) (*tfprotov6.ReadResourceResponse, error) {
	response, err := s.ProviderServer.ReadResource(ctx, request)
	if err == nil && demote(response.Diagnostics) {
		response.NewState, response.Private, response.NewIdentity = request.CurrentState,
			request.Private, request.CurrentIdentity
	}
	return response, err
}

// PlanResourceChange implements tfprotov6.ResourceServer.
func (s forDestroy) PlanResourceChange(ctx context.Context,
	request *tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	for _, state := range []*tfprotov6.DynamicValue{request.PriorState, request.ProposedNewState} {
		null, err := state.IsNull()
		if err != nil {
			return nil, fmt.Errorf("plan %s: %w", request.TypeName, err)
		}
		if !null {
			continue
		}
		response, err := s.ProviderServer.PlanResourceChange(ctx, request)
		if err == nil && demote(response.Diagnostics) {
			response.PlannedState = request.ProposedNewState // it does not exist, and is not created
		}
		return response, err
	}
	return &tfprotov6.PlanResourceChangeResponse{PlannedState: request.PriorState, PlannedPrivate: request.PriorPrivate,
		PlannedIdentity: request.PriorIdentity}, nil
}

// demote makes warnings of errors, and reports whether there were any. That a VM is protected from
// being destroyed stays an error.
func demote(diagnostics []*tfprotov6.Diagnostic) bool {
	protected := tftypes.NewAttributePath().WithAttributeName(protection)
	found := false
	for _, d := range diagnostics {
		if d.Severity == tfprotov6.DiagnosticSeverityError && (d.Attribute == nil || !d.Attribute.Equal(protected)) {
			d.Severity, found = tfprotov6.DiagnosticSeverityWarning, true
		}
	}
	return found
}

// destroys reports whether a command line of Terraform or OpenTofu destroys: "terraform destroy", and
// plan and apply with -destroy, in the arguments or in the variables that Terraform adds to them.
func destroys(line []string, getenv func(string) string) bool {
	command, _ := commandOf(line, getenv)
	return command == "destroy" || option(line, getenv, "destroy", "", "true", "1")
}

// option reports whether plan or apply has an option with one of these values; "" stands for an option without a value.
func option(line []string, getenv func(string) string, name string, values ...string) bool {
	command, options := commandOf(line, getenv)
	return (command == "plan" || command == "apply") && slices.ContainsFunc(options, func(o string) bool {
		found, value, _ := strings.Cut(strings.TrimLeft(o, "-"), "=")
		return strings.HasPrefix(o, "-") && found == name && slices.Contains(values, value)
	})
}

// commandOf returns the command of a command line, and what follows it there or in the variables that Terraform adds;
// "" if it has none.
func commandOf(line []string, getenv func(string) string) (command string, options []string) {
	if len(line) == 0 {
		return "", nil
	}
	arguments := slices.Concat(line[1:], strings.Fields(getenv("TF_CLI_ARGS")))
	at := slices.IndexFunc(arguments, func(a string) bool { return a != "" && !strings.HasPrefix(a, "-") })
	if at < 0 {
		return "", nil
	}
	return arguments[at], slices.Concat(arguments[at+1:], strings.Fields(getenv("TF_CLI_ARGS_"+arguments[at])))
}

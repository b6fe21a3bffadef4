package provider

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

func TestACommandLineThatDestroysIsRecognised(t *testing.T) {
	for line, want := range map[string]bool{
		"terraform destroy":                       true,
		"/usr/bin/tofu -chdir=prod destroy -auto": true,
		"terraform plan -destroy -out=x":          true,
		"terraform apply --destroy":               true,
		"terraform apply -destroy=true":           true,
		"terraform apply -destroy=false":          false,
		"terraform apply":                         false,
		"terraform plan -out=destroy":             false,
		"terraform plan -target=destroy":          false,
		"terraform import sharedos_vm.a destroy":  false,
		"terraform":                               false,
		"":                                        false,
	} {
		if got := destroys(strings.Fields(line), func(string) string { return "" }); got != want {
			t.Errorf("%q destroys: %v", line, got)
		}
	}
	if !destroys([]string{"terraform", "plan"},
		func(name string) string { return map[string]string{"TF_CLI_ARGS_plan": "-lock=false -destroy"}[name] }) {
		t.Error("the variable of the environment was not read")
	}
}

// refusing refuses to read and to plan.
type refusing struct{ tfprotov6.ProviderServer }

func refusal() []*tfprotov6.Diagnostic {
	return []*tfprotov6.Diagnostic{{Severity: tfprotov6.DiagnosticSeverityError, Summary: "refused"}}
}

func (refusing) ReadResource(context.Context, *tfprotov6.ReadResourceRequest) (*tfprotov6.ReadResourceResponse, error) {
	return &tfprotov6.ReadResourceResponse{Diagnostics: refusal()}, nil
}

func (refusing) PlanResourceChange(context.Context,
	*tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	return &tfprotov6.PlanResourceChangeResponse{Diagnostics: refusal()}, nil
}

func TestNothingThatRefusesAChangeRefusesADestroy(t *testing.T) {
	value := func(v any) *tfprotov6.DynamicValue {
		made, err := tfprotov6.NewDynamicValue(tftypes.String, tftypes.NewValue(tftypes.String, v))
		if err != nil {
			t.Fatal(err)
		}
		return &made
	}
	is := func(got, want *tfprotov6.DynamicValue) bool {
		return got != nil && string(got.MsgPack) == string(want.MsgPack)
	}
	prior, wanted, null := value("prior"), value("wanted"), value(nil)
	server := forDestroy{refusing{}}

	read, err := server.ReadResource(t.Context(),
		&tfprotov6.ReadResourceRequest{CurrentState: prior, Private: []byte("p")})
	if err != nil || !is(read.NewState, prior) || string(read.Private) != "p" ||
		read.Diagnostics[0].Severity != tfprotov6.DiagnosticSeverityWarning {
		t.Errorf("read %+v, %v", read, err)
	}
	for name, test := range map[string]struct{ prior, proposed, want *tfprotov6.DynamicValue }{
		"a change": {prior, wanted, prior}, "a resource that does not exist": {null, wanted, wanted}, "the deletion": {prior, null, null},
	} {
		planned, err := server.PlanResourceChange(t.Context(),
			&tfprotov6.PlanResourceChangeRequest{PriorState: test.prior, ProposedNewState: test.proposed})
		if err != nil || !is(planned.PlannedState, test.want) {
			t.Errorf("%s: planned %+v, %v", name, planned, err)
		}
		for _, d := range planned.Diagnostics {
			if d.Severity == tfprotov6.DiagnosticSeverityError {
				t.Errorf("%s: refused", name)
			}
		}
	}
}

package provider

import (
	"context"
	"testing"
	"unicode/utf8"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// maxState is a limit in bytes on what the answers of a guest may add to the state of its VM.
const maxState = 16 << 20

// FuzzAnswers checks that every answer of an agent can be stored in state, bounded and printable.
func FuzzAnswers(f *testing.F) {
	stack := &agentapi.Stack{Base: tree.Digest{1}.String(), Kernel: "6.12",
		Layers: []*agentapi.Layer{{Id: tree.Digest{2}.String(), DataSize: 4096}}}
	impact := &agentapi.Impact{Level: agentapi.Level_RESTART,
		Units: []*agentapi.UnitImpact{{Unit: "a.service", Paths: []string{"/usr/x"}}}, Reasons: []string{"\x1b[2J"}}
	for _, status := range []*agentapi.StatusResponse{
		{},
		{AgentVersion: "1", Stack: stack, Pending: []string{"kernel"}, ReadySeconds: 1, AgentDigest: "sha256:", AgentRefused: "\u202e\x00"},
		{Stack: stack, Last: &agentapi.Report{From: stack, To: stack, Impact: impact, Timings: []*agentapi.Timing{{Step: "swap", Micros: -1}}}},
		{Stack: stack, Last: &agentapi.Report{Impact: &agentapi.Impact{Level: 77}, Restarts: []*agentapi.UnitRestart{{}, {InterruptionUs: 1 << 62}}}},
	} {
		data, err := proto.Marshal(status)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var status agentapi.StatusResponse
		if proto.Unmarshal(data, &status) != nil {
			return
		}
		found := &vm.VM{
			Spec: vm.Spec{Name: "web", UUID: "6ba7b810-9dad-41d1-80b4-00c04fd430c8"}, State: hypervisor.Running,
			Answered: true, Agent: &status,
			Stack:   release.Stack{Base: tree.Digest{1}},
			Surplus: []vm.SurplusLayer{{ID: tree.Digest{3}, InUseBy: status.GetPending()}},
		}
		if parsed, err := agentapi.ParseStack(status.GetStack()); err == nil {
			found.Stack = parsed
		}
		ctx := context.Background()
		model := vmModel{}
		model.Stack, model.Agent, model.HeldLayers = types.ObjectNull(stackTypes), types.ObjectNull(agentTypes),
			types.ListNull(heldLayerType)
		diags := model.observe(ctx, found)
		if status.GetLast() != nil {
			diags.Append(model.fromReport(ctx, status.GetLast(), 0)...)
			diags.Append(model.fromImpact(ctx, status.GetLast().GetImpact())...)
			tooLarge("web", status.GetLast().GetImpact(), "restart")
		}
		if diags.HasError() {
			t.Errorf("state does not take it: %v", diags)
		}
		size := 0
		for _, value := range []attr.Value{model.Stack, model.Agent, model.Impact, model.LastRefresh,
			model.Pending, model.HeldLayers} {
			text := value.String()
			size += len(text)
			if !utf8.ValidString(text) {
				t.Errorf("not fit for state: %q", text)
			}
		}
		if size > maxState {
			t.Errorf("%d bytes of state for an answer of %d", size, len(data))
		}
	})
}

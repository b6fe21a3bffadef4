package provider_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/sharedos/terraform-provider-sharedos/provider"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

func TestTheServerReleasesTheContextOfAnAnsweredCall(t *testing.T) {
	world, err := providertest.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sharedos := provider.New("test", world.Open)
	t.Cleanup(func() {
		if err := sharedos.Close(); err != nil {
			t.Error(err)
		}
	})
	server := provider.NewServer(sharedos)
	calls := map[string]func(context.Context) error{
		"ValidateResourceConfig": func(ctx context.Context) error {
			_, err := server.ValidateResourceConfig(ctx,
				&tfprotov6.ValidateResourceConfigRequest{TypeName: "sharedos_vm", Config: nothing(t)})
			return err
		},
		"UpgradeResourceState": func(ctx context.Context) error {
			_, err := server.UpgradeResourceState(ctx, &tfprotov6.UpgradeResourceStateRequest{
				TypeName: "sharedos_vm", RawState: &tfprotov6.RawState{JSON: []byte("{}")},
			})
			return err
		},
		"ReadResource": func(ctx context.Context) error {
			_, err := server.ReadResource(ctx,
				&tfprotov6.ReadResourceRequest{TypeName: "sharedos_vm", CurrentState: nothing(t)})
			return err
		},
		"PlanResourceChange": func(ctx context.Context) error {
			_, err := server.PlanResourceChange(ctx, &tfprotov6.PlanResourceChangeRequest{
				TypeName: "sharedos_vm", PriorState: nothing(t), ProposedNewState: nothing(t), Config: nothing(t),
			})
			return err
		},
		"ApplyResourceChange": func(ctx context.Context) error {
			_, err := server.ApplyResourceChange(ctx, &tfprotov6.ApplyResourceChangeRequest{
				TypeName: "sharedos_vm", PriorState: nothing(t), PlannedState: nothing(t), Config: nothing(t),
			})
			return err
		},
		"ImportResourceState": func(ctx context.Context) error {
			_, err := server.ImportResourceState(ctx,
				&tfprotov6.ImportResourceStateRequest{TypeName: "sharedos_vm", ID: "web"})
			return err
		},
		"ValidateDataResourceConfig": func(ctx context.Context) error {
			_, err := server.ValidateDataResourceConfig(ctx,
				&tfprotov6.ValidateDataResourceConfigRequest{TypeName: "sharedos_base", Config: nothing(t)})
			return err
		},
		"ReadDataSource": func(ctx context.Context) error {
			_, err := server.ReadDataSource(ctx,
				&tfprotov6.ReadDataSourceRequest{TypeName: "sharedos_base", Config: nothing(t)})
			return err
		},
		"CallFunction": func(ctx context.Context) error {
			_, err := server.CallFunction(ctx,
				&tfprotov6.CallFunctionRequest{Name: "parse_size", Arguments: []*tfprotov6.DynamicValue{nothing(t)}})
			return err
		},
		"ValidateEphemeralResourceConfig": func(ctx context.Context) error {
			_, err := server.ValidateEphemeralResourceConfig(ctx,
				&tfprotov6.ValidateEphemeralResourceConfigRequest{TypeName: "sharedos_ssh", Config: nothing(t)})
			return err
		},
		"OpenEphemeralResource": func(ctx context.Context) error {
			_, err := server.OpenEphemeralResource(ctx,
				&tfprotov6.OpenEphemeralResourceRequest{TypeName: "sharedos_ssh", Config: nothing(t)})
			return err
		},
		"ListResource": func(ctx context.Context) error {
			stream, err := server.(tfprotov6.ListResourceServer).ListResource(ctx,
				&tfprotov6.ListResourceRequest{TypeName: "sharedos_base", Config: nothing(t)})
			if err == nil {
				stream.Results(func(tfprotov6.ListResourceResult) bool { return true })
			}
			return err
		},
		"PlanAction": func(ctx context.Context) error {
			_, err := server.(tfprotov6.ActionServer).PlanAction(ctx,
				&tfprotov6.PlanActionRequest{ActionType: "sharedos_reboot", Config: nothing(t)})
			return err
		},
		"InvokeAction": func(ctx context.Context) error {
			stream, err := server.(tfprotov6.ActionServer).InvokeAction(ctx,
				&tfprotov6.InvokeActionRequest{ActionType: "sharedos_reboot", Config: nothing(t)})
			if err == nil {
				stream.Events(func(tfprotov6.InvokeActionEvent) bool { return true })
			}
			return err
		},
	}
	for name, serve := range calls {
		gone := make(chan struct{})
		if err := served(t.Context(), gone, serve); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !collected(gone) {
			t.Errorf("%s: the server holds the context of the call", name)
		}
	}
	runtime.KeepAlive(server)
}

// nothing is a null value of any type.
func nothing(t *testing.T) *tfprotov6.DynamicValue {
	t.Helper()
	value, err := tfprotov6.NewDynamicValue(tftypes.DynamicPseudoType, tftypes.NewValue(tftypes.DynamicPseudoType, nil))
	if err != nil {
		t.Fatal(err)
	}
	return &value
}

type contextKey struct{}

// served makes a call whose context has a value, and ends that context, as a server of gRPC does when a call was
// answered; gone is closed when nothing refers to the value any more.
func served(ctx context.Context, gone chan struct{}, call func(context.Context) error) error {
	value := new([1 << 16]byte)
	runtime.AddCleanup(value, func(gone chan struct{}) { close(gone) }, gone)
	ctx, cancel := context.WithCancel(context.WithValue(ctx, contextKey{}, value))
	defer cancel()
	return call(ctx)
}

// collected reports whether a value is garbage-collected within some collections.
func collected(gone chan struct{}) bool {
	for range 20 {
		runtime.GC()
		select {
		case <-gone:
			return true
		case <-time.After(50 * time.Millisecond):
		}
	}
	return false
}

package vm

import (
	"context"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// SurplusLayer is a layer that a VM has attached although neither the stack that it runs nor its definition has it.
type SurplusLayer struct {
	ID tree.Digest
	// InUseBy describes what in the guest still uses the layer. It is empty if the layer can be detached.
	InUseBy []string
}

// surplusLayers asks the agent which surplus layers are still in use. Nothing is changed.
func (f *Fleet) surplusLayers(ctx context.Context, agent *transport.Agent, domain hypervisor.Domain,
	status *agentapi.StatusResponse) ([]SurplusLayer, error) {
	surplus, err := f.surplus(ctx, domain, status)
	if err != nil || len(surplus) == 0 {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	answer, err := agent.ReleaseLayers(ctx, &agentapi.ReleaseLayersRequest{Ids: surplus, AskOnly: true})
	if err != nil {
		return nil, fmt.Errorf("ask which layers are in use: %w", err)
	}
	var found []SurplusLayer
	add := func(text string, by []string) error {
		if !slices.Contains(surplus, text) {
			return nil // a guest's answer is untrusted
		}
		id, err := parseLayer(text)
		found = append(found, SurplusLayer{ID: id, InUseBy: by})
		return err
	}
	for _, one := range answer.GetHeld() {
		if err := add(one.GetId(), one.GetBy()); err != nil {
			return nil, err
		}
	}
	for _, text := range answer.GetFree() {
		if err := add(text, nil); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(found, func(a, b SurplusLayer) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return found, nil
}

// surplus lists the layers that are attached and that neither the definition nor the running stack has.
func (f *Fleet) surplus(ctx context.Context, domain hypervisor.Domain,
	status *agentapi.StatusResponse) ([]string, error) {
	running, err := agentapi.ParseStack(status.GetStack())
	if err != nil {
		return nil, fmt.Errorf("its agent names a stack that is none: %w", err)
	}
	needed := map[tree.Digest]bool{}
	for _, layer := range slices.Concat(domain.Metadata.Stack.Layers, running.Layers) {
		needed[layer.ID] = true
	}
	for _, id := range domain.Metadata.Offer.LayerIDs() {
		needed[id] = true
	}
	// The guest finds a disk only by the stacks that it knows, and it forgets earlier stacks when it boots.
	plugged, err := f.Hypervisor.AttachedLayers(ctx, domain.Name)
	if err != nil {
		return nil, err
	}
	var surplus []string
	for _, id := range plugged {
		if !needed[id] {
			surplus = append(surplus, id.String())
		}
	}
	return surplus, nil
}

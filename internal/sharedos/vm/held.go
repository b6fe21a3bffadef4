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

// Held is a layer that a VM has attached although neither its stack nor its definition needs it.
type Held struct {
	ID tree.Digest
	// By tells in words who still uses it; nobody if it can be unplugged.
	By []string
}

// held asks which of the layers that are attached in vain are held, and by whom. Nothing is changed.
func (f *Fleet) held(ctx context.Context, agent *transport.Agent, domain hypervisor.Domain, status *agentapi.StatusResponse) ([]Held, error) {
	surplus, err := f.surplus(ctx, domain, status)
	if err != nil || len(surplus) == 0 {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	answer, err := agent.ReleaseLayers(ctx, &agentapi.ReleaseLayersRequest{Ids: surplus, AskOnly: true})
	if err != nil {
		return nil, fmt.Errorf("ask who holds layers: %w", err)
	}
	var found []Held
	add := func(text string, by []string) error {
		if !slices.Contains(surplus, text) {
			return nil // a guest's answer is untrusted
		}
		id, err := parseLayer(text)
		found = append(found, Held{ID: id, By: by})
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
	slices.SortFunc(found, func(a, b Held) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return found, nil
}

// surplus lists the layers that are attached, and needed neither by the definition nor by what the guest runs.
func (f *Fleet) surplus(ctx context.Context, domain hypervisor.Domain, status *agentapi.StatusResponse) ([]string, error) {
	running, err := agentapi.ParseStack(status.GetStack())
	if err != nil {
		return nil, fmt.Errorf("its agent names a stack that is none: %w", err)
	}
	needed := map[tree.Digest]bool{}
	for _, layer := range slices.Concat(domain.Metadata.Stack.Layers, running.Layers) {
		needed[layer.ID] = true
	}
	// The guest knows a disk by its stacks only, of which it forgets the earlier ones when it boots.
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

package agentapi

import (
	"errors"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrStack means that a message names a stack that cannot be one. A guest's answer is untrusted.
var ErrStack = errors.New("not a stack")

// NewStack puts a stack into a message.
func NewStack(stack release.Stack) *Stack {
	message := &Stack{Base: stack.Base.String(), Kernel: stack.Kernel}
	if !stack.ID.IsZero() {
		message.Id = stack.ID.String()
	}
	for _, id := range stack.Components {
		message.Components = append(message.Components, id.String())
	}
	for _, id := range stack.Offered {
		message.Offered = append(message.Offered, id.String())
	}
	for _, one := range stack.Prefer {
		message.Prefer = append(message.Prefer, &Preference{Path: one.Path, Component: one.Component})
	}
	for _, layer := range stack.Layers {
		message.Layers = append(message.Layers, &Layer{Id: layer.ID.String(), DataSize: layer.DataSize})
	}
	return message
}

// ParseStack reads a stack from a message. Sizes of layers with their hash trees are not in it. It returns
// ErrStack for what cannot be one.
func ParseStack(message *Stack) (release.Stack, error) {
	layers, components, offered := message.GetLayers(), message.GetComponents(), message.GetOffered()
	if len(layers) == 0 || len(layers) > release.MaxStackLayers || len(components) > release.MaxComponents ||
		len(offered) > release.MaxOnDemand {
		return release.Stack{},
			fmt.Errorf("%w: %d layers, %d components, %d on demand", ErrStack, len(layers),
				len(components), len(offered))
	}
	base, err := tree.ParseDigest(message.GetBase())
	if err != nil {
		return release.Stack{}, fmt.Errorf("%w: base: %w", ErrStack, err)
	}
	stack := release.Stack{Base: base, Kernel: message.GetKernel()}
	if text := message.GetId(); text != "" {
		if stack.ID, err = tree.ParseDigest(text); err != nil {
			return release.Stack{}, fmt.Errorf("%w: %w", ErrStack, err)
		}
		if stack.ID.IsZero() {
			return release.Stack{}, fmt.Errorf("%w: its id is zero", ErrStack)
		}
	}
	if stack.Components, err = componentsOf(components); err != nil {
		return release.Stack{}, err
	}
	if stack.Offered, err = componentsOf(offered); err != nil {
		return release.Stack{}, err
	}
	for _, one := range message.GetPrefer() {
		stack.Prefer = append(stack.Prefer, release.Preference{Path: one.GetPath(), Component: one.GetComponent()})
	}
	if err := release.CheckPreferences(stack.Prefer); err != nil {
		return release.Stack{}, fmt.Errorf("%w: %w", ErrStack, err)
	}
	for _, layer := range layers {
		id, err := tree.ParseDigest(layer.GetId())
		if err != nil {
			return release.Stack{}, fmt.Errorf("%w: layer: %w", ErrStack, err)
		}
		stack.Layers = append(stack.Layers, release.Layer{ID: id, DataSize: layer.GetDataSize()})
	}
	return stack, nil
}

func componentsOf(texts []string) (ids []tree.Digest, _ error) {
	for _, text := range texts {
		id, err := tree.ParseDigest(text)
		if err != nil {
			return nil, fmt.Errorf("%w: component: %w", ErrStack, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// partSize is how much of a blob one message carries.
const partSize = 1 << 20

// Swing makes the agent refresh to a release of the same base, a later or an earlier one, without the fleet. So two
// releases are enough for any number of refreshes. The VM's definition does not change.
func (v *VM) Swing(ctx context.Context, to tree.Digest) (_ *agentapi.Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, lifeLimit)
	defer cancel()
	agent, err := v.Agent(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, agent.Close()) }()
	before, err := agent.Status(ctx, &agentapi.StatusRequest{})
	if err != nil {
		return nil, err
	}
	from, err := tree.ParseDigest(before.GetStack().GetBase())
	if err != nil {
		return nil, err
	}
	target := &agentapi.Target{}
	for _, side := range []struct {
		id   tree.Digest
		note *[]byte
	}{{to, &target.To}, {from, &target.From}} {
		if *side.note, err = v.send(ctx, agent, side.id); err != nil {
			return nil, fmt.Errorf("send release %s: %w", side.id, err)
		}
	}
	answer, err := agent.Refresh(ctx,
		&agentapi.RefreshRequest{Target: target, AllowDowngrade: true, MaxImpact: agentapi.Level_RESTART})
	if err == nil && !answer.GetStarted() {
		err = fmt.Errorf("release %s runs already", to)
	}
	if err != nil {
		return nil, err
	}
	question := &agentapi.StatusRequest{Event: agentapi.Event_PROGRESS, WaitMs: (askLimit / 2).Milliseconds()}
	for {
		now, err := agent.Status(ctx, question)
		if err != nil {
			return nil, err
		}
		if now.GetLast().GetDone() {
			return now.GetLast(), nil
		}
		question.Seen = now.GetState()
	}
}

// send attaches the layers of a release and sends its contents list. It returns the signed manifest of its stack.
func (v *VM) send(ctx context.Context, agent *transport.Agent, id tree.Digest) ([]byte, error) {
	note, manifest, err := Stack(ctx, v.World.Host.Publisher, v.World.Operator, id)
	if err != nil {
		return nil, err
	}
	for _, layer := range manifest.Layers {
		path, err := v.World.Host.Store.LayerPath(ctx, layer.ID)
		if err != nil {
			return nil, err
		}
		if err := v.World.Host.Fleet.Hypervisor.AttachLayer(ctx, v.Spec.Name,
			hypervisor.LayerDevice{ID: layer.ID, Path: path}); err != nil {
			return nil, err
		}
	}
	data, err := v.World.Host.Store.GetBlob(ctx, manifest.Contents)
	if err != nil {
		return nil, err
	}
	for parts, offset := bytes.NewReader(data), int64(0); parts.Len() > 0; {
		part := make([]byte, min(parts.Len(), partSize))
		if _, err := parts.Read(part); err != nil {
			return nil, err
		}
		_, err := agent.Put(ctx,
			&agentapi.PutRequest{Digest: manifest.Contents.Digest.String(), Offset: offset,
				Size: int64(len(data)), Data: part})
		if err != nil {
			return nil, err
		}
		offset += int64(len(part))
	}
	return note, nil
}

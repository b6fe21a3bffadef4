package service

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// errReplace means that an agent may not take over in this VM.
var errReplace = errors.New("the agent may not take over")

// replacer accepts another agent and lets it take over.
type replacer struct {
	// own returns the digest of this agent.
	own func() (tree.Digest, error)
	// guest is this VM's agent key, operators are the keys that may sign a takeover.
	guest     ed25519.PublicKey
	operators []ed25519.PublicKey
	places    takeoverPlaces
	// yield keeps refreshes from starting until stay is called. It returns refresh.ErrBusy while one is in flight.
	yield func() (stay func(), err error)
	// leave ends serving, so that the successor can serve.
	leave func()
}

// Replace implements agentapi.AgentService.
func (a *answerer) Replace(_ context.Context, request *agentapi.ReplaceRequest) (*agentapi.ReplaceResponse, error) {
	started, err := a.replace(request.GetNote())
	if err != nil {
		return nil, failure(fmt.Errorf("replace the agent: %w", err))
	}
	return &agentapi.ReplaceResponse{Started: started}, nil
}

func (a *answerer) replace(signed []byte) (started bool, err error) {
	r := a.replacer
	next, err := release.OpenTakeover(signed, r.operators)
	if err != nil {
		return false, err
	}
	own, err := r.own()
	if err != nil {
		return false, err
	}
	switch {
	case !r.guest.Equal(next.Guest):
		return false, fmt.Errorf("%w: it is meant for another VM", errReplace)
	case next.To == own:
		return false, nil
	case next.From != own:
		return false, fmt.Errorf("%w: it was signed to replace agent %s, and %s runs", errReplace, next.From, own)
	}
	stay, err := r.yield()
	if err != nil {
		return false, err
	}
	if err := r.take(a.blobs, next); err != nil {
		stay()
		return false, err
	}
	r.leave()
	return true, nil
}

// take moves the binary next to this agent's own, and records that it is being tried.
func (r *replacer) take(from *blobs, next release.Takeover) error {
	if err := os.MkdirAll(filepath.Dir(r.places.next), 0o755); err != nil {
		return err
	}
	size, err := from.take(next.To, r.places.next)
	if err != nil {
		return err
	}
	if size != next.Size {
		return errors.Join(fmt.Errorf("%w: it has %d bytes, and %d were signed", errReplace, size, next.Size),
			os.Remove(r.places.next))
	}
	if err := errors.Join(os.Chmod(r.places.next, 0o755), from.Drop()); err != nil {
		return errors.Join(err, fileio.Remove(r.places.next))
	}
	return r.places.save(takeoverRecord{To: next.To})
}

package vm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// replaceLimit bounds a takeover. An agent that does not come up is ended after a minute and a half.
const replaceLimit = 4 * time.Minute

// ErrAgent means that this program's agent could not take over in a VM. The agent there continues to serve.
var ErrAgent = errors.New("the agent in the VM was not replaced by this provider's")

// replaceAgent replaces the agent in a running VM by this program's, if it is another one. It does nothing if the agent
// does not report its digest, is busy with a refresh, or does not answer: the steps that follow report that.
func (f *Fleet) replaceAgent(ctx context.Context, domain hypervisor.Domain, progress Progress) error {
	status, err := f.status(ctx, domain)
	if err != nil || status.GetAgentDigest() == "" || inFlight(status) {
		return nil //nolint:nilerr // the refresh asks the agent, too, and reports the error
	}
	binary, err := f.AgentBinary()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAgent, err)
	}
	own := tree.Sum(binary)
	switch {
	case status.GetAgentDigest() == own.String():
		return nil
	case refuses(status, own):
		return fmt.Errorf("%w; the next start of the VM brings it:%s", ErrAgent, plain.Guest(status.GetAgentRefused()))
	}
	progress("replacing the agent")
	if err := f.sendAgent(ctx, domain, status, binary); err != nil {
		return fmt.Errorf("%w: %w", ErrAgent, err)
	}
	ctx, cancel := context.WithTimeout(ctx, replaceLimit)
	defer cancel()
	status, err = f.await(ctx, domain.Name, "waiting for the new agent", progress, askNow,
		func(s *agentapi.StatusResponse) bool {
			return s.GetAgentDigest() == own.String() || refuses(s, own)
		})
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrAgent, err)
	case status.GetAgentDigest() != own.String():
		return fmt.Errorf("%w:%s", ErrAgent, plain.Guest(status.GetAgentRefused()))
	}
	return nil
}

// refuses reports whether an agent says that the one of a digest did not take over from it.
func refuses(status *agentapi.StatusResponse, digest tree.Digest) bool {
	refused := status.GetRefusedAgentDigest()
	if status.GetProtocol() < agentapi.Protocol {
		// An agent of protocol 1 has no field for the digest: it writes "agent <digest>: <why>".
		refused, _, _ = strings.Cut(strings.TrimPrefix(status.GetAgentRefused(), "agent "), ": ")
	}
	return refused == digest.String()
}

// otherAgent says why the agent that answers is not this program's; "" if it is, or if it does not report its digest.
func (f *Fleet) otherAgent(status *agentapi.StatusResponse) string {
	binary, err := f.AgentBinary()
	if err != nil || status.GetAgentDigest() == "" {
		return "" // Create reports that there is none
	}
	switch own := tree.Sum(binary); {
	case status.GetAgentDigest() == own.String():
		return ""
	case refuses(status, own):
		return status.GetAgentRefused()
	default:
		return fmt.Sprintf("agent %s serves on, as %s was not sent or has not been tried", status.GetAgentDigest(), own)
	}
}

// sendAgent uploads a binary and has it take over from the agent that answered.
func (f *Fleet) sendAgent(ctx context.Context, domain hypervisor.Domain, status *agentapi.StatusResponse,
	binary []byte) (err error) {
	from, err := tree.ParseDigest(status.GetAgentDigest())
	if err != nil {
		return fmt.Errorf("its agent names a digest that is none: %w", err)
	}
	agent, err := f.connectAndPin(ctx, domain)
	if err != nil {
		return err
	}
	defer func() { _ = agent.Close() }() // the agent closes the connection, too
	blob := release.Blob{Digest: tree.Sum(binary), Size: int64(len(binary))}
	note, err := release.SignTakeover(release.Takeover{Guest: agent.Key, From: from, To: blob.Digest, Size: blob.Size},
		f.Key)
	if err != nil {
		return err
	}
	if err := put(ctx, agent, blob, binary); err != nil {
		return fmt.Errorf("upload the agent: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err = agent.Replace(ctx, &agentapi.ReplaceRequest{Note: note})
	return err
}

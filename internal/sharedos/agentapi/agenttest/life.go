package agenttest

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// GrowDisk implements agentapi.AgentService.
func (a *Agent) GrowDisk(_ context.Context, request *agentapi.GrowDiskRequest) (*agentapi.GrowDiskResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if request.GetSize() > a.diskSize {
		return nil, status.Errorf(codes.FailedPrecondition, "the disk has %d bytes, not %d",
			a.diskSize, request.GetSize())
	}
	answer := &agentapi.GrowDiskResponse{BeforeBytes: a.fileSystem, AfterBytes: a.diskSize}
	a.fileSystem = a.diskSize
	return answer, nil
}

// Identify implements agentapi.AgentService.
func (a *Agent) Identify(_ context.Context, request *agentapi.IdentifyRequest) (*agentapi.IdentifyResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.old() {
		return nil, status.Error(codes.Unimplemented, "this agent has no Identify")
	}
	a.identified = append(a.identified, request)
	return &agentapi.IdentifyResponse{}, nil
}

// Identified returns the identities that the agent was given while its VM ran.
func (a *Agent) Identified() []*agentapi.IdentifyRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.identified)
}

// SetDisks implements agentapi.AgentService. It changes nothing while something uses a disk that is
// to be released (UseDisk).
func (a *Agent) SetDisks(_ context.Context, request *agentapi.SetDisksRequest) (*agentapi.SetDisksResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.old() {
		return nil, status.Error(codes.Unimplemented, "this agent has no SetDisks")
	}
	answer := &agentapi.SetDisksResponse{}
	for _, serial := range request.GetRelease() {
		if by := a.diskUsers[serial]; len(by) > 0 {
			answer.Held = append(answer.Held, &agentapi.HeldDisk{Serial: serial, By: by})
		}
	}
	if len(answer.GetHeld()) == 0 {
		a.disksSet = append(a.disksSet, request)
	}
	return answer, nil
}

// DisksSet returns the requests about further disks that the agent got while its VM ran.
func (a *Agent) DisksSet() []*agentapi.SetDisksRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.disksSet)
}

// UseDisk has programs use the disk with a serial.
func (a *Agent) UseDisk(serial string, by ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.diskUsers == nil {
		a.diskUsers = map[string][]string{}
	}
	a.diskUsers[serial] = by
}

// Check implements agentapi.AgentService.
func (a *Agent) Check(_ context.Context, request *agentapi.CheckRequest) (*agentapi.CheckResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.old():
		return nil, status.Error(codes.Unimplemented, "this agent has no Check")
	case a.Failing != nil:
		return &agentapi.CheckResponse{Failed: a.Failing(request.GetHealthChecks())}, nil
	}
	answer := &agentapi.CheckResponse{}
	for _, check := range request.GetHealthChecks() {
		if why := a.unhealthy[check.GetName()]; why != "" {
			answer.Failed = append(answer.Failed, &agentapi.FailedCheck{Name: check.GetName(), Reason: why})
		}
	}
	return answer, nil
}

// Resources implements agentapi.AgentService. Without a.Has, the kernel has the processors that it
// is asked for, and much memory.
func (a *Agent) Resources(_ context.Context, request *agentapi.ResourcesRequest) (*agentapi.ResourcesResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.old():
		return nil, status.Error(codes.Unimplemented, "this agent has no Resources")
	case a.Has != nil:
		return a.Has(request), nil
	}
	return &agentapi.ResourcesResponse{Processors: request.GetProcessors(), Memory: 1 << 40, MemoryAvailable: 1 << 40},
		nil
}

// SetUnhealthy makes a health check fail from now on; an empty reason makes it good.
func (a *Agent) SetUnhealthy(check, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unhealthy == nil {
		a.unhealthy = map[string]string{}
	}
	a.unhealthy[check] = why
}

// Replace implements agentapi.AgentService. The connection stays open.
func (a *Agent) Replace(_ context.Context, request *agentapi.ReplaceRequest) (*agentapi.ReplaceResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.Binary == nil {
		return nil, status.Error(codes.Unimplemented, "this agent does not let another one take over")
	}
	next, err := release.OpenTakeover(request.GetNote(), a.operators)
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	own := tree.Sum(a.Binary)
	binary := a.blobs[next.To.String()]
	switch {
	case !next.Guest.Equal(a.key.Public()):
		return nil, status.Error(codes.FailedPrecondition, "it is meant for another VM")
	case next.To == own:
		return &agentapi.ReplaceResponse{}, nil
	case next.From != own:
		return nil, status.Errorf(codes.FailedPrecondition, "it replaces %s, and %s runs", next.From, own)
	case a.inFlight != nil:
		return nil, status.Error(codes.FailedPrecondition, "a refresh is in flight")
	case tree.Sum(binary) != next.To || int64(len(binary)) != next.Size:
		return nil, status.Error(codes.FailedPrecondition, "the agent was not put")
	}
	delete(a.blobs, next.To.String())
	if a.RefuseAgent != "" {
		a.refused, a.refusedDigest = fmt.Sprintf("agent %s: %s", next.To, a.RefuseAgent), next.To.String()
	} else {
		a.Binary, a.refused, a.refusedDigest = binary, "", ""
	}
	return &agentapi.ReplaceResponse{Started: true}, nil
}

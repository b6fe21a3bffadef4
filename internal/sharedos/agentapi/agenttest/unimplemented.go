package agenttest

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// GrowDisk implements agentapi.AgentService.
func (a *Agent) GrowDisk(context.Context, *agentapi.GrowDiskRequest) (*agentapi.GrowDiskResponse, error) {
	return nil, status.Error(codes.Unimplemented, "this agent does not grow the private disk")
}

// Replace implements agentapi.AgentService.
func (a *Agent) Replace(context.Context, *agentapi.ReplaceRequest) (*agentapi.ReplaceResponse, error) {
	return nil, status.Error(codes.Unimplemented, "this agent does not let another one take over")
}

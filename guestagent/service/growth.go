package service

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// GrowDisk implements agentapi.AgentService.
func (a *answerer) GrowDisk(context.Context, *agentapi.GrowDiskRequest) (*agentapi.GrowDiskResponse, error) {
	return nil, status.Error(codes.Unimplemented, "this agent does not grow the private disk")
}

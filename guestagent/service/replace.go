package service

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// Replace implements agentapi.AgentService.
func (a *answerer) Replace(context.Context, *agentapi.ReplaceRequest) (*agentapi.ReplaceResponse, error) {
	return nil, status.Error(codes.Unimplemented, "this agent does not let another one take over")
}

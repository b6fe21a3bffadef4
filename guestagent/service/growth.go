package service

import (
	"context"
	"fmt"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// growLimit bounds the wait until the kernel sees the disk's new size, and the growth of its file system.
const growLimit = 15 * time.Second

// GrowDisk implements agentapi.AgentService.
func (a *answerer) GrowDisk(ctx context.Context,
	request *agentapi.GrowDiskRequest) (*agentapi.GrowDiskResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, growLimit)
	defer cancel()
	before, after, err := a.grow(ctx, request.GetSize())
	if err != nil {
		return nil, failure(fmt.Errorf("grow disk: %w", err))
	}
	return &agentapi.GrowDiskResponse{BeforeBytes: before, AfterBytes: after}, nil
}

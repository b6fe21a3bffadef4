package service

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/disks"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// SetDisks implements agentapi.AgentService.
func (a *answerer) SetDisks(ctx context.Context,
	request *agentapi.SetDisksRequest) (*agentapi.SetDisksResponse, error) {
	wanted := make([]disks.Wanted, 0, len(request.GetDisks()))
	for _, disk := range request.GetDisks() {
		wanted = append(wanted, disks.Wanted{Size: disk.GetSize(), MountedDisk: agentapi.MountedDisk{
			Serial: disk.GetSerial(), FileSystem: disk.GetFileSystem(), MountPoint: disk.GetMountPoint(),
			ReadOnly: disk.GetReadOnly(),
		}})
	}
	a.settingDisks.Lock()
	defer a.settingDisks.Unlock()
	held, err := a.setDisks(ctx, wanted, request.GetRelease())
	if err != nil {
		return nil, failure(fmt.Errorf("set disks: %w", err))
	}
	answer := &agentapi.SetDisksResponse{}
	for _, serial := range slices.Sorted(maps.Keys(held)) {
		answer.Held = append(answer.Held, &agentapi.HeldDisk{Serial: serial, By: held[serial]})
	}
	return answer, nil
}

package service

import (
	"bytes"
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// Identify implements agentapi.AgentService.
func (a *answerer) Identify(_ context.Context, request *agentapi.IdentifyRequest) (*agentapi.IdentifyResponse, error) {
	config := agentapi.BootConfig{Hostname: request.GetHostname(), AuthorizedKeys: request.GetAuthorizedKeys()}
	if err := a.identify(config); err != nil {
		return nil, failure(fmt.Errorf("take on host name and keys: %w", err))
	}
	return &agentapi.IdentifyResponse{}, nil
}

// identify changes the files of the running system, and the host name in the kernel, which new processes see at once.
func identify(config agentapi.BootConfig) error {
	if err := boot.Identify(config); err != nil {
		return err
	}
	var now unix.Utsname
	if err := unix.Uname(&now); err != nil {
		return fmt.Errorf("read the kernel's host name: %w", err)
	}
	if string(bytes.TrimRight(now.Nodename[:], "\x00")) == config.Hostname {
		return nil
	}
	if err := unix.Sethostname([]byte(config.Hostname)); err != nil {
		return fmt.Errorf("set the kernel's host name: %w", err)
	}
	return nil
}

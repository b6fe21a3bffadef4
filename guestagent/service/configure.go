package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/configure"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/refresh"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/units"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Configurator has the system take on configurations: configure.Configurator.
type Configurator interface {
	Configure(ctx context.Context, request *agentapi.ConfigureRequest) (*agentapi.ConfigureResponse, error)
	Configuration(ctx context.Context) (*agentapi.ConfigurationResponse, error)
	// ID is the id of the configuration that the system was given last.
	ID() (string, error)
}

// Configure implements agentapi.AgentService.
func (a *answerer) Configure(ctx context.Context,
	request *agentapi.ConfigureRequest) (*agentapi.ConfigureResponse, error) {
	response, err := a.configurator.Configure(ctx, request)
	if err != nil {
		return nil, failure(fmt.Errorf("take on the configuration: %w", err))
	}
	return response, nil
}

// Configuration implements agentapi.AgentService.
func (a *answerer) Configuration(ctx context.Context,
	_ *agentapi.ConfigurationRequest) (*agentapi.ConfigurationResponse, error) {
	response, err := a.configurator.Configuration(ctx)
	if err != nil {
		return nil, failure(fmt.Errorf("read the configuration: %w", err))
	}
	return response, nil
}

// configuredUnits implements configure.Units for this system.
type configuredUnits struct{ liveUnits }

// Enabled implements configure.Units.
func (configuredUnits) Enabled(ctx context.Context, unit string) (bool, error) {
	return units.Enabled(ctx, unit)
}

// Enable implements configure.Units.
func (configuredUnits) Enable(ctx context.Context, unit string) error { return units.Enable(ctx, unit) }

// Disable implements configure.Units.
func (configuredUnits) Disable(ctx context.Context, unit string) error {
	return units.Disable(ctx, unit)
}

// RemoveAccount implements configure.Units.
func (configuredUnits) RemoveAccount(ctx context.Context, name string) error {
	return units.RemoveAccount(ctx, name)
}

// runningStack implements configure.Stack for the stack that the engine runs.
type runningStack struct{ engine *refresh.Engine }

var _ configure.Stack = runningStack{}

// Entry implements configure.Stack. The baseline lists what the running stack has.
func (s runningStack) Entry(name string) (*tree.Entry, bool, error) {
	baseline, err := boot.Carrier("/").Baseline()
	if errors.Is(err, etcmerge.ErrBaseline) || err == nil && baseline.Unlisted {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return baseline.Entry(name), true, nil
}

// Read implements configure.Stack.
func (s runningStack) Read(name string) ([]byte, error) {
	now, err := s.engine.Status()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stackLimit)
	defer cancel()
	return boot.ReadFromStack(ctx, now.Stack, name)
}

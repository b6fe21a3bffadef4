package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
)

// configureLimit bounds how long a guest may take to take its configuration on, and then to take it back. It is longer
// than the agent's own limits.
const configureLimit = 21 * time.Minute

var (
	// ErrNotConfigured means that a guest refused its configuration, and that nothing was changed in it.
	ErrNotConfigured = errors.New("the guest refused the configuration, and nothing was changed in it")
	// ErrTakenBack means that a guest could not take its configuration on, and is as before.
	ErrTakenBack = errors.New("the guest has taken its configuration back")
)

// configured is the id of the configuration that the guest of a specification has; "" if it has none.
func (s *Spec) configured() (string, error) {
	if s.Configuration == nil {
		return s.Given, nil
	}
	return s.document().ID()
}

// document is the configuration with the MAC addresses of the interfaces, as the guest is given it;
// nil if it is not known.
func (s *Spec) document() *guestconfig.Document {
	return s.Configuration.WithAddresses(macs(s.UUID, s.Interfaces))
}

// macs are the MAC addresses of the interfaces of the VM with a UUID.
func macs(uuid string, interfaces map[string]hypervisor.Interface) map[string]string {
	addresses := make(map[string]string, len(interfaces))
	for name, one := range interfaces {
		addresses[name] = one.Address(uuid, name)
	}
	return addresses
}

// bootNetworks adds the networks to a boot configuration, so that the guest has them before its
// network starts for the first time. If they do not fit, the guest gets them when its agent answers.
func bootNetworks(config agentapi.BootConfig, spec Spec) ([]byte, error) {
	without, err := json.Marshal(config)
	if err != nil || spec.Configuration == nil || len(spec.Configuration.Networks) == 0 {
		return without, err
	}
	config.Networks = spec.document().Networks
	with, err := json.Marshal(config)
	if err != nil || len(with) > hypervisor.MaxBootConfig-bootConfigSpare {
		return without, err
	}
	return with, nil
}

// bootConfigSpare is what a boot configuration may still grow by, in bytes.
const bootConfigSpare = 256

// configure has a running guest take on the configuration of spec, unless it has it and nothing is to be overwritten.
//
// The metadata of the domain records the id of what the guest has taken on. ErrNotConfigured, ErrTakenBack
// or ErrImpact if the guest does not take it on, and ErrNoAnswer or ErrOldAgent if it cannot be asked to.
func (f *Fleet) configure(ctx context.Context, spec Spec, progress Progress) error {
	if spec.Configuration == nil {
		return nil
	}
	const do = "configure the guest"
	id, err := spec.configured()
	if err != nil {
		return fmt.Errorf("%s: %w", do, err)
	}
	domain, _, err := f.Hypervisor.LookupUUID(ctx, spec.UUID)
	if err != nil {
		return fmt.Errorf("%s: %w", do, err)
	}
	recorded := domain.Metadata.Configuration == id && len(spec.Overwrite) == 0
	if recorded && id == "" {
		return nil
	}
	agent, err := f.connectAndPin(ctx, domain)
	var now *agentapi.StatusResponse
	if err == nil {
		defer func() { _ = agent.Close() }() // its answers are read by then
		now, err = statusOf(ctx, agent, &agentapi.StatusRequest{})
	}
	if recorded && errors.Is(err, ErrNoAnswer) {
		return nil // nothing is to be changed, as far as is known
	}
	if err != nil {
		return fmt.Errorf("%s: %w", do, err)
	}
	if now.GetConfiguration() != id || len(spec.Overwrite) > 0 {
		progress("configuring the guest")
		if _, err := f.askToConfigure(ctx, agent, spec, false); err != nil {
			return fmt.Errorf("%s: %w", do, err)
		}
	}
	if domain.Metadata.Configuration == id {
		return nil
	}
	if domain, _, err = f.Hypervisor.LookupUUID(ctx, spec.UUID); err != nil { // the agent's key may be pinned since
		return fmt.Errorf("%s: record that: %w", do, err)
	}
	metadata := domain.Metadata
	metadata.Configuration = id
	if err := f.Hypervisor.SetMetadata(ctx, domain.Name, metadata); err != nil {
		return fmt.Errorf("%s: record that: %w", do, err)
	}
	return nil
}

// askToConfigure calls the agent. With assess it only asks what would be interrupted.
func (f *Fleet) askToConfigure(ctx context.Context, agent *transport.Agent, spec Spec,
	assess bool) (*agentapi.Impact, error) {
	document, err := spec.document().Encode()
	if err != nil {
		return nil, err
	}
	request := &agentapi.ConfigureRequest{
		Document: document, Overwrite: spec.Overwrite, AssessOnly: assess, MaxImpact: spec.Refresh.MaxImpact,
		HealthChecks: spec.Refresh.HealthChecks, Policy: spec.Refresh.Units,
		SettleMs: spec.Refresh.Settle.Milliseconds(),
	}
	limit := assessLimit
	if !assess {
		request.Secrets, limit = spec.Secrets, configureLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer, err := agent.Configure(ctx, request)
	switch status.Code(err) {
	case codes.OK:
		return answer.GetImpact(), nil
	case codes.Unimplemented:
		return nil, ErrOldAgent
	case codes.FailedPrecondition, codes.InvalidArgument:
		return nil, fmt.Errorf("%w: %w", ErrNotConfigured, err)
	case codes.Aborted:
		return nil, fmt.Errorf("%w: %w", ErrTakenBack, err)
	case codes.OutOfRange:
		return nil, fmt.Errorf("%w: %w", ErrImpact, err)
	default:
		return nil, err
	}
}

// assessConfiguration adds to an impact what the configuration of spec would interrupt in the running guest.
func (f *Fleet) assessConfiguration(ctx context.Context, domain hypervisor.Domain, spec Spec, move Move,
	impact *agentapi.Impact) (*agentapi.Impact, error) {
	if spec.Configuration == nil {
		return impact, nil
	}
	agent, err := f.connect(ctx, domain)
	if err != nil {
		return nil, err
	}
	defer func() { _ = agent.Close() }() // only a question was asked on it
	more, err := f.askToConfigure(ctx, agent, spec, true)
	if err != nil {
		return nil, fmt.Errorf("ask its agent about the configuration: %w", err)
	}
	if more == nil { // it has the configuration
		return impact, nil
	}
	if impact == nil {
		impact = &agentapi.Impact{Level: agentapi.Level_NONE}
	}
	for _, reason := range append(slices.Clone(move.Reasons), ReasonConfiguration) {
		if !slices.Contains(impact.GetReasons(), string(reason)) {
			impact.Reasons = append(impact.Reasons, string(reason))
		}
	}
	impact.Level = max(impact.GetLevel(), more.GetLevel())
	for _, unit := range more.GetUnits() {
		at := slices.IndexFunc(impact.GetUnits(),
			func(u *agentapi.UnitImpact) bool { return u.GetUnit() == unit.GetUnit() })
		if at < 0 {
			impact.Units = append(impact.Units, unit)
			continue
		}
		known := impact.GetUnits()[at]
		known.Level = max(known.GetLevel(), unit.GetLevel())
		known.Paths, known.PathCount = append(known.Paths, unit.GetPaths()...), known.GetPathCount()+unit.GetPathCount()
	}
	impact.Left, impact.Starts = append(impact.Left, more.GetLeft()...), append(impact.Starts, more.GetStarts()...)
	impact.Pending, impact.Sessions = append(impact.Pending, more.GetPending()...),
		append(impact.Sessions, more.GetSessions()...)
	impact.ChangedPaths += more.GetChangedPaths()
	return impact, nil
}

// readConfiguration asks the agent which configuration the guest has, and what of it was changed. A guest whose agent
// cannot tell has none that is known.
func (f *Fleet) readConfiguration(ctx context.Context, agent *transport.Agent,
	domain hypervisor.Domain, found *VM) error {
	claimed := found.Agent.GetConfiguration()
	if claimed == "" && domain.Metadata.Configuration == "" {
		found.Spec.Configuration = guestconfig.New()
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	answer, err := agent.Configuration(ctx, &agentapi.ConfigurationRequest{})
	if status.Code(err) == codes.Unimplemented {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask for the configuration of the guest: %w", err)
	}
	document := guestconfig.New()
	if len(answer.GetDocument()) > 0 {
		if document, err = guestconfig.Decode(answer.GetDocument()); err != nil {
			return fmt.Errorf("the agent returns a configuration that is none: %w", err)
		}
	}
	found.Spec.Configuration, found.Drift = document.WithoutAddresses(macs(domain.UUID, domain.Interfaces)),
		answer.GetDrift()
	return nil
}

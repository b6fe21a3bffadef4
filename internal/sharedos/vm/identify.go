package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
)

// goodAgainLimit bounds how long a health check that was good may take to be good again after a
// change of host name or keys.
const goodAgainLimit = 30 * time.Second

// identify has a running guest take on the host name and root's keys of spec. The definition, from
// which each boot takes them, is changed after that, so that an update which was cut off in between
// does it again. ErrNoAnswer if the agent does not answer, and ErrOldAgent if it cannot do that:
// then both take effect at the next power-off and start. If a health check of refresh that was good
// before is not good again, or does not stay so, the guest gets back what it had: ErrTakenBack.
func (f *Fleet) identify(ctx context.Context, domain hypervisor.Domain, spec Spec, progress Progress) error {
	progress("changing the host name and root's keys in the guest")
	const do, atStart = "change the host name and root's keys in the running guest",
		"to have them changed at its next start instead, " +
			"apply with running = false first, and with running = true then"
	// The agent's key may have been pinned in the definition since this update began.
	domain, _, err := f.Hypervisor.LookupUUID(ctx, domain.UUID)
	if err != nil {
		return fmt.Errorf("%s: %w", do, err)
	}
	agent, err := f.connectAndPin(ctx, domain)
	if err != nil {
		return fmt.Errorf("%s: %w; %s", do, err, atStart)
	}
	defer func() { _ = agent.Close() }() // its answer is read by then
	good, err := goodChecks(ctx, agent, spec.Refresh.HealthChecks)
	if err != nil {
		return fmt.Errorf("%s: %w", do, err)
	}
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err = agent.Identify(limited,
		&agentapi.IdentifyRequest{Hostname: spec.Hostname, AuthorizedKeys: spec.AuthorizedKeys})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return fmt.Errorf("%s: %w; %s", do, ErrOldAgent, atStart)
	case err != nil:
		return fmt.Errorf("%s: %w", do, err)
	}
	if err := stayGood(ctx, agent, good, spec.Refresh.Settle); err != nil {
		back := f.identifyAsBefore(ctx, domain, progress)
		if back == nil {
			back = ErrTakenBack
		}
		return fmt.Errorf("%s: %w: %w", do, err, back)
	}
	return nil
}

// goodChecks returns the health checks that are good now. The others say nothing about what is changed next.
func goodChecks(ctx context.Context, agent *transport.Agent,
	checks []*agentapi.HealthCheck) ([]*agentapi.HealthCheck, error) {
	if len(checks) == 0 {
		return nil, nil
	}
	failed, err := askChecks(ctx, agent, checks)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(checks), func(check *agentapi.HealthCheck) bool {
		return slices.ContainsFunc(failed,
			func(one *agentapi.FailedCheck) bool { return one.GetName() == check.GetName() })
	}), nil
}

// stayGood waits until health checks are good, and that they stay so for the settle time. Its error
// names those that are not.
func stayGood(ctx context.Context, agent *transport.Agent, checks []*agentapi.HealthCheck, settle time.Duration) error {
	if len(checks) == 0 {
		return nil
	}
	start := time.Now()
	var since time.Time // when all of them were good
	for {
		settled := settle <= 0 || !since.IsZero() && time.Since(since) >= settle
		failed, err := askChecks(ctx, agent, checks)
		switch {
		case err != nil:
			return err
		case len(failed) > 0 && (!since.IsZero() || time.Since(start) > goodAgainLimit):
			return fmt.Errorf("health checks fail that were good before: %s", plain.Guest(failing(failed)))
		case len(failed) == 0 && settled:
			return nil
		case len(failed) == 0 && since.IsZero():
			since = time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(checkEvery):
		}
	}
}

// identifyAsBefore gives a running guest back the host name and root's keys of its definition, which
// could not be changed. Without that, it would keep others until its next power-off, which no plan shows.
func (f *Fleet) identifyAsBefore(ctx context.Context, domain hypervisor.Domain, progress Progress) error {
	var had agentapi.BootConfig
	if err := json.Unmarshal(domain.BootConfig, &had); err != nil {
		return fmt.Errorf("give the guest its host name and root's keys back: read its boot configuration: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*callLimit)
	defer cancel()
	if err := f.identify(ctx, domain,
		Spec{Hostname: had.Hostname, AuthorizedKeys: had.AuthorizedKeys}, progress); err != nil {
		return fmt.Errorf("give the guest its host name and root's keys back: %w", err)
	}
	return nil
}

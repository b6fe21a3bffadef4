package vm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
)

const (
	// readyLimit is the default of Readiness.Limit.
	readyLimit = 5 * time.Minute
	// checkEvery is the time between two rounds of health checks, which cost the guest some of its processors.
	checkEvery = time.Second
	// checksLimit bounds one round of them. An attempt takes at most 10 s.
	checksLimit = 40 * time.Second
	// maxFailing bounds how many of the failing checks are reported.
	maxFailing = 5
)

// awaitReady waits until a VM that was started is ready as its specification says. It returns
// ErrNotReady if that takes too long.
func (f *Fleet) awaitReady(ctx context.Context, spec Spec, progress Progress) error {
	if len(spec.Ready.Checks) == 0 && !spec.Ready.Address {
		return nil
	}
	limit := spec.Ready.Limit
	if limit == 0 {
		limit = readyLimit
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	missing := "its agent was not asked yet"
	err := f.untilReady(limited, spec, func(what string) {
		if what != missing {
			missing = what
			progress("waiting until it is ready: " + what)
		}
	})
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return fmt.Errorf("%w after %d s: %s", ErrNotReady, int(limit.Seconds()), missing)
	}
	return err
}

// untilReady asks until the VM is ready. It calls missing with what is missing.
func (f *Fleet) untilReady(ctx context.Context, spec Spec, missing func(what string)) error {
	for {
		what, err := f.notReady(ctx, spec)
		switch {
		case errors.Is(err, ErrNoAnswer) && ctx.Err() == nil:
			what = "its agent does not answer"
		case err != nil:
			return err
		case what == "":
			return nil
		}
		missing(what)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(checkEvery):
		}
	}
}

// notReady asks the agent once what is missing until the VM is ready.
func (f *Fleet) notReady(ctx context.Context, spec Spec) (what string, err error) {
	domain, _, err := f.Hypervisor.Lookup(ctx, spec.Name)
	if err != nil {
		return "", err
	}
	agent, err := f.connectAndPin(ctx, domain)
	if err != nil {
		return "", err
	}
	defer func() { _ = agent.Close() }() // only questions are asked on it
	if spec.Ready.Address {
		now, err := statusOf(ctx, agent, askNow())
		if err != nil {
			return "", err
		}
		if unreachable(domain, now) {
			return "none of its interfaces has an address", nil
		}
	}
	if len(spec.Ready.Checks) == 0 {
		return "", nil
	}
	failed, err := askChecks(ctx, agent, spec.Ready.Checks)
	if err != nil {
		return "", err
	}
	return failing(failed), nil
}

// askChecks has an agent make health checks once, and returns those that fail. ErrOldAgent or ErrNoAnswer if it cannot.
func askChecks(ctx context.Context, agent *transport.Agent,
	checks []*agentapi.HealthCheck) ([]*agentapi.FailedCheck, error) {
	limited, cancel := context.WithTimeout(ctx, checksLimit)
	defer cancel()
	answer, err := agent.Check(limited, &agentapi.CheckRequest{HealthChecks: checks})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return nil, fmt.Errorf("%w: it cannot make health checks", ErrOldAgent)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return answer.GetFailed(), nil
}

// failing names the checks that failed, and why; "" if there is none.
func failing(failed []*agentapi.FailedCheck) string {
	var texts []string
	for i, one := range failed {
		if i == maxFailing {
			texts = append(texts, fmt.Sprintf("and %d more", len(failed)-maxFailing))
			break
		}
		texts = append(texts, one.GetName()+": "+one.GetReason())
	}
	return strings.Join(texts, "; ")
}

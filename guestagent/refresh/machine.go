package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// run is what every state of one refresh carries along.
type run struct {
	*Engine
	request *agentapi.RefreshRequest
	target  *target
	diff    *differences
	// paths of the open layers of both stacks, bottom to top.
	from, to []string
	// rung that it climbs to.
	rung Rung
	// before is the assessment just before the swap.
	before *impact.Assessment
	// backFrom is the moment from which on, on the way back, what is started runs what it is to run; 0 if it has not come.
	backFrom uint64
}

// The states of a refresh. A value of such a type exists only once the journal names the state.
type (
	staged     struct{ *run }
	verified   struct{ *run }
	carried    struct{ *run }
	starting   struct{ *run }
	swapped    struct{ *run }
	restarted  struct{ *run }
	checking   struct{ *run }
	committed  struct{ *run }
	rollingOut struct {
		*run
		cause error
	}
)

// begin carries a new refresh out.
func (e *Engine) begin(request *agentapi.RefreshRequest) {
	ctx, cancel := context.WithTimeout(e.life, refreshLimit)
	defer cancel()
	r := &run{Engine: e, request: request}
	data, err := proto.Marshal(request)
	if err == nil {
		err = e.Records.SaveRequest(data)
	}
	if err != nil {
		r.refuse(fmt.Errorf("keep the request: %w", err))
		return
	}
	state, err := r.stage(ctx)
	if err != nil {
		r.refuse(err)
		return
	}
	r.carryOut(ctx, state)
}

// carryOut takes a refresh from staged to its end.
func (r *run) carryOut(ctx context.Context, s staged) {
	v, err := s.verify(ctx)
	if err != nil {
		r.refuse(err)
		return
	}
	if r.rung != Live {
		r.carryAndStart(ctx, v)
		return
	}
	state, err := v.swap()
	if err != nil {
		r.refuse(err) // the journal could not be written, so nothing was done
		return
	}
	r.complete(ctx, state)
}

// complete takes a refresh from swapped to its end. Everything it does can be done twice.
func (r *run) complete(ctx context.Context, s swapped) {
	next, err := s.act(ctx)
	if err != nil {
		r.fail(ctx, err)
		return
	}
	r.completeRestarted(ctx, next)
}

func (r *run) completeRestarted(ctx context.Context, s restarted) {
	next, err := s.act(ctx)
	if err != nil {
		r.fail(ctx, err)
		return
	}
	r.completeChecking(ctx, next)
}

func (r *run) completeChecking(ctx context.Context, s checking) {
	next, err := s.act(ctx)
	if err != nil {
		r.fail(ctx, err)
		return
	}
	if err := next.act(); err != nil {
		r.fail(ctx, err)
	}
}

// fail rolls back, unless the agent is being stopped: then the journal tells the next one where to go on.
func (r *run) fail(ctx context.Context, cause error) {
	if r.life.Err() != nil {
		r.end()
		return
	}
	if err := context.Cause(ctx); err != nil {
		cause = errors.Join(cause, err)
	}
	back, err := r.rollBack(cause)
	if err != nil {
		// The private disk takes no more. What the journal says last leads back all the same.
		back = rollingOut{r, errors.Join(cause, err)}
	}
	back.act()
}

// refuse ends a refresh that has changed nothing.
func (r *run) refuse(cause error) {
	if r.life.Err() != nil {
		r.end()
		return
	}
	r.note(func(report *agentapi.Report) {
		report.Done, report.Refused, report.Error, report.Refusal = true, true, cause.Error(), refusalOf(cause)
	})
	r.idle(r.record.Running, r.record.Generation)
}

// refusalOf is the code of why a refresh was refused.
func refusalOf(cause error) agentapi.Refusal {
	is := func(kinds ...error) bool {
		return slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(cause, kind) })
	}
	switch {
	case is(ErrImpact):
		return agentapi.Refusal_REFUSAL_IMPACT
	case is(ErrDeferred):
		return agentapi.Refusal_REFUSAL_STRATEGY
	case is(ErrTarget, ErrDowngrade, ErrStale, release.ErrSignature, release.ErrManifest, release.ErrSchema, release.ErrContents):
		return agentapi.Refusal_REFUSAL_TARGET
	}
	return agentapi.Refusal_REFUSAL_SYSTEM
}

// idle journals the end of a refresh. If it cannot, the next agent finds the state before and ends it again.
func (r *run) idle(running release.Stack, generation uint64) {
	err := r.enter(Idle, func(record *Record) { record.Running, record.Generation = running, generation })
	if err := errors.Join(err, r.Blobs.Drop()); err != nil {
		r.note(func(report *agentapi.Report) {
			report.Pending = append(report.Pending, "the agent's records: "+err.Error())
		})
	}
	if err != nil {
		r.mutex.Lock()
		r.record.State, r.record.Running, r.record.Generation = Idle, running, generation
		r.mutex.Unlock()
	}
	r.end()
}

// stage: the host has plugged the layers in; they are found and opened.
func (r *run) stage(ctx context.Context) (staged, error) {
	if err := r.enter(Staged, nil); err != nil {
		return staged{}, err
	}
	return staged{r}, nil
}

// verify checks all that can be checked before anything changes, and tells the impact.
func (s staged) verify(ctx context.Context) (verified, error) {
	r := s.run
	t, err := openTarget(r.request.GetTarget(), r.record.From, r.Operators, r.request.GetAllowDowngrade())
	if err != nil {
		return verified{}, err
	}
	r.target = t
	if err := r.timed("stage", func() error { return r.openLayers(ctx) }); err != nil {
		return verified{}, err
	}
	if err := r.timed("verify", func() error { return r.readLayers(ctx) }); err != nil {
		return verified{}, err
	}
	if err := r.System.Room(ctx); err != nil {
		return verified{}, err
	}
	if err := r.timed("assess", func() error { return r.judge(ctx) }); err != nil {
		return verified{}, err
	}
	baseline, bad := r.healthy(ctx, r.request.GetHealthChecks())
	r.note(func(report *agentapi.Report) { report.Unchecked = bad })
	failed, err := r.Units.Failed(ctx)
	if err != nil {
		return verified{}, err
	}
	var planned []Planned
	if r.rung == Live {
		planned = plan(nil, r.before)
	}
	err = r.enter(Verified, func(record *Record) {
		record.Baseline, record.Failed, record.Planned, record.Strategy, record.Left = baseline, failed, planned, r.rung, r.before.Left
	})
	if err != nil {
		return verified{}, err
	}
	return verified{r}, nil
}

func (r *run) openLayers(ctx context.Context) error {
	open := func(stack release.Stack) ([]string, error) {
		var paths []string
		for _, layer := range stack.Layers {
			path, err := r.Layers.Open(ctx, layer)
			if err != nil {
				return nil, err
			}
			paths = append(paths, path)
		}
		return paths, nil
	}
	var err error
	if r.from, err = open(r.record.From); err != nil {
		return err
	}
	r.to, err = open(r.record.To)
	return err
}

func (r *run) readLayers(ctx context.Context) error {
	for _, layer := range newLayers(r.record.From, r.record.To) {
		if err := r.Layers.Read(ctx, layer); err != nil {
			return err
		}
	}
	return nil
}

// judge compares the stacks and refuses what interrupts more than is allowed.
func (r *run) judge(ctx context.Context) error {
	defer hurry()()
	var err error
	if r.diff, err = r.target.compare(ctx, r.Blobs); err != nil {
		return err
	}
	strategy, err := strategyOf(r.request.GetStrategy())
	if err != nil {
		return err
	}
	if r.rung, r.before, err = r.foresee(ctx, r.diff.changes, r.record.To.Kernel, r.request.GetPolicy(), strategy); err != nil {
		return err
	}
	r.note(func(report *agentapi.Report) {
		report.Impact, report.Left, report.Strategy = message(r.rung, r.before), impact.LeftTexts(r.before.Left), string(r.rung)
		if r.rung != Live {
			report.Pending = r.before.Pending // of a live refresh what is found at its end
		}
	})
	allowed := r.request.GetMaxImpact()
	if allowed == agentapi.Level_LEVEL_UNSPECIFIED {
		allowed = agentapi.Level_RESTART
	}
	if level := r.before.Level; level > allowed {
		return fmt.Errorf("%w: it needs %s, and %s is allowed: %v", ErrImpact, level, allowed, r.before.Reasons)
	}
	if r.rung == NextBoot {
		return fmt.Errorf("%w: it needs %s, and the strategy is %s: %v", ErrDeferred, r.before.Level, strategy, r.before.Reasons)
	}
	return nil
}

// swap: from here on the running system changes.
func (v verified) swap() (swapped, error) {
	if err := v.enter(Swapped, nil); err != nil {
		return swapped{}, err
	}
	return swapped(v), nil
}

// act swaps /usr and carries /etc.
func (s swapped) act(ctx context.Context) (restarted, error) {
	if err := s.timed("swap", func() error { return s.Usr.Swap(ctx, s.to) }); err != nil {
		return restarted{}, err
	}
	err := s.timed("etc", func() error {
		again, err := s.carryEtc(ctx)
		if err == nil && again {
			s.renewLoaderCache(ctx)
		}
		return err
	})
	if err != nil {
		return restarted{}, err
	}
	if err := s.enter(Restarted, func(record *Record) { record.Renewed = true }); err != nil {
		return restarted{}, err
	}
	return restarted(s), nil
}

// carryEtc reports whether the loader's cache is to be made again once the new /usr is there.
func (r *run) carryEtc(ctx context.Context) (loaderCache bool, err error) {
	ends := etcmerge.Ends{From: r.record.From.Key(), To: r.record.To.Key()}
	outcome, err := r.Etc.Carry(ctx, ends, r.diff.etc, r.from, r.to)
	r.note(func(report *agentapi.Report) {
		report.EtcCarried, report.Conflicts = int64(outcome.Carried), outcome.Conflicts
	})
	return outcome.LoaderCache, err
}

// renewLoaderCache makes the loader's cache again. Programs run with an old one, too.
func (r *run) renewLoaderCache(ctx context.Context) {
	if err := r.Etc.RenewLoaderCache(ctx); err != nil {
		r.note(func(report *agentapi.Report) {
			report.Conflicts = append(report.Conflicts, "/etc/ld.so.cache: "+err.Error())
		})
	}
}

// act renews what uses what changed.
func (s restarted) act(ctx context.Context) (checking, error) {
	err := s.timed("restart", func() error { return s.renew(ctx, s.record.To.Kernel, s.record.Planned, false) })
	if err != nil {
		return checking{}, err
	}
	if err := s.enter(Checking, nil); err != nil {
		return checking{}, err
	}
	return checking(s), nil
}

// act waits until all that was healthy before is so again, and stays so.
func (s checking) act(ctx context.Context) (committed, error) {
	if err := s.timed("check", func() error { return s.settle(ctx) }); err != nil {
		return committed{}, err
	}
	if err := s.enter(Committed, nil); err != nil {
		return committed{}, err
	}
	return committed(s), nil
}

// act makes the stack the one that is booted next.
func (c committed) act() error {
	started := time.Now()
	generation, err := c.Records.Commit(c.record.To)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	// The commit is the point of no return: what fails now is only reported.
	err = c.retry(c.life, func() error { return errors.Join(c.Etc.End(c.life, c.record.To), c.Usr.Settle()) })
	c.note(func(r *agentapi.Report) {
		r.Done, r.Committed, r.State = true, true, agentapi.State_COMMITTED
		r.Timings = append(r.Timings, &agentapi.Timing{Step: "commit", Micros: time.Since(started).Microseconds()})
		if err != nil {
			r.Pending = append(r.Pending, "the agent's records: "+err.Error())
		}
	})
	c.idle(c.record.To, generation)
	return nil
}

// rollBack journals that everything goes back.
func (r *run) rollBack(cause error) (rollingOut, error) {
	if err := r.enter(RollingBack, func(record *Record) { record.Cause = cause.Error() }); err != nil {
		return rollingOut{}, err
	}
	return rollingOut{r, cause}, nil
}

// plan adds to the planned units those that an assessment names.
func plan(planned []Planned, a *impact.Assessment) []Planned {
	planned = slices.Clone(planned)
	for _, affected := range a.Affected {
		if affected.Outcome.Keeps() {
			continue
		}
		if !slices.ContainsFunc(planned, func(p Planned) bool { return p.Unit == affected.Unit }) {
			planned = append(planned, Planned{Unit: affected.Unit, Outcome: affected.Outcome})
		}
	}
	return planned
}

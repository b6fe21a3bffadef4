package configure

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrRefused means that nothing was changed, because something is there that must not be overwritten.
	ErrRefused = errors.New("nothing was changed")
	// ErrBusy means that a configuration is being taken on.
	ErrBusy = errors.New("a configuration is being taken on")
	// ErrImpact means that nothing was changed, because more would be interrupted than the host allows.
	ErrImpact = errors.New("the impact is larger than allowed")
	// ErrTakenBack means that a step or a health check failed, and that files, links and accounts are
	// as before. The error names units that do not run again, and kernel parameters that are gone.
	ErrTakenBack = errors.New("the configuration was taken back")
	// ErrUnfinished means that an attempt failed and could not be taken back entirely. The next
	// call that is more than a question, or the next start of the agent, tries that again.
	ErrUnfinished = errors.New("the configuration could not be taken back entirely")
)

const (
	// applyLimit bounds one application, takeBackLimit what takes it back.
	applyLimit    = 10 * time.Minute
	takeBackLimit = 10 * time.Minute
	readyLimit    = 30 * time.Second
	attemptLimit  = 10 * time.Second
	readyPause    = 250 * time.Millisecond
)

// Engine is what refreshes the VM: refresh.Engine.
type Engine interface {
	// AssessFiles tells what uses files that differ, and what systemd knows of these units.
	AssessFiles(ctx context.Context, changes *impact.Changes, policy *agentapi.UnitPolicy) (*impact.Assessment,
		map[string]impact.Unit, error)
	// Yield keeps refreshes from starting until stay is called. It is an error while one is in flight.
	Yield() (stay func(), err error)
}

// Units is systemd.
type Units interface {
	Reload(ctx context.Context) error
	Order(ctx context.Context, units []string, facts map[string]impact.Unit) (ordered []string,
		after map[string][]string, err error)
	Restart(ctx context.Context, unit string) (time.Duration, error)
	Restore(ctx context.Context, unit string) (time.Duration, error)
	ReloadUnit(ctx context.Context, unit string) error
	Start(ctx context.Context, unit string) (took time.Duration, skipped bool, err error)
	// Withdraw stops a unit and has systemd forget that it has failed.
	Withdraw(ctx context.Context, unit string) error
	ActiveState(ctx context.Context, unit string) (string, error)
	Failure(ctx context.Context, unit string) string
	// Enabled reports whether a unit is enabled; false for a unit that does not exist. Enable and Disable change that.
	Enabled(ctx context.Context, unit string) (bool, error)
	Enable(ctx context.Context, unit string) error
	Disable(ctx context.Context, unit string) error
	// ApplyAccounts runs systemd-sysusers(8) for files of sysusers.d, ApplyTemporary systemd-tmpfiles(8) for files of
	// tmpfiles.d.
	ApplyAccounts(ctx context.Context, names []string) error
	ApplyTemporary(ctx context.Context, names []string) error
	// RemoveAccount removes an account and leaves its files.
	RemoveAccount(ctx context.Context, name string) error
}

// Stack is what the running stack has at paths that are not of the OS alone.
type Stack interface {
	// Entry returns nil if the stack has nothing there. known is false if that is not known.
	Entry(name string) (entry *tree.Entry, known bool, err error)
	// Read returns the content of a regular file.
	Read(name string) ([]byte, error)
}

// Health carries out health checks.
type Health interface {
	Check(ctx context.Context, check *agentapi.HealthCheck) error
}

// Configurator has one system take on configurations, one at a time.
type Configurator struct {
	// Root is the root directory of the system, StateDirectory the agent's own directory on the private disk.
	Root, StateDirectory string
	Engine               Engine
	Units                Units
	Stack                Stack
	Health               Health
	Networks             Networks
	// MergeKeys replaces the managed block of an authorized_keys file.
	MergeKeys func(existing []byte, keys []string) []byte
	// ReadyLimit bounds how long a health check that was good before may take to be good again; 0 is half a minute.
	ReadyLimit time.Duration

	mutex sync.Mutex
	// id is that of the record, once it was read: each status asks for it, and a record may be large.
	id atomic.Pointer[string]
}

func (c *Configurator) records() records { return records{filepath.Join(c.StateDirectory, Directory)} }

// ID returns the id of the document that the system was given last; "" if there is none.
func (c *Configurator) ID() (string, error) {
	if id := c.id.Load(); id != nil {
		return *id, nil
	}
	record, err := c.records().read()
	if err != nil {
		return "", err
	}
	c.id.CompareAndSwap(nil, &record.ID) // unless one was taken on meanwhile
	return *c.id.Load(), nil
}

// Recover takes back an attempt that an earlier agent could not end.
func (c *Configurator) Recover(ctx context.Context) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.recover(ctx)
}

func (c *Configurator) recover(ctx context.Context) error {
	open, record, err := c.openAttempt()
	switch {
	case err != nil || open == nil:
		return err
	case record.ID == open.To: // it was committed, or it only put back what had been changed
		return c.records().endAttempt(record)
	}
	return c.takeBack(ctx, open, record)
}

// settled returns ErrUnfinished if an attempt has to be taken back.
func (c *Configurator) settled() error {
	open, record, err := c.openAttempt()
	if err != nil || open == nil || record.ID == open.To {
		return err
	}
	return fmt.Errorf("%w: what a change interrupts can be told afterwards; the next apply takes it back first",
		ErrUnfinished)
}

// openAttempt returns the attempt that has not ended, nil if there is none, and the record.
func (c *Configurator) openAttempt() (*attempt, *Record, error) {
	r := c.records()
	var open attempt
	found, err := readJSON(r.path(attemptName), &open)
	if err != nil || !found {
		return nil, nil, err
	}
	record, err := r.read()
	return &open, record, err
}

// Hold keeps configurations from being taken on until release is called, so that another agent can take over. ErrBusy
// while one is.
func (c *Configurator) Hold() (release func(), err error) {
	if !c.mutex.TryLock() {
		return nil, ErrBusy
	}
	return c.mutex.Unlock, nil
}

// Configuration returns what the system was given last, and what of it was changed since. While a
// configuration is taken on, it does not say what was changed.
func (c *Configurator) Configuration(ctx context.Context) (*agentapi.ConfigurationResponse, error) {
	record, err := c.records().read()
	if err != nil {
		return nil, err
	}
	if !c.mutex.TryLock() {
		return &agentapi.ConfigurationResponse{Id: record.ID, Document: record.Document}, nil
	}
	defer c.mutex.Unlock()
	p, err := openPlace(c.Root)
	if err != nil {
		return nil, err
	}
	drift, err := c.drift(ctx, p, record)
	if err = errors.Join(err, p.Close()); err != nil {
		return nil, err
	}
	response := &agentapi.ConfigurationResponse{Id: record.ID, Document: record.Document, Drift: map[string]string{}}
	for name, is := range drift {
		response.Drift[name] = is.why
	}
	return response, nil
}

// Configure implements agentapi.AgentService. It goes on if its caller goes away: half a configuration is in no one's
// interest.
func (c *Configurator) Configure(ctx context.Context,
	request *agentapi.ConfigureRequest) (_ *agentapi.ConfigureResponse, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyLimit)
	defer cancel()
	document, err := guestconfig.Decode(request.GetDocument())
	if err != nil {
		return nil, err
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	stay, err := c.Engine.Yield()
	if err != nil {
		return nil, err
	}
	defer stay()
	if request.GetAssessOnly() {
		err = c.settled()
	} else {
		err = c.recover(ctx)
	}
	if err != nil {
		return nil, err
	}
	p, err := openPlace(c.Root)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	record, err := c.records().read()
	if err != nil {
		return nil, err
	}
	planned, err := c.plan(ctx, p, record, document, request)
	if err != nil {
		return nil, err
	}
	if planned.nothing() && planned.next.ID == record.ID {
		return &agentapi.ConfigureResponse{}, nil
	}
	message, err := planned.assess(ctx, c, request.GetPolicy())
	if err != nil {
		return nil, err
	}
	if request.GetAssessOnly() {
		return &agentapi.ConfigureResponse{Impact: message}, nil
	}
	allowed := request.GetMaxImpact()
	if allowed == agentapi.Level_LEVEL_UNSPECIFIED {
		allowed = agentapi.Level_RESTART
	}
	if message.GetLevel() > allowed {
		return nil, fmt.Errorf("%w: it is %v, and %v is allowed", ErrImpact, message.GetLevel(), allowed)
	}
	restarts, err := c.apply(ctx, p, record, planned, request)
	return &agentapi.ConfigureResponse{Impact: message, Restarts: restarts}, err
}

// withPaths returns a copy of a policy with the units that files name.
func withPaths(policy *agentapi.UnitPolicy) *agentapi.UnitPolicy {
	copied, ok := proto.Clone(policy).(*agentapi.UnitPolicy)
	if !ok || policy == nil {
		copied = &agentapi.UnitPolicy{}
	}
	if copied.Paths == nil {
		copied.Paths = map[string]*agentapi.PathList{}
	}
	if copied.Units == nil {
		copied.Units = map[string]string{}
	}
	return copied
}

package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/configure"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/disks"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/refresh"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// stateLimit bounds how long Status waits for systemd's state, waitLimit how long for the requested event.
	stateLimit = 2 * time.Second
	waitLimit  = 10 * time.Second
	// servicesPause is the time between two checks whether the services have started.
	servicesPause = 250 * time.Millisecond
	// assessLimit bounds one assessment.
	assessLimit = 2 * time.Minute
	mappedLimit = time.Minute
	// checkLimit bounds one round of health checks, maxChecks how many there are.
	checkLimit = 30 * time.Second
	maxChecks  = 256
	// stackLimit bounds reading a file from the layers of the running stack.
	stackLimit = time.Minute
	// releaseLimit bounds one release of layers, maxReleased how many layers it names. briefly is
	// how long a layer may stay busy before it is looked at what uses it.
	releaseLimit = time.Minute
	briefly      = 200 * time.Millisecond
	maxReleased  = 256
)

// Engine carries out refreshes: refresh.Engine.
type Engine interface {
	Status() (refresh.Status, error)
	// OldCode returns the processes that run old code now, and what of it waits for a soft-reboot.
	OldCode(ctx context.Context) (remaining, pending []string, err error)
	// Await waits until no refresh is in flight, or one in another state than seen, or until ctx ends.
	Await(ctx context.Context, seen agentapi.State)
	Assess(ctx context.Context, request *agentapi.AssessRequest) (*agentapi.Impact, error)
	Refresh(request *agentapi.RefreshRequest) (started bool, err error)
	// Check makes health checks once, and returns those that fail.
	Check(ctx context.Context, checks []*agentapi.HealthCheck) []*agentapi.FailedCheck
}

// Layers are the layers that are attached to this VM.
type Layers interface {
	// Attached returns those of the layers whose device is attached.
	Attached(layers []release.Layer) ([]tree.Digest, error)
	// Check checks that an open layer can still be read.
	Check(ctx context.Context, layer release.Layer) error
	// Close closes a layer; mounts.ErrLayerInUse if something uses it.
	Close(ctx context.Context, id tree.Digest) error
	// Abandon releases the device of a layer whose files nobody reads, although file systems that
	// were built with it are in use.
	Abandon(id tree.Digest) error
	// Open reports whether a layer is open.
	Open(id tree.Digest) (bool, error)
}

// Observer is what Status and ReleaseLayers ask of the system.
type Observer interface {
	BootID() (string, error)
	Kernel() (string, error)
	// State of the system manager.
	State(ctx context.Context) (string, error)
	// ReloadIndexes reloads the services that keep indexes of an earlier /usr mapped, so that they map the current
	// ones.
	ReloadIndexes(ctx context.Context) error
	// Users describes the processes that use files of a layer or can come to them; none if no process is seen to.
	Users(ctx context.Context, id tree.Digest) ([]string, error)
	// Readers does the same, but first moves mount namespaces to the current /usr if nothing else
	// in them uses the layer. If there are none, it reports whether processes that use other layers
	// explain that the layer cannot be closed.
	Readers(ctx context.Context, id tree.Digest) (readers []string, explained bool, err error)
}

// answerer implements agentapi.AgentService.
type answerer struct {
	version string
	engine  Engine
	blobs   *blobs
	layers  Layers
	system  Observer
	// booted is the stack of the root overlay until the next boot. notBooted names the stacks that were preferred to
	// it, each with the reason why it was not booted.
	booted    release.Stack
	notBooted []string
	// privateDir is where the private disk is mounted, proc where the proc file system is.
	privateDir, proc string
	ready            float64
	replacer         *replacer
	// grow grows the private disk's file system to a disk of size bytes, and returns its bytes before and after.
	grow func(ctx context.Context, size int64) (before, after int64, err error)
	// identify sets the host name and root's keys of the running system.
	identify func(agentapi.BootConfig) error
	// setDisks gives the running system the file systems of its further disks, and releases those
	// with some serials. It returns what uses the ones that are in use.
	setDisks func(ctx context.Context, wanted []disks.Wanted, release []string) (held map[string][]string, err error)
	// settingDisks is locked while it runs.
	settingDisks sync.Mutex
	configurator Configurator
	// refused is the record of an agent that should have taken over from this one and did not.
	refused takeoverRecord
	// busy are the layers, by id, that could not be closed although no process was seen to use them.
	busy sync.Map
	// answered is called after each answer to Status, and looked when the devices of the VM were looked at for one.
	answered, looked func()
}

// failure gives an error the code by which the host decides what to do.
func failure(err error) error {
	code := codes.Internal
	switch {
	case errors.Is(err, refresh.ErrBusy), errors.Is(err, refresh.ErrAccounts), errors.Is(err, refresh.ErrStale),
		errors.Is(err, refresh.ErrUnfinished), errors.Is(err, journal.ErrDamaged), errors.Is(err, errNoBlob),
		errors.Is(err, errReplace), errors.Is(err, boot.ErrNotGrown), errors.Is(err, configure.ErrRefused),
		errors.Is(err, configure.ErrBusy):
		code = codes.FailedPrecondition
	case errors.Is(err, configure.ErrTakenBack), errors.Is(err, configure.ErrUnfinished):
		code = codes.Aborted
	case errors.Is(err, configure.ErrImpact):
		code = codes.OutOfRange
	case errors.Is(err, refresh.ErrTarget), errors.Is(err, refresh.ErrPolicy), errors.Is(err, refresh.ErrStrategy),
		errors.Is(err, refresh.ErrDowngrade), errors.Is(err, errBlob),
		errors.Is(err, errSuffix), errors.Is(err, tree.ErrDigest), errors.Is(err, release.ErrManifest),
		errors.Is(err, release.ErrSchema), errors.Is(err, release.ErrContents),
		errors.Is(err, release.ErrTakeover), errors.Is(err, guestconfig.ErrDocument),
		errors.Is(err, guestconfig.ErrTooLarge):
		code = codes.InvalidArgument
	case errors.Is(err, release.ErrSignature):
		code = codes.PermissionDenied
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	return status.Error(code, err.Error())
}

// Status implements agentapi.AgentService.
func (a *answerer) Status(ctx context.Context, request *agentapi.StatusRequest) (*agentapi.StatusResponse, error) {
	state := a.await(ctx, request)
	response, err := a.status(ctx, request.GetEvent(), state)
	if err != nil {
		return nil, failure(fmt.Errorf("status: %w", err))
	}
	a.answered()
	return response, nil
}

// await waits for the event that the caller asked for. It returns the state of the system manager if it had to ask for
// it.
func (a *answerer) await(ctx context.Context, request *agentapi.StatusRequest) (state string) {
	limit := waitLimit
	if asked := request.GetWaitMs(); asked < waitLimit.Milliseconds() {
		limit = time.Duration(asked) * time.Millisecond
	}
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	switch request.GetEvent() {
	case agentapi.Event_PROGRESS:
		a.engine.Await(waiting, request.GetSeen())
	case agentapi.Event_ADDRESS:
		for network, err := readNetwork(); err == nil && len(network.GetAddresses()) == 0; network, err = readNetwork() {
			select {
			case <-waiting.Done():
				return ""
			case <-time.After(servicesPause):
			}
		}
	case agentapi.Event_SERVICES:
		for {
			if state = a.state(ctx); agentapi.Started(state) {
				return state
			}
			select {
			case <-waiting.Done():
				return state
			case <-time.After(servicesPause):
			}
		}
	}
	return ""
}

// state returns the state of the system manager.
func (a *answerer) state(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, stateLimit)
	defer cancel()
	state, err := a.system.State(ctx)
	if err != nil {
		return "unknown" // as systemctl says when it gets no answer
	}
	return state
}

// status returns the whole status. While the caller waits for a refresh in flight, or for services to start, it returns
// only what is known at once. state is the state of the system manager, "" if it is not known yet.
func (a *answerer) status(ctx context.Context, event agentapi.Event, state string) (*agentapi.StatusResponse, error) {
	now, err := a.engine.Status()
	if err != nil {
		return nil, err
	}
	response := &agentapi.StatusResponse{
		AgentVersion: a.version, Stack: agentapi.NewStack(now.Stack), Generation: now.Generation, State: now.Message(),
		Last: now.Report, Pending: now.Pending, ReadySeconds: a.ready, Goroutines: int64(runtime.NumGoroutine()),
		Refused: a.notBooted,
	}
	digest, err := a.replacer.own()
	if err != nil {
		return nil, err
	}
	response.AgentDigest, response.Protocol = digest.String(), agentapi.Protocol
	a.refused.report(response)
	if response.Configuration, err = a.configurator.ID(); err != nil {
		return nil, err
	}
	if response.BootId, err = a.system.BootID(); err != nil {
		return nil, err
	}
	if response.Kernel, err = a.system.Kernel(); err != nil {
		return nil, err
	}
	if response.UptimeSeconds, err = uptime(a.proc); err != nil {
		return nil, err
	}
	if response.Network, err = readNetwork(); err != nil {
		return nil, err
	}
	if event == agentapi.Event_ADDRESS {
		return response, nil
	}
	if event == agentapi.Event_PROGRESS && now.Report != nil && !now.Report.GetDone() {
		return response, nil
	}
	if response.SystemState = state; state == "" {
		response.SystemState = a.state(ctx)
	}
	if event == agentapi.Event_SERVICES && !agentapi.Started(response.GetSystemState()) {
		return response, nil
	}
	attached, err := a.layers.Attached(a.candidates(now))
	if err != nil {
		return nil, err
	}
	for _, id := range attached {
		response.Attached = append(response.Attached, id.String())
	}
	if a.looked != nil {
		a.looked()
	}
	response.Unreadable = a.unreadable(ctx, now)
	remaining, pending, err := a.engine.OldCode(ctx)
	if err != nil { // not an error of the status: a VM that cannot read its /usr has to say so
		pending = append(pending, "unable to find what still runs old code: "+err.Error())
	}
	response.Remaining = remaining
	for _, line := range pending {
		if !slices.Contains(response.GetPending(), line) {
			response.Pending = append(response.Pending, line)
		}
	}
	return response, a.measure(response)
}

// unreadable describes the layers that the VM stands on and cannot read: those of the running stack
// and of the root file system. A refresh in flight checks them itself. They are checked at the same
// time, since a disk that hangs takes long.
func (a *answerer) unreadable(ctx context.Context, now refresh.Status) []string {
	if now.Report != nil && !now.Report.GetDone() {
		return nil
	}
	var layers []release.Layer
	for _, layer := range slices.Concat(now.Stack.Layers, a.booted.OfBase()) {
		if !slices.ContainsFunc(layers, func(l release.Layer) bool { return l.ID == layer.ID }) {
			layers = append(layers, layer)
		}
	}
	failed := make([]error, len(layers))
	var checks sync.WaitGroup
	for i, layer := range layers {
		checks.Go(func() { failed[i] = a.layers.Check(ctx, layer) })
	}
	checks.Wait()
	var lines []string
	for _, err := range failed {
		if err != nil {
			lines = append(lines, err.Error())
		}
	}
	return lines
}

// candidates returns the layers that this VM knows: the serial of a device holds only the beginning of an id.
func (a *answerer) candidates(now refresh.Status) []release.Layer {
	layers := append([]release.Layer{}, now.Stack.Layers...)
	layers = append(layers, a.booted.Layers...)
	for _, stack := range []*agentapi.Stack{now.Report.GetFrom(), now.Report.GetTo()} {
		if parsed, err := agentapi.ParseStack(stack); err == nil {
			layers = append(layers, parsed.Layers...)
		}
	}
	return layers
}

func (a *answerer) measure(response *agentapi.StatusResponse) error {
	statm, err := fileio.Read(a.proc+"/self/statm", 4<<10)
	if err != nil {
		return err
	}
	if fields := strings.Fields(string(statm)); len(fields) > 1 {
		pages, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return fmt.Errorf("resident pages: %w", err)
		}
		response.ResidentBytes = pages * int64(os.Getpagesize())
	}
	files, err := os.ReadDir(a.proc + "/self/fd")
	if err != nil {
		return err
	}
	response.OpenFiles = int64(len(files)) - 1 // one of them lists
	var disk unix.Statfs_t
	if err := unix.Statfs(a.privateDir, &disk); err != nil {
		return fmt.Errorf("size of %s: %w", a.privateDir, err)
	}
	block := max(disk.Frsize, 1)
	response.DiskSizeBytes = int64(disk.Blocks) * block
	response.DiskUsedBytes = int64(disk.Blocks-disk.Bfree) * block
	return nil
}

// uptime returns the seconds since the kernel started.
func uptime(proc string) (float64, error) {
	text, err := fileio.Read(proc+"/uptime", 4<<10)
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	seconds, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0, fmt.Errorf("uptime %q: %w", first, err)
	}
	return seconds, nil
}

// Put implements agentapi.AgentService.
func (a *answerer) Put(_ context.Context, request *agentapi.PutRequest) (*agentapi.PutResponse, error) {
	digest, err := tree.ParseDigest(request.GetDigest())
	if err != nil {
		return nil, failure(fmt.Errorf("put: %w", err))
	}
	complete, err := a.blobs.put(digest, request.GetOffset(), request.GetSize(), request.GetData())
	if err != nil {
		return nil, failure(fmt.Errorf("put: %w", err))
	}
	return &agentapi.PutResponse{Complete: complete}, nil
}

// Assess implements agentapi.AgentService.
func (a *answerer) Assess(ctx context.Context, request *agentapi.AssessRequest) (*agentapi.AssessResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, assessLimit)
	defer cancel()
	impact, err := a.engine.Assess(ctx, request)
	if err != nil {
		return nil, failure(fmt.Errorf("assess: %w", err))
	}
	// The contents lists take memory, and the host uploads them again for a refresh. A refresh in flight needs them.
	if now, err := a.engine.Status(); err == nil && (now.Report == nil || now.Report.GetDone()) {
		if err := a.blobs.Drop(); err != nil {
			return nil, failure(fmt.Errorf("assess: %w", err))
		}
	}
	return &agentapi.AssessResponse{Impact: impact}, nil
}

// Refresh implements agentapi.AgentService.
func (a *answerer) Refresh(_ context.Context, request *agentapi.RefreshRequest) (*agentapi.RefreshResponse, error) {
	started, err := a.engine.Refresh(request)
	if err != nil {
		return nil, failure(fmt.Errorf("refresh: %w", err))
	}
	return &agentapi.RefreshResponse{Started: started}, nil
}

// Check implements agentapi.AgentService.
func (a *answerer) Check(ctx context.Context, request *agentapi.CheckRequest) (*agentapi.CheckResponse, error) {
	if n := len(request.GetHealthChecks()); n > maxChecks {
		return nil, status.Errorf(codes.InvalidArgument, "check: %d health checks at once, more than %d", n, maxChecks)
	}
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	return &agentapi.CheckResponse{Failed: a.engine.Check(ctx, request.GetHealthChecks())}, nil
}

// Mapped implements agentapi.AgentService.
func (a *answerer) Mapped(ctx context.Context, request *agentapi.MappedRequest) (*agentapi.MappedResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, mappedLimit)
	defer cancel()
	files, err := mappedFiles(ctx, a.proc, request.GetSuffix())
	if err != nil {
		return nil, failure(fmt.Errorf("mapped files: %w", err))
	}
	return &agentapi.MappedResponse{Files: files}, nil
}

// ReleaseLayers implements agentapi.AgentService.
func (a *answerer) ReleaseLayers(ctx context.Context,
	request *agentapi.ReleaseLayersRequest) (*agentapi.ReleaseLayersResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, releaseLimit)
	defer cancel()
	response, err := a.release(ctx, request.GetIds(), request.GetAskOnly())
	if err != nil {
		return nil, failure(fmt.Errorf("release layers: %w", err))
	}
	return response, nil
}

func (a *answerer) release(ctx context.Context, texts []string, askOnly bool) (*agentapi.ReleaseLayersResponse, error) {
	if len(texts) > maxReleased {
		return nil, fmt.Errorf("%d layers at once, more than %d", len(texts), maxReleased)
	}
	now, err := a.engine.Status()
	if err != nil {
		return nil, err
	}
	response := &agentapi.ReleaseLayersResponse{}
	for _, text := range texts {
		id, err := tree.ParseDigest(text)
		if err != nil {
			return nil, err
		}
		if by := a.needed(now, id); by != "" {
			response.Held = append(response.Held, &agentapi.Held{Id: text, By: []string{by}})
			continue
		}
		by, err := a.closeLayer(ctx, id, askOnly)
		if err != nil {
			return nil, err
		}
		if len(by) > 0 {
			response.Held = append(response.Held, &agentapi.Held{Id: text, By: by})
		} else {
			response.Free = append(response.Free, text)
		}
	}
	return response, nil
}

// closeUnneeded closes a layer, unless the running stack or a refresh needs it. It does not wait
// for a layer that is in use: the host has it closed when it detaches it.
func (a *answerer) closeUnneeded(ctx context.Context, id tree.Digest) error {
	now, err := a.engine.Status()
	if err != nil || a.needed(now, id) != "" {
		return err
	}
	brief, cancel := context.WithTimeout(ctx, briefly)
	defer cancel()
	return a.layers.Close(brief, id)
}

// closeLayer closes a layer and returns nothing, or it returns what uses the layer. With askOnly it only looks.
func (a *answerer) closeLayer(ctx context.Context, id tree.Digest, askOnly bool) (users []string, err error) {
	if askOnly {
		if open, err := a.layers.Open(id); err != nil || !open {
			return nil, err
		}
		users, err := a.system.Users(ctx, id)
		if _, busy := a.busy.Load(id); err == nil && len(users) == 0 && busy {
			users = []string{kernelUser}
		}
		return users, err
	}
	a.busy.Delete(id)
	brief, cancel := context.WithTimeout(ctx, briefly)
	defer cancel()
	if err = a.layers.Close(brief, id); !errors.Is(err, mounts.ErrLayerInUse) {
		return nil, err
	}
	// Mostly processes use other layers of the same /usr. Then nothing need be waited for or reloaded.
	var reloading error
	users, explained, err := a.system.Readers(ctx, id)
	if err == nil && (len(users) > 0 || !explained) {
		reloading = a.system.ReloadIndexes(ctx)
		if err = a.layers.Close(ctx, id); !errors.Is(err, mounts.ErrLayerInUse) {
			return nil, err
		}
		users, explained, err = a.system.Readers(ctx, id)
	}
	switch {
	case err != nil:
		return nil, err
	case len(users) == 0 && explained:
		if err = a.layers.Abandon(id); !errors.Is(err, mounts.ErrLayerInUse) {
			return nil, err
		}
		users = []string{kernelUser}
	case len(users) == 0:
		a.busy.Store(id, true)
		users = []string{kernelUser}
	}
	if reloading != nil {
		users = append(users, reloading.Error())
	}
	return users, nil
}

// kernelUser describes what uses a layer that no process is seen to use.
const kernelUser = "something in the kernel: a file descriptor in transit between processes, or an asynchronous operation"

// needed says what needs a layer, "" if nothing is known to.
func (a *answerer) needed(now refresh.Status, id tree.Digest) string {
	has := func(layers []release.Layer) bool {
		for _, layer := range layers {
			if layer.ID == id {
				return true
			}
		}
		return false
	}
	switch {
	case has(now.Stack.Layers):
		return "the running stack"
	case has(a.booted.OfBase()):
		return "the root file system, until the next boot"
	}
	if now.Report == nil || now.Report.GetDone() {
		return ""
	}
	for _, layer := range append(now.Report.GetFrom().GetLayers(), now.Report.GetTo().GetLayers()...) {
		if layer.GetId() == id.String() {
			return "the refresh in flight"
		}
	}
	return ""
}

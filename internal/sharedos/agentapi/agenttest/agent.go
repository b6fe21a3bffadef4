// Package agenttest has an agent without a guest, for tests of the host's side. It speaks the same
// RPC over the same TLS as a real agent, and is as strict about digests, signatures and callers.
package agenttest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Agent is the agent of one guest. Its key and its committed stack survive reboots, as on a private
// disk. Set the exported fields before Boot.
type Agent struct {
	// Impact is the answer to an assessment; nil stands for level NONE.
	Impact *agentapi.Impact
	// RefreshError, if set, makes every refresh roll back with this error.
	RefreshError string
	// Polls is the number of Status calls during which a refresh stays in flight.
	Polls int
	// Hold lists the layers that stay in use, each with its user.
	Hold map[string][]string
	// NoStack makes the agent report an invalid stack, as only a broken or hostile agent does.
	NoStack bool
	// SystemState is systemd's system state; "" stands for "running".
	SystemState string
	// Addresses returns the addresses of the VM; nil if the agent does not say.
	Addresses func() []string
	// Interfaces returns the addresses by the interfaces of the VM. It may be nil.
	Interfaces func() []*agentapi.InterfaceAddresses
	// Failing returns the health checks that are not good, as Check answers them. If it is nil,
	// those that SetUnhealthy named are not good.
	Failing func(checks []*agentapi.HealthCheck) []*agentapi.FailedCheck
	// Has is the answer to Resources. It may be nil.
	Has func(*agentapi.ResourcesRequest) *agentapi.ResourcesResponse
	// Binary is the agent's program. Without it the agent reports no digest, like agents that cannot be replaced.
	Binary []byte
	// OldBinary is the program of the last version. While Binary equals it, the agent speaks protocol 1.
	OldBinary []byte
	// ConfigureError, if set, makes the guest undo every configuration, and report this error.
	ConfigureError string
	// Uses are the units that are restarted when a configured file changes.
	Uses []string
	// RefuseAgent, if set, is the reason why a new agent does not start.
	RefuseAgent string

	mu sync.Mutex
	// drift is what somebody has changed in the guest.
	drift     map[string]string
	key       ed25519.PrivateKey
	operators []ed25519.PublicKey
	server    *ttrpc.Server
	conns     chan net.Conn
	stop      context.CancelFunc
	stopped   chan struct{}

	committed *release.Stack
	// given is the stack that the host configured at the last boot.
	given *release.Stack
	// detaches is BootConfig.Detaches of the last boot.
	detaches int
	attached map[string]bool
	blobs    map[string][]byte
	inFlight *release.Stack
	left     int
	allowed  agentapi.Level
	// waiting is the report of a refresh that waits for the host to start the VM.
	waiting *agentapi.Report
	// refusal is why the refresh in flight will be refused.
	refusal     string
	refusalCode agentapi.Refusal
	last        *agentapi.Report
	boots       uint64
	// kernel is the release of the running kernel.
	kernel string
	// generation counts commits.
	generation uint64
	refreshes  int
	// refused is the reason why a new agent did not take over, and refusedDigest is that agent's digest.
	refused, refusedDigest string
	// diskSize is the size to which the private disk was grown while the guest ran, fileSystem that
	// of its file system, both in bytes.
	diskSize, fileSystem int64
	asked                *agentapi.RefreshRequest
	questions            []*agentapi.StatusRequest
	disksSet             []*agentapi.SetDisksRequest
	diskUsers            map[string][]string
	identified           []*agentapi.IdentifyRequest
	assessed             *agentapi.AssessRequest
	// unhealthy are the health checks that fail, with the reasons.
	unhealthy map[string]string
	// configured are the requests by which the guest has taken configurations on.
	configured []*agentapi.ConfigureRequest
	document   []byte
}

// New returns an agent with a new key. It has not booted yet.
func New() (*Agent, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	return &Agent{key: key, attached: map[string]bool{}, blobs: map[string][]byte{}}, nil
}

// Boot starts the agent with the boot configuration of the host and the attached layers.
func (a *Agent) Boot(config []byte, layers []tree.Digest) error {
	var boot agentapi.BootConfig
	if err := json.Unmarshal(config, &boot); err != nil {
		return fmt.Errorf("boot configuration: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.server != nil {
		return errors.New("the agent runs already")
	}
	a.operators = nil
	for _, text := range boot.Operators {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return fmt.Errorf("operator %q is no key", text)
		}
		a.operators = append(a.operators, key)
	}
	a.attached = map[string]bool{}
	for _, id := range layers {
		a.attached[id.String()] = true
	}
	// A new stack in the configuration wins over the committed one, and so does one that detaches
	// what was attached by use.
	if a.committed == nil || !a.has(*a.committed) || a.given == nil || !a.given.Same(boot.Stack) ||
		a.detaches != boot.Detaches {
		a.committed = &boot.Stack
	}
	a.given, a.detaches = &boot.Stack, boot.Detaches
	if !a.has(*a.committed) {
		return errors.New("a layer of the stack is not attached")
	}
	a.boots++
	a.kernel = a.committed.Kernel
	waited := a.waiting
	a.last, a.inFlight, a.waiting = nil, nil, nil
	if waited != nil && boot.Stack.Same(*a.committed) && waited.GetTo().GetId() == boot.Stack.ID.String() {
		a.tried(waited)
	}
	return a.serve()
}

// tried ends a refresh that the host has continued by starting the VM.
func (a *Agent) tried(report *agentapi.Report) {
	a.last = report
	report.Done = true
	from, err := agentapi.ParseStack(report.GetFrom())
	if a.RefreshError != "" && err == nil && a.has(from) {
		report.State, report.Error = agentapi.State_ROLLING_BACK, a.RefreshError
		a.committed = &from // with the kernel of what was tried
		return
	}
	report.State, report.Committed = agentapi.State_COMMITTED, true
	a.generation++
}

func (a *Agent) has(stack release.Stack) bool {
	return !slices.ContainsFunc(stack.Layers, func(l release.Layer) bool { return !a.attached[l.ID.String()] })
}

func (a *Agent) serve() error {
	cert, err := transport.Certificate(a.key)
	if err != nil {
		return err
	}
	if a.server, err = ttrpc.NewServer(); err != nil {
		return err
	}
	agentapi.RegisterAgentService(a.server, a)
	ctx, cancel := context.WithCancel(context.Background())
	a.stop, a.stopped, a.conns = cancel, make(chan struct{}), make(chan net.Conn)
	listener := transport.NewListener(pipes{a.conns, ctx}, transport.ServerConfig(cert, a.operators))
	go func(server *ttrpc.Server, stopped chan struct{}) {
		defer close(stopped)
		_ = server.Serve(ctx, listener) // ends with Off
		_ = listener.Close()
	}(a.server, a.stopped)
	return nil
}

// Off ends the agent as a power-off does.
func (a *Agent) Off() {
	a.mu.Lock()
	server, stop, stopped := a.server, a.stop, a.stopped
	a.server = nil
	a.mu.Unlock()
	if server == nil {
		return
	}
	stop()
	_ = server.Close() // connections are cut, as by a power-off
	<-stopped
}

// Attach attaches a layer.
func (a *Agent) Attach(id tree.Digest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.attached[id.String()] = true
}

// Detach detaches a layer. It fails for a layer of the running stack, without which a real guest would lose its root.
func (a *Agent) Detach(id tree.Digest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.ContainsFunc(a.committed.Layers, func(l release.Layer) bool { return l.ID == id }) {
		return fmt.Errorf("layer %s is in use", id)
	}
	delete(a.attached, id.String())
	return nil
}

// Resize makes the private disk larger, but not its file system.
func (a *Agent) Resize(size int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.diskSize = size
}

// FileSystem is the size of the private disk's file system in bytes, once it was grown.
func (a *Agent) FileSystem() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fileSystem
}

// Refreshes returns the number of refreshes that were started.
func (a *Agent) Refreshes() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refreshes
}

// Asked is the request of the last refresh that was started; nil if none was.
func (a *Agent) Asked() *agentapi.RefreshRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

// Assessed is the request of the last assessment; nil if there was none.
func (a *Agent) Assessed() *agentapi.AssessRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.assessed
}

// Stack returns the running stack; the zero value before the first boot.
func (a *Agent) Stack() release.Stack {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.committed == nil {
		return release.Stack{}
	}
	return *a.committed
}

// FallBack makes the guest run another stack, like a guest whose newest stack does not boot, or that has attached a
// component by itself.
func (a *Agent) FallBack(stack release.Stack) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.committed = &stack
}

// pending lists what takes effect at the next start.
func (a *Agent) pending() []string {
	if a.kernel == a.committed.Kernel {
		return nil
	}
	return []string{fmt.Sprintf("kernel %s runs, %s is installed", a.kernel, a.committed.Kernel)}
}

// DialContext implements transport.Dialer.
func (a *Agent) DialContext(ctx context.Context, port uint32) (net.Conn, error) {
	a.mu.Lock()
	conns, running := a.conns, a.server != nil
	a.mu.Unlock()
	if !running || port != agentapi.Port {
		return nil, transport.ErrRefused
	}
	ours, theirs := net.Pipe()
	select {
	case conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), ours.Close(), theirs.Close())
	}
}

type pipes struct {
	conns chan net.Conn
	ctx   context.Context
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// Status implements agentapi.AgentService. It answers at once, without the parts for which a real agent would wait.
func (a *Agent) Status(_ context.Context, question *agentapi.StatusRequest) (*agentapi.StatusResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.questions = append(a.questions, question)
	if a.inFlight != nil && a.waiting == nil {
		if a.left--; a.left < 0 {
			a.end()
		}
	}
	answer := &agentapi.StatusResponse{
		AgentVersion: "test", BootId: fmt.Sprintf("boot-%d", a.boots), Kernel: a.kernel, Pending: a.pending(),
		Stack: agentapi.NewStack(*a.committed), State: agentapi.State_IDLE, Last: a.last,
		SystemState: "running", ReadySeconds: 1, Generation: a.generation, Protocol: agentapi.Protocol,
	}
	if a.Binary != nil {
		answer.AgentDigest, answer.AgentRefused, answer.RefusedAgentDigest = tree.Sum(a.Binary).String(),
			a.refused, a.refusedDigest
	}
	if a.old() {
		// An agent of the last version knows no ids of stacks.
		answer.Protocol, answer.RefusedAgentDigest, answer.Stack.Id = 0, "", ""
	}
	if a.SystemState != "" {
		answer.SystemState = a.SystemState
	}
	answer.Configuration, _ = a.configuration()
	if a.NoStack {
		answer.Stack = &agentapi.Stack{Base: "none"}
	}
	if a.inFlight != nil {
		answer.State = agentapi.State_STAGED
	}
	if a.waiting != nil {
		answer.State = agentapi.State_STARTING
	}
	if a.Addresses != nil {
		answer.Network = &agentapi.Network{Addresses: a.Addresses()}
	}
	if a.Interfaces != nil {
		answer.Network = &agentapi.Network{Addresses: answer.GetNetwork().GetAddresses(), Interfaces: a.Interfaces()}
	}
	if question.GetEvent() == agentapi.Event_PROGRESS && answer.GetState() != agentapi.State_IDLE {
		answer.SystemState = ""
		return answer, nil
	}
	if question.GetEvent() == agentapi.Event_SERVICES && !agentapi.Started(answer.GetSystemState()) {
		return answer, nil
	}
	for id := range a.attached {
		answer.Attached = append(answer.Attached, id)
	}
	slices.Sort(answer.Attached)
	return answer, nil
}

// Questions returns the requests of all Status calls.
func (a *Agent) Questions() []*agentapi.StatusRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.questions)
}

// climb chooses the rung like a real agent: a level above RESTART needs a soft-reboot, and another
// kernel the highest rung that the strategy allows.
func (a *Agent) climb(strategy string, to release.Stack) (rung string, level agentapi.Level) {
	rungs := []string{"live", "soft_reboot", "kexec", "reboot"}
	levels := []agentapi.Level{a.impact().GetLevel(), agentapi.Level_SOFT_REBOOT,
		agentapi.Level_KEXEC, agentapi.Level_REBOOT}
	highest, needed := max(0, slices.Index(rungs, strategy)), 0
	if a.impact().GetLevel() > agentapi.Level_RESTART {
		needed = 1
	}
	if a.kernel != to.Kernel && highest > 1 {
		needed = highest
	}
	if needed > highest {
		return "next_boot", levels[needed]
	}
	return rungs[needed], levels[needed]
}

// told returns the assessment for a rung.
func (a *Agent) told(rung string, level agentapi.Level) *agentapi.Impact {
	told, _ := proto.Clone(a.impact()).(*agentapi.Impact)
	told.Strategy, told.Level = rung, level
	return told
}

// end finishes the refresh in flight, or leaves it waiting for the host.
func (a *Agent) end() {
	rung, level := a.climb(a.asked.GetStrategy(), *a.inFlight)
	a.last = &agentapi.Report{
		From: agentapi.NewStack(*a.committed), To: agentapi.NewStack(*a.inFlight), Done: true,
		Impact: a.told(rung, level), Strategy: rung,
		Error: a.RefreshError, State: agentapi.State_ROLLING_BACK,
		Timings: []*agentapi.Timing{{Step: "assess", Micros: 1500}},
	}
	allowed := a.allowed
	if allowed == agentapi.Level_LEVEL_UNSPECIFIED {
		allowed = agentapi.Level_RESTART
	}
	switch {
	case a.refusal != "":
		a.last.Refused, a.last.Error, a.last.Impact = true, a.refusal, nil
		a.last.Refusal = a.refusalCode
	case level > allowed:
		a.last.Refused, a.last.Error = true, fmt.Sprintf("it needs %v, and %v is allowed", level, allowed)
		a.last.Refusal = agentapi.Refusal_REFUSAL_IMPACT
	case rung == "next_boot":
		a.last.Refused, a.last.Error = true,
			fmt.Sprintf("it needs %v, and the strategy is %s", level, a.asked.GetStrategy())
		a.last.Refusal = agentapi.Refusal_REFUSAL_STRATEGY
	case rung == "reboot":
		a.last.Done, a.last.Error, a.last.State = false, "", agentapi.State_STARTING
		a.waiting = a.last
		return
	case rung == "kexec" && (a.blobs[a.asked.GetKernel()] == nil || a.blobs[a.asked.GetInitramfs()] == nil):
		a.last.Error = "the host has not handed the kernel over"
	default:
		a.last.Timings = append(a.last.Timings, &agentapi.Timing{Step: "swap", Micros: 250})
		for _, unit := range a.impact().GetUnits() {
			a.last.Restarts = append(a.last.Restarts,
				&agentapi.UnitRestart{Unit: unit.GetUnit(), Level: unit.GetLevel(), InterruptionUs: 12500})
		}
		if a.RefreshError != "" {
			break
		}
		a.last.Committed, a.last.State = true, agentapi.State_COMMITTED
		a.committed = a.inFlight
		if rung == "kexec" {
			a.kernel = a.committed.Kernel
			a.boots++
		}
		a.last.Pending = a.pending()
		a.generation++
	}
	a.inFlight, a.blobs = nil, map[string][]byte{}
}

func (a *Agent) impact() *agentapi.Impact {
	if a.Impact != nil {
		return a.Impact
	}
	return &agentapi.Impact{Level: agentapi.Level_NONE}
}

// Put implements agentapi.AgentService.
func (a *Agent) Put(_ context.Context, part *agentapi.PutRequest) (*agentapi.PutResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if part.GetOffset() == 0 {
		a.blobs[part.GetDigest()] = nil
	}
	have := a.blobs[part.GetDigest()]
	if int64(len(have)) != part.GetOffset() {
		return nil, status.Errorf(codes.InvalidArgument, "part at %d follows %d bytes", part.GetOffset(), len(have))
	}
	have = append(have, part.GetData()...)
	a.blobs[part.GetDigest()] = have
	if int64(len(have)) < part.GetSize() {
		return &agentapi.PutResponse{}, nil
	}
	if tree.Sum(have).String() != part.GetDigest() {
		delete(a.blobs, part.GetDigest())
		return nil, status.Error(codes.InvalidArgument, "the bytes do not have the digest")
	}
	return &agentapi.PutResponse{Complete: true}, nil
}

// open checks the signature of a stack manifest, and that its contents list was uploaded if it is needed.
func (a *Agent) open(note []byte, contents bool) (*release.StackManifest, release.Stack, error) {
	if len(note) == 0 {
		return nil, release.Stack{}, status.Error(codes.InvalidArgument, "no stack manifest")
	}
	manifest, id, err := release.OpenStack(note, a.operators)
	switch {
	case errors.Is(err, release.ErrSignature):
		return nil, release.Stack{}, status.Error(codes.PermissionDenied, err.Error())
	case err != nil:
		return nil, release.Stack{}, status.Error(codes.InvalidArgument, err.Error())
	}
	if blob := a.blobs[manifest.Contents.Digest.String()]; contents && tree.Sum(blob) != manifest.Contents.Digest {
		return nil, release.Stack{}, status.Errorf(codes.FailedPrecondition, "the contents list of %s was not put", id)
	}
	return manifest, manifest.Record(id), nil
}

// target checks a target like a real agent.
func (a *Agent) target(target *agentapi.Target, downgrade bool) (release.Stack, error) {
	next, stack, err := a.open(target.GetTo(), true)
	if err != nil {
		return stack, err
	}
	now, compared, err := a.open(target.GetFrom(), true)
	if err != nil {
		return stack, err
	}
	if !compared.Same(*a.committed) {
		return stack, status.Errorf(codes.FailedPrecondition, "the VM runs %s, not %s", a.committed.Base, compared.Base)
	}
	if next.Base.Name != now.Base.Name || next.Architecture != now.Architecture {
		return stack, status.Errorf(codes.InvalidArgument, "it is of base %q, this VM runs %q",
			next.Base.Name, now.Base.Name)
	}
	if downgrade {
		return stack, nil
	}
	if err := inOrder(now.Base, next.Base); err != nil {
		return stack, err
	}
	for _, was := range now.Components {
		for _, is := range next.Components {
			if err := inOrder(was, is); was.Name == is.Name && err != nil {
				return stack, err
			}
		}
	}
	return stack, nil
}

func inOrder(was, is release.Member) error {
	if is.Sequence < was.Sequence || is.Sequence == was.Sequence && is.ID != was.ID {
		return status.Errorf(codes.InvalidArgument, "release %d of %q comes after %d",
			is.Sequence, is.Name, was.Sequence)
	}
	return nil
}

// old reports whether an agent of the last version runs.
func (a *Agent) old() bool { return a.OldBinary != nil && bytes.Equal(a.Binary, a.OldBinary) }

// errOld is the answer of an agent of the last version to a target of this version.
var errOld = status.Error(codes.InvalidArgument, "target: not a target that this VM can move to: 0 manifests")

// Assess implements agentapi.AgentService.
func (a *Agent) Assess(_ context.Context, request *agentapi.AssessRequest) (*agentapi.AssessResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.old() {
		return nil, errOld
	}
	stack, err := a.target(request.GetTarget(), true)
	if err != nil {
		return nil, err
	}
	a.assessed = request
	return &agentapi.AssessResponse{Impact: a.told(a.climb(request.GetStrategy(), stack))}, nil
}

// Refresh implements agentapi.AgentService.
func (a *Agent) Refresh(_ context.Context, request *agentapi.RefreshRequest) (*agentapi.RefreshResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.old() {
		return nil, errOld
	}
	_, wanted, err := a.open(request.GetTarget().GetTo(), false)
	if err != nil {
		return nil, err
	}
	if a.inFlight != nil {
		if a.inFlight.Same(wanted) {
			return &agentapi.RefreshResponse{}, nil
		}
		return nil, status.Error(codes.FailedPrecondition, "another refresh is in flight")
	}
	if a.committed.Same(wanted) {
		return &agentapi.RefreshResponse{}, nil
	}
	// The report describes what else is wrong with the target.
	a.refusal = ""
	if _, err := a.target(request.GetTarget(), request.GetAllowDowngrade()); err != nil {
		a.refusal, a.refusalCode = err.Error(), agentapi.Refusal_REFUSAL_TARGET
	} else if !a.has(wanted) {
		a.refusal, a.refusalCode = "a layer of the target is not attached", agentapi.Refusal_REFUSAL_SYSTEM
	}
	a.inFlight, a.left, a.allowed = &wanted, a.Polls, request.GetMaxImpact()
	a.last = &agentapi.Report{From: agentapi.NewStack(*a.committed), To: agentapi.NewStack(wanted),
		State: agentapi.State_IDLE}
	a.refreshes++
	a.asked = request
	return &agentapi.RefreshResponse{Started: true}, nil
}

// ReleaseLayers implements agentapi.AgentService.
func (a *Agent) ReleaseLayers(_ context.Context,
	request *agentapi.ReleaseLayersRequest) (*agentapi.ReleaseLayersResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	answer := &agentapi.ReleaseLayersResponse{}
	for _, id := range request.GetIds() {
		by := a.Hold[id]
		if slices.ContainsFunc(a.committed.Layers, func(l release.Layer) bool { return l.ID.String() == id }) {
			by = append(by, "the running stack")
		}
		if len(by) > 0 {
			answer.Held = append(answer.Held, &agentapi.Held{Id: id, By: by})
			continue
		}
		answer.Free = append(answer.Free, id)
	}
	return answer, nil
}

// Mapped implements agentapi.AgentService. There are no processes.
func (a *Agent) Mapped(context.Context, *agentapi.MappedRequest) (*agentapi.MappedResponse, error) {
	return &agentapi.MappedResponse{}, nil
}

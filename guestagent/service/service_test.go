package service

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/configure"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/refresh"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// fakeEngine answers what it was told to.
type fakeEngine struct {
	mutex   sync.Mutex
	now     refresh.Status
	asked   []*agentapi.RefreshRequest
	refused error
	yielded bool
	// remaining, oldPending and oldFailure are the answer of OldCode.
	remaining, oldPending []string
	oldFailure            error
	// turned, when set, is waited for by those who wait for another state, and seen gets what they saw.
	turned chan struct{}
	seen   chan agentapi.State
	// slow has an assessment last until its caller has gone; it tells when it begins and ends.
	slow chan error
}

func (f *fakeEngine) Status() (refresh.Status, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return f.now, nil
}

func (f *fakeEngine) OldCode(context.Context) (remaining, pending []string, err error) {
	return f.remaining, f.oldPending, f.oldFailure
}

func (f *fakeEngine) Await(ctx context.Context, seen agentapi.State) {
	f.seen <- seen
	select {
	case <-ctx.Done():
	case <-f.turned:
	}
}

func (f *fakeEngine) Assess(ctx context.Context, _ *agentapi.AssessRequest) (*agentapi.Impact, error) {
	if f.slow != nil {
		f.slow <- nil
		<-ctx.Done()
		f.slow <- ctx.Err()
		return nil, ctx.Err()
	}
	return &agentapi.Impact{Level: agentapi.Level_RESTART}, nil
}

func (f *fakeEngine) Refresh(request *agentapi.RefreshRequest) (bool, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.asked = append(f.asked, request)
	return f.refused == nil, f.refused
}

func (f *fakeEngine) Check(_ context.Context, checks []*agentapi.HealthCheck) (failed []*agentapi.FailedCheck) {
	for _, check := range checks {
		if check.GetUnit() != "" {
			failed = append(failed,
				&agentapi.FailedCheck{Name: check.GetName(), Reason: check.GetUnit() + " has failed"})
		}
	}
	return failed
}

func (f *fakeEngine) Yield() (func(), error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if f.refused != nil {
		return nil, f.refused
	}
	f.yielded = true
	return func() { f.yielded = false }, nil
}

type fakeLayers struct {
	inUse, unreadable map[tree.Digest]bool
	// abandoned gets the layers that were; mounted are those whose own mount is in use, so that they cannot be.
	abandoned *[]tree.Digest
	mounted   map[tree.Digest]bool
	// patient counts the calls of Close for a layer that may wait until the layer is not busy any
	// more, brief all others.
	patient, brief map[tree.Digest]int
}

func (f fakeLayers) Check(_ context.Context, layer release.Layer) error {
	if f.unreadable[layer.ID] {
		return fmt.Errorf("check layer %s: %w", layer.ID, mounts.ErrNoDisk)
	}
	return nil
}

func (f fakeLayers) Attached(layers []release.Layer) ([]tree.Digest, error) {
	var ids []tree.Digest
	for _, layer := range layers {
		ids = append(ids, layer.ID)
	}
	return ids, nil
}

func (f fakeLayers) Open(id tree.Digest) (bool, error) { return f.inUse[id], nil }

func (f fakeLayers) Close(ctx context.Context, id tree.Digest) error {
	if until, bounded := ctx.Deadline(); bounded && time.Until(until) <= briefly {
		f.brief[id]++
	} else {
		f.patient[id]++
	}
	if f.inUse[id] {
		return mounts.ErrLayerInUse
	}
	return nil
}

func (f fakeLayers) Abandon(id tree.Digest) error {
	if f.mounted[id] {
		return mounts.ErrLayerInUse
	}
	*f.abandoned = append(*f.abandoned, id)
	return nil
}

type fakeObserver struct {
	// asks counts what was asked for the state, until is how often it is "starting".
	asks  *atomic.Int64
	until int64
}

func (fakeObserver) BootID() (string, error) { return "boot", nil }
func (fakeObserver) Kernel() (string, error) { return "6.12.0", nil }
func (f fakeObserver) State(context.Context) (string, error) {
	if f.asks != nil && f.asks.Add(1) <= f.until {
		return "starting", nil
	}
	return "running", nil
}
func (fakeObserver) ReloadIndexes(context.Context) error { return nil }
func (fakeObserver) Users(_ context.Context, id tree.Digest) ([]string, error) {
	switch id {
	case tree.Digest{99}:
		return []string{"old.service"}, nil
	}
	return nil, nil
}

// Readers says of the layers 96 and 95 that only other layers of their file systems are used.
func (f fakeObserver) Readers(ctx context.Context, id tree.Digest) ([]string, bool, error) {
	readers, err := f.Users(ctx, id)
	return readers, len(readers) > 0 || id == tree.Digest{96} || id == tree.Digest{95}, err
}

// world is an agent that serves on a unix socket.
type world struct {
	t         *testing.T
	engine    *fakeEngine
	answers   *answerer
	operator  ed25519.PrivateKey
	agentKey  ed25519.PrivateKey
	socket    string
	listeners chan net.Listener
	// passed counts callers that came and that went.
	passed atomic.Int64
	// left is true once it was to leave serving, answered counts what Status answered.
	left     atomic.Bool
	answered atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, usualLimits)
}

func newWorldWith(t *testing.T, limits callerLimits) *world {
	t.Helper()
	directory := t.TempDir()
	key, err := agentKey(filepath.Join(directory, "state", "agent.key"))
	must(t, err)
	_, operator, err := ed25519.GenerateKey(nil)
	must(t, err)
	blobs, err := newBlobs(filepath.Join(directory, "blobs"))
	must(t, err)
	running := release.Stack{Base: tree.Digest{1},
		Layers: []release.Layer{{ID: tree.Digest{10}, DataSize: 4096}}, Kernel: "6.12.0"}
	w := &world{t: t, operator: operator, agentKey: key, socket: filepath.Join(directory, "s"),
		listeners: make(chan net.Listener, 16),
		engine:    &fakeEngine{now: refresh.Status{Stack: running, Generation: 3, State: refresh.Idle}}}
	w.answers = &answerer{version: "test", engine: w.engine, blobs: blobs,
		configurator: &configure.Configurator{StateDirectory: directory},
		layers: fakeLayers{inUse: map[tree.Digest]bool{{99}: true, {98}: true, {97}: true, {96}: true, {95}: true},
			mounted: map[tree.Digest]bool{{95}: true}, abandoned: new([]tree.Digest), patient: map[tree.Digest]int{},
			brief: map[tree.Digest]int{}},
		system: fakeObserver{}, answered: func() { w.answered.Add(1) },
		booted: release.Stack{Layers: []release.Layer{{ID: tree.Digest{20}}}}, privateDir: directory, proc: "/proc"}
	public, _ := operator.Public().(ed25519.PublicKey)
	guest, _ := key.Public().(ed25519.PublicKey)
	w.answers.replacer = &replacer{
		own: func() (tree.Digest, error) { return ownDigest, nil }, guest: guest,
		operators: []ed25519.PublicKey{public},
		places:    placesIn(filepath.Join(directory, "bin")), yield: w.engine.Yield,
		leave: func() { w.left.Store(true) },
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- serve(ctx, limits, w.listen, w.answers, func() error { close(ready); return nil },
			func() { w.passed.Add(1) }, func(err error) { t.Log(err) })
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			must(t, err)
		case <-time.After(20 * time.Second):
			t.Error("the service does not end")
		}
	})
	<-ready
	return w
}

func (w *world) listen() (net.Listener, error) {
	if err := fileio.Remove(w.socket); err != nil {
		return nil, err
	}
	inner, err := net.Listen("unix", w.socket)
	if err != nil {
		return nil, err
	}
	w.listeners <- inner
	certificate, err := transport.Certificate(w.agentKey)
	if err != nil {
		return nil, err
	}
	public, _ := w.operator.Public().(ed25519.PublicKey)
	return transport.NewListener(inner, transport.ServerConfig(certificate, []ed25519.PublicKey{public})), nil
}

// DialContext implements transport.Dialer.
func (w *world) DialContext(ctx context.Context, _ uint32) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", w.socket)
}

func (w *world) connect(key ed25519.PrivateKey) (*transport.Agent, error) {
	pinned, _ := w.agentKey.Public().(ed25519.PublicKey)
	config, err := transport.ClientConfig(key, pinned)
	must(w.t, err)
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	return transport.Connect(ctx, w, config)
}

func (w *world) agent() *transport.Agent {
	w.t.Helper()
	agent, err := w.connect(w.operator)
	must(w.t, err)
	w.t.Cleanup(func() { _ = agent.Close() }) // some tests cut it off
	return agent
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What is not as the stack says is in each status: code from before a refresh, and layers that cannot be read.
func TestStatusTellsWhatIsNotAsTheStackSays(t *testing.T) {
	w := newWorld(t)
	w.engine.now.Pending = []string{"kernel"}
	w.engine.remaining, w.engine.oldPending = []string{"dbus.service 1 /usr/lib/x"},
		[]string{"kernel", "dbus.service still uses /usr/lib/x"}
	w.answers.layers = fakeLayers{unreadable: map[tree.Digest]bool{{10}: true, {20}: true}}
	answer, err := w.agent().Status(t.Context(), &agentapi.StatusRequest{})
	must(t, err)
	if !slices.Equal(answer.GetRemaining(), w.engine.remaining) ||
		!slices.Equal(answer.GetPending(), w.engine.oldPending) {
		t.Errorf("remaining %q, pending %q", answer.GetRemaining(), answer.GetPending())
	}
	lines := answer.GetUnreadable()
	if len(lines) != 2 || !strings.Contains(lines[0], tree.Digest{10}.String()) ||
		!strings.Contains(lines[1], tree.Digest{20}.String()) {
		t.Errorf("unreadable %q", lines)
	}
	// A VM that cannot read its files answers all the same, and does not say that nothing is old.
	w.engine.oldFailure = errors.New("input/output error")
	answer, err = w.agent().Status(t.Context(), &agentapi.StatusRequest{})
	must(t, err)
	if !strings.Contains(strings.Join(answer.GetPending(), " "), "input/output error") {
		t.Errorf("pending %q", answer.GetPending())
	}
}

func TestStatusTellsWhatTheVMRuns(t *testing.T) {
	w := newWorld(t)
	answer, err := w.agent().Status(t.Context(), &agentapi.StatusRequest{})
	must(t, err)
	stack, err := agentapi.ParseStack(answer.GetStack())
	must(t, err)
	if stack.Base != (tree.Digest{1}) || answer.GetGeneration() != 3 || answer.GetState() != agentapi.State_IDLE ||
		answer.GetSystemState() != "running" {
		t.Errorf("%v", answer)
	}
	if answer.GetResidentBytes() < 1<<20 || answer.GetOpenFiles() < 3 || answer.GetDiskSizeBytes() == 0 ||
		answer.GetUptimeSeconds() <= 0 || len(answer.GetAttached()) != 2 {
		t.Errorf("%v", answer)
	}
}

func TestStatusWaitsUntilARefreshIsInAnotherState(t *testing.T) {
	w := newWorld(t)
	w.engine.turned, w.engine.seen = make(chan struct{}), make(chan agentapi.State, 1)
	w.engine.now.State, w.engine.now.Report = refresh.Swapped, &agentapi.Report{State: agentapi.State_SWAPPED}
	agent := w.agent()
	type said struct {
		answer *agentapi.StatusResponse
		err    error
	}
	ask := func(milliseconds int64) chan said {
		answers := make(chan said, 1)
		go func() {
			answer, err := agent.Status(t.Context(), &agentapi.StatusRequest{Event: agentapi.Event_PROGRESS,
				Seen: agentapi.State_SWAPPED, WaitMs: milliseconds})
			answers <- said{answer, err}
		}()
		return answers
	}
	for range 2 {
		answers := ask(60_000)
		if seen := <-w.engine.seen; seen != agentapi.State_SWAPPED {
			t.Errorf("it waits for another state than %v", seen)
		}
		select {
		case early := <-answers:
			t.Fatalf("it answers %v, %v", early.answer, early.err)
		case <-time.After(50 * time.Millisecond):
		}
		done := w.engine.now.Report.GetDone()
		w.engine.turned <- struct{}{}
		got := <-answers
		must(t, got.err)
		// What takes long to find out is told once the refresh has ended.
		if full := len(got.answer.GetAttached()) > 0 && got.answer.GetSystemState() == "running" &&
			got.answer.GetOpenFiles() > 0; full != done || got.answer.GetLast().GetDone() != done {
			t.Errorf("done %v: %v", done, got.answer)
		}
		w.engine.mutex.Lock()
		w.engine.now.Report = &agentapi.Report{Done: true}
		w.engine.mutex.Unlock()
	}
	// No longer than it is asked to, and never longer than it ever waits.
	for milliseconds, atMost := range map[int64]time.Duration{20: waitLimit / 2, -1: waitLimit / 2,
		1 << 62: 2 * waitLimit} {
		began := time.Now()
		answers := ask(milliseconds)
		<-w.engine.seen
		must(t, (<-answers).err)
		if took := time.Since(began); took > atMost {
			t.Errorf("asked to wait %d ms it answers after %v", milliseconds, took)
		}
	}
}

func TestStatusWaitsUntilServicesHaveStarted(t *testing.T) {
	w := newWorld(t)
	var asks atomic.Int64
	w.answers.system = fakeObserver{asks: &asks, until: 2}
	answer, err := w.agent().Status(t.Context(),
		&agentapi.StatusRequest{Event: agentapi.Event_SERVICES, WaitMs: 60_000})
	must(t, err)
	if answer.GetSystemState() != "running" || len(answer.GetAttached()) != 2 || asks.Load() < 3 {
		t.Errorf("asked %d times: %v", asks.Load(), answer)
	}
	asks.Store(-1 << 40)
	began := time.Now()
	answer, err = w.agent().Status(t.Context(), &agentapi.StatusRequest{Event: agentapi.Event_SERVICES, WaitMs: 20})
	must(t, err)
	if answer.GetSystemState() != "starting" || len(answer.GetAttached()) != 0 || time.Since(began) > waitLimit/2 {
		t.Errorf("not started, after %v: %v", time.Since(began), answer)
	}
}

func TestOnlyOperatorsGetIn(t *testing.T) {
	w := newWorld(t)
	_, stranger, err := ed25519.GenerateKey(nil)
	must(t, err)
	agent, err := w.connect(stranger)
	if err == nil { // with TLS 1.3 the client learns of it with the first answer
		_, err = agent.Status(t.Context(), &agentapi.StatusRequest{})
		_ = agent.Close()
	}
	if err == nil {
		t.Error("a stranger got an answer")
	}
}

func TestABlobIsTakenInPartsAndCheckedByDigest(t *testing.T) {
	w := newWorld(t)
	agent := w.agent()
	data := bytes.Repeat([]byte("contents "), 300_000) // 2.7 MB
	digest := tree.Sum(data)
	put := func(offset, size int, part []byte) (bool, error) {
		answer, err := agent.Put(t.Context(),
			&agentapi.PutRequest{Digest: digest.String(), Offset: int64(offset), Size: int64(size), Data: part})
		return answer.GetComplete(), err
	}
	for name, wrong := range map[string]func() (bool, error){
		"a part before the first":   func() (bool, error) { return put(5, len(data), data[:10]) },
		"more than it is to have":   func() (bool, error) { return put(0, 5, data[:10]) },
		"a part too large":          func() (bool, error) { return put(0, len(data), data[:maxPart+1]) },
		"a blob too large":          func() (bool, error) { return put(0, maxBlobs+1, data[:10]) },
		"other bytes than promised": func() (bool, error) { return put(0, 10, []byte("0123456789")) },
	} {
		if complete, err := wrong(); complete || status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, %v", name, complete, err)
		}
	}
	for offset := 0; offset < len(data); offset += maxPart {
		complete, err := put(offset, len(data), data[offset:min(offset+maxPart, len(data))])
		must(t, err)
		if complete != (offset+maxPart >= len(data)) {
			t.Errorf("complete at offset %d: %v", offset, complete)
		}
	}
	file, err := w.answers.blobs.Open(digest)
	must(t, err)
	got, err := io.ReadAll(file)
	must(t, errors.Join(err, file.Close()))
	if !bytes.Equal(got, data) {
		t.Error("other bytes came back")
	}
	again, err := newBlobs(w.answers.blobs.directory) // the agent is restarted
	must(t, err)
	file, err = again.Open(digest)
	must(t, err)
	must(t, file.Close())
	must(t, again.Drop())
	if _, err := again.Open(digest); !errors.Is(err, errNoBlob) {
		t.Errorf("after the drop: %v", err)
	}
}

func TestRefreshAndItsRefusals(t *testing.T) {
	w := newWorld(t)
	agent := w.agent()
	answer, err := agent.Refresh(t.Context(), &agentapi.RefreshRequest{Strategy: "live"})
	must(t, err)
	if !answer.GetStarted() || len(w.engine.asked) != 1 {
		t.Errorf("%v", answer)
	}
	for _, test := range []struct {
		err  error
		code codes.Code
	}{{refresh.ErrBusy, codes.FailedPrecondition}, {release.ErrSignature, codes.PermissionDenied},
		{refresh.ErrStrategy, codes.InvalidArgument}, {errors.New("x"), codes.Internal}} {
		w.engine.mutex.Lock()
		w.engine.refused = test.err
		w.engine.mutex.Unlock()
		if _, err := agent.Refresh(t.Context(), &agentapi.RefreshRequest{}); status.Code(err) != test.code ||
			!strings.Contains(err.Error(), test.err.Error()) {
			t.Errorf("%v became %v", test.err, err)
		}
	}
}

func TestLayersAreClosedWhenNothingNeedsThem(t *testing.T) {
	w := newWorld(t)
	id := func(b byte) string { return tree.Digest{b}.String() }
	answer, err := w.agent().ReleaseLayers(t.Context(),
		&agentapi.ReleaseLayersRequest{Ids: []string{id(10), id(20), id(30), id(99)}})
	must(t, err)
	if len(answer.GetFree()) != 1 || answer.GetFree()[0] != id(30) {
		t.Errorf("free: %v", answer.GetFree())
	}
	by := map[string]string{}
	for _, held := range answer.GetHeld() {
		by[held.GetId()] = strings.Join(held.GetBy(), " ")
	}
	if _, err := w.agent().ReleaseLayers(t.Context(),
		&agentapi.ReleaseLayersRequest{Ids: []string{id(97)}}); err != nil {
		t.Error(err)
	}
	asked, err := w.agent().ReleaseLayers(t.Context(),
		&agentapi.ReleaseLayersRequest{Ids: []string{id(10), id(99), id(98),
			id(97)}, AskOnly: true})
	must(t, err)
	if len(asked.GetHeld()) != 3 || asked.GetHeld()[2].GetId() != id(97) || asked.GetHeld()[1].GetId() != id(99) ||
		len(asked.GetFree()) != 1 || asked.GetFree()[0] != id(98) {
		t.Errorf("only asked, it said %v", asked)
	}
	if by[id(10)] != "the running stack" || !strings.Contains(by[id(20)], "root") || by[id(99)] != "old.service" {
		t.Errorf("held: %v", by)
	}
}

// A layer of which nobody reads a file does not wait for processes that use other layers of the same /usr.
func TestALayerThatNobodyReadsIsAbandoned(t *testing.T) {
	w := newWorld(t)
	id := func(b byte) string { return tree.Digest{b}.String() }
	answer, err := w.agent().ReleaseLayers(t.Context(),
		&agentapi.ReleaseLayersRequest{Ids: []string{id(99), id(97), id(96), id(95)}})
	must(t, err)
	if free := answer.GetFree(); len(free) != 1 || free[0] != id(96) {
		t.Errorf("free: %v", free)
	}
	by := map[string]string{}
	for _, held := range answer.GetHeld() {
		by[held.GetId()] = strings.Join(held.GetBy(), " ")
	}
	// No process explains why 97 cannot be closed, and 95 is used by its own mount.
	if by[id(99)] != "old.service" || by[id(97)] != kernelUser || by[id(95)] != kernelUser {
		t.Errorf("held: %v", by)
	}
	layers, _ := w.answers.layers.(fakeLayers)
	if got := *layers.abandoned; len(got) != 1 || got[0] != (tree.Digest{96}) {
		t.Errorf("abandoned: %v", got)
	}
	for layer, patient := range map[byte]int{99: 1, 97: 1, 96: 0, 95: 0} {
		if id := (tree.Digest{layer}); layers.brief[id] != 1 || layers.patient[id] != patient {
			t.Errorf("layer %d: %d brief and %d patient tries to close it", layer, layers.brief[id], layers.patient[id])
		}
	}
}

// Whoever attaches or detaches a component on demand does not wait for a layer that stays in use.
func TestAnUnneededLayerIsClosedAtOnceOrNotAtAll(t *testing.T) {
	w := newWorld(t)
	layers, _ := w.answers.layers.(fakeLayers)
	for _, busy := range []tree.Digest{{97}, {10}} { // the stack that runs has 10
		if err := w.answers.closeUnneeded(t.Context(),
			busy); (busy == tree.Digest{97}) != errors.Is(err, mounts.ErrLayerInUse) {
			t.Errorf("layer %s: %v", busy, err)
		}
	}
	if len(layers.brief) != 1 || layers.brief[tree.Digest{97}] != 1 || len(layers.patient) > 0 {
		t.Errorf("brief tries to close: %v, patient ones: %v", layers.brief, layers.patient)
	}
}

func TestMappedTellsTheVeryBytes(t *testing.T) {
	w := newWorld(t)
	program, err := exec.LookPath("sleep")
	must(t, err)
	data, err := os.ReadFile(program)
	must(t, err)
	command := exec.Command(program, "60")
	command.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	must(t, command.Start())
	t.Cleanup(func() {
		must(t, command.Process.Kill())
		_ = command.Wait() // it was killed
	})
	proc := t.TempDir()
	pid := filepath.Base(filepath.Join("/proc", strconv.Itoa(command.Process.Pid)))
	must(t, os.Symlink("/proc/"+pid, filepath.Join(proc, pid)))
	w.answers.proc = proc
	agent := w.agent()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		answer, err := agent.Mapped(t.Context(), &agentapi.MappedRequest{Suffix: "/sleep"})
		must(t, err)
		if len(answer.GetFiles()) == 1 {
			if got := answer.GetFiles()[0]; got.GetDigest() != tree.Sum(data).String() || got.GetCommand() != "sleep" {
				t.Errorf("%v", got)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%v", answer)
		}
	}
	if _, err := agent.Mapped(t.Context(),
		&agentapi.MappedRequest{Suffix: "/"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a suffix that all files have: %v", err)
	}
}

func TestItListensAgainWhenTheDeviceIsReset(t *testing.T) {
	w := newWorld(t)
	w.agent()
	must(t, (<-w.listeners).Close())
	var err error
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var agent *transport.Agent
		if agent, err = w.connect(w.operator); err == nil {
			_, err = agent.Status(t.Context(), &agentapi.StatusRequest{})
			must(t, agent.Close())
			if err == nil {
				return
			}
		}
	}
	t.Errorf("no answer again: %v", err)
}

func TestGarbageAndManyCallsLeaveNothingBehind(t *testing.T) {
	w := newWorld(t)
	agent := w.agent()
	_, err := agent.Status(t.Context(), &agentapi.StatusRequest{})
	must(t, err)
	before := runtime.NumGoroutine()
	for range 20 {
		conn, err := tls.Dial("unix", w.socket, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) //nolint:gosec // a stranger
		if err == nil {
			_, _ = conn.Write([]byte("garbage")) // whether it is taken is no matter
			_ = conn.Close()
		}
		raw, err := net.Dial("unix", w.socket)
		must(t, err)
		_, _ = raw.Write(bytes.Repeat([]byte{0xff}, 1000))
		must(t, raw.Close())
	}
	for range 300 {
		_, err := agent.Status(t.Context(), &agentapi.StatusRequest{})
		must(t, err)
	}
	for end := time.Now().Add(15 * time.Second); runtime.NumGoroutine() > before+2; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

package refresh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	library  = "usr/lib/libx.so"
	settings = "etc/x.conf"
)

var (
	errFault   = errors.New("injected fault")
	errCrashed = errors.New("the agent is gone")
)

// fault is what goes wrong at one operation.
type fault int

const (
	_ fault = iota
	// failing makes the operation fail without an effect.
	failing
	// dyingBefore and dyingAfter end the agent before or after the operation's effect.
	dyingBefore
	dyingAfter
)

// world is a VM as strict as a real one: what is on the private disk survives a power cut, the rest does not.
// Versions are stacks' bases.
type world struct {
	t *testing.T

	mutex sync.Mutex
	// Of the private disk.
	journal *Record
	// unreadable is why the journal cannot be read.
	unreadable error
	request    []byte
	committed  *release.Stack
	commits    uint64
	etc        tree.Digest
	etcUndo    *tree.Digest

	// Of this boot.
	boot     int
	booted   release.Stack
	usr      tree.Digest
	earlier  *tree.Digest
	open     map[tree.Digest]bool
	services map[string]tree.Digest
	manager  tree.Digest
	blobs    map[tree.Digest][]byte
	pathOf   map[string]tree.Digest // mount point of a layer to the base it belongs to

	// What goes wrong.
	at      int
	fault   fault
	count   int
	log     []string
	crashed bool
	kill    context.CancelFunc
	// broken units do not come back on these versions; flaky ones die soon after.
	broken, flaky map[string]tree.Digest
	// failed units do not run: a restart leaves them as they are.
	failed      map[string]bool
	restartedAt map[string]time.Time
	// followers are restarted with a unit.
	followers map[string][]string
	unhealthy tree.Digest
	readError error
	obstacle  string

	key      ed25519.PrivateKey
	releases map[string]*made
}

// made is a signed release.
type made struct {
	signed   []byte
	stack    release.Stack
	manifest *release.Manifest
	contents []byte
}

func newWorld(t *testing.T) *world {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, key: key, releases: map[string]*made{}, pathOf: map[string]tree.Digest{}}
	one := w.release("one", 1, nil)
	w.release("two", 2, one)
	w.committed, w.booted = nil, one.stack
	w.start()
	w.etc = one.stack.Base
	return w
}

// release makes a release whose library and settings differ from all others.
func (w *world) release(name string, sequence uint64, previous *made) *made {
	w.t.Helper()
	entries := []tree.Entry{
		{Path: ".", Type: tree.Directory, Mode: 0o755}, {Path: "etc", Type: tree.Directory, Mode: 0o755},
		{Path: settings, Type: tree.Regular, Mode: 0o644, Size: 1, Digest: tree.Sum([]byte("etc " + name))},
		{Path: "usr", Type: tree.Directory, Mode: 0o755}, {Path: "usr/lib", Type: tree.Directory, Mode: 0o755},
		{Path: library, Type: tree.Regular, Mode: 0o644, Size: 1, Digest: tree.Sum([]byte("library " + name))},
	}
	var contents bytes.Buffer
	blob, err := release.WriteContents(&contents, entries)
	if err != nil {
		w.t.Fatal(err)
	}
	image := release.Blob{Digest: tree.Sum([]byte("kernel")), Size: 1}
	m := &release.Manifest{
		Schema: release.Schema, Kind: release.Base, Name: "debian", Sequence: sequence, Architecture: "amd64", OS: "Debian",
		Layers:   []release.Layer{{ID: tree.Sum([]byte("layer one")), DataSize: 4096, Size: 8192}},
		Contents: blob, Kernel: &release.Kernel{Release: "6.12.0", Image: image, Modules: image},
	}
	if previous != nil {
		m.Previous = previous.stack.Base
		m.Layers = append(m.Layers, release.Layer{ID: tree.Sum([]byte("layer " + name)), DataSize: 4096, Size: 8192, Delta: true})
	}
	if sequence > 1 && previous == nil {
		m.Previous = tree.Sum([]byte("some"))
	}
	signed, id, err := release.Sign(m, w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	made := &made{signed: signed, stack: release.StackOf(m, id), manifest: m, contents: contents.Bytes()}
	w.releases[name] = made
	w.pathOf[layerPath(m.Layers[len(m.Layers)-1])] = id
	return made
}

func layerPath(l release.Layer) string { return "/layers/" + l.ID.Hex() }

// start is a boot: init assembles the committed stack, or the given one.
func (w *world) start() {
	w.boot++
	if w.committed != nil {
		w.booted = *w.committed
	}
	w.usr, w.earlier = w.booted.Base, nil
	w.open, w.blobs = map[tree.Digest]bool{}, map[tree.Digest][]byte{}
	w.services = map[string]tree.Digest{"a.service": w.usr, "b.service": w.usr}
	w.manager = w.usr
	w.restartedAt, w.failed = map[string]time.Time{}, map[string]bool{}
}

// powerCut starts the VM again, with nothing but the private disk.
func (w *world) powerCut() {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.start()
}

// give puts contents lists where the host puts them.
func (w *world) give(names ...string) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for _, name := range names {
		w.blobs[w.releases[name].manifest.Contents.Digest] = w.releases[name].contents
	}
}

func (w *world) target(from, to string) *agentapi.Target {
	return &agentapi.Target{Manifests: [][]byte{w.releases[to].signed}, Current: [][]byte{w.releases[from].signed}}
}

// engine is a new agent in this world.
func (w *world) engine() (*Engine, context.CancelFunc) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w.mutex.Lock()
	w.crashed, w.kill = false, cancel
	booted := w.booted
	w.mutex.Unlock()
	public, _ := w.key.Public().(ed25519.PublicKey)
	e := &Engine{
		Layers: worldLayers{w}, Usr: worldUsr{w}, Etc: worldEtc{w}, Units: worldUnits{w}, System: worldSystem{w}, Health: worldHealth{w},
		Records: worldRecords{w}, Blobs: worldBlobs{w}, Operators: []ed25519.PublicKey{public}, Booted: booted, Agent: "agent.service", RetryPause: time.Millisecond,
	}
	if err := e.Start(ctx); err != nil && !errors.Is(err, errCrashed) {
		w.t.Fatal(err)
	}
	return e, func() { cancel(); e.Wait() }
}

// do runs one operation with an effect, and lets go wrong what is to.
func (w *world) do(name string, effect func() error) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.crashed {
		return errCrashed
	}
	w.count++
	w.log = append(w.log, name)
	if w.count == w.at {
		switch w.fault {
		case failing:
			return fmt.Errorf("%s: %w", name, errFault)
		case dyingBefore, dyingAfter:
			var err error
			if w.fault == dyingAfter {
				err = effect()
			}
			w.crashed = true
			w.kill()
			return errors.Join(errCrashed, err)
		}
	}
	return effect()
}

type worldLayers struct{ *world }

func (w worldLayers) Open(_ context.Context, layer release.Layer) (string, error) {
	return layerPath(layer), w.do("open", func() error { w.open[layer.ID] = true; return nil })
}

func (w worldLayers) Read(_ context.Context, layer release.Layer) error {
	return w.do("read", func() error {
		if !w.open[layer.ID] {
			return errors.New("a layer that is not open was read")
		}
		return w.readError
	})
}

type worldUsr struct{ *world }

func (w worldUsr) of(layers []string) (tree.Digest, error) {
	if len(layers) == 0 {
		return tree.Digest{}, errors.New("a /usr without layers")
	}
	base, known := w.pathOf[layers[len(layers)-1]]
	if !known {
		return base, fmt.Errorf("unknown layer %s", layers[len(layers)-1])
	}
	return base, nil
}

func (w worldUsr) Swap(_ context.Context, layers []string) error {
	return w.do("swap", func() error {
		base, err := w.of(layers)
		w.usr = base
		return err
	})
}

func (w worldUsr) Back(_ context.Context, layers []string) error {
	return w.do("back", func() error {
		base, err := w.of(layers)
		w.usr = base
		return err
	})
}

func (w worldUsr) Settle() error { return w.do("settle usr", func() error { return nil }) }

type worldEtc struct{ *world }

func (w worldEtc) Carry(_ context.Context, differences []etcmerge.Difference, _, to []string) (etcmerge.Outcome, error) {
	err := w.do("carry", func() error {
		if len(differences) != 1 || differences[0].Path != settings {
			return fmt.Errorf("differences %v", differences)
		}
		base, err := worldUsr(w).of(to)
		if err != nil {
			return err
		}
		if w.etcUndo == nil {
			was := w.etc
			w.etcUndo = &was
		}
		w.etc = base
		return nil
	})
	return etcmerge.Outcome{Carried: 1}, err
}

func (w worldEtc) Undo(context.Context) error {
	return w.do("undo etc", func() error {
		if w.etcUndo != nil {
			w.etc, w.etcUndo = *w.etcUndo, nil
		}
		return nil
	})
}

func (w worldEtc) Settle() error {
	return w.do("settle etc", func() error { w.etcUndo = nil; return nil })
}

type worldUnits struct{ *world }

func (w worldUnits) Reload(context.Context) error { return w.do("reload", func() error { return nil }) }

func (w worldUnits) Reexecute(context.Context) error {
	return w.do("reexecute", func() error { w.manager = w.usr; return nil })
}

func (w worldUnits) Order(_ context.Context, names []string, _ map[string]impact.Unit) ([]string, error) {
	return slices.Sorted(slices.Values(names)), nil
}

func (w worldUnits) Restart(_ context.Context, unit string) (time.Duration, error) {
	return time.Millisecond, w.do("restart "+unit, func() error {
		if _, known := w.services[unit]; !known {
			return fmt.Errorf("unknown unit %s", unit)
		}
		if w.failed[unit] {
			return nil
		}
		return w.launch(unit)
	})
}

// launch runs a unit from the present /usr, and those that follow it.
func (w worldUnits) launch(unit string) error {
	for _, one := range append([]string{unit}, w.followers[unit]...) {
		w.services[one] = w.usr
		w.restartedAt[one] = time.Now()
		w.failed[one] = w.broken[one] == w.usr
	}
	if w.failed[unit] {
		return errors.New("the job failed")
	}
	return nil
}

func (w worldUnits) Restore(_ context.Context, unit string) (time.Duration, error) {
	return time.Millisecond, w.do("restore "+unit, func() error { return w.launch(unit) })
}

func (w worldUnits) Stop(_ context.Context, unit string) error {
	return w.do("stop "+unit, func() error { delete(w.services, unit); return nil })
}

func (w worldUnits) Restarted(_ context.Context, unit string, since uint64) (restarted bool, away time.Duration, err error) {
	err = w.do("ask", func() error {
		restarted = uint64(w.restartedAt[unit].UnixMicro()) >= since && !w.restartedAt[unit].IsZero()
		return nil
	})
	return restarted, time.Millisecond, err
}

func (w worldUnits) Active(ctx context.Context, unit string) (string, uint64, error) {
	state, err := w.ActiveState(ctx, unit)
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return state, uint64(w.restartedAt[unit].UnixMicro()), err
}

func (w worldUnits) ReloadUnit(context.Context, string) error {
	return w.do("reload unit", func() error { return nil })
}

func (w worldUnits) ActiveState(_ context.Context, unit string) (state string, err error) {
	err = w.do("state", func() error {
		state = "active"
		if w.failed[unit] || w.flaky[unit] == w.usr && time.Since(w.restartedAt[unit]) > 30*time.Millisecond {
			state = "failed"
		}
		return nil
	})
	return state, err
}

func (w worldUnits) Failure(_ context.Context, unit string) string {
	return unit + " is failed; it logged last: boom"
}
func (w worldUnits) ApplyAccounts(context.Context) error  { return nil }
func (w worldUnits) ApplyTemporary(context.Context) error { return nil }

type worldSystem struct{ *world }

func (w worldSystem) BootID() (string, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return fmt.Sprint(w.boot), nil
}
func (w worldSystem) Kernel() (string, error)    { return "6.12.0", nil }
func (w worldSystem) Obstacle() string           { return w.obstacle }
func (w worldSystem) Room(context.Context) error { return w.do("room", func() error { return nil }) }

func device(version tree.Digest) impact.Device { return impact.Device{Minor: uint32(version[0]) + 1} }

func (w worldSystem) Moment() (uint64, error) { return uint64(time.Now().UnixMicro()), nil }

func (w worldSystem) Packages(context.Context, *impact.Assessment) error { return nil }

func (w worldSystem) Snapshot(_ context.Context, _ *impact.Changes, _ []string, swapped bool) (s impact.Snapshot, err error) {
	err = w.do("snapshot", func() error {
		s.Units = map[string]impact.Unit{}
		for unit := range w.services {
			s.Units[unit] = impact.Unit{Name: unit, State: "active", Followers: w.followers[unit]}
		}
		use := func(version tree.Digest) []impact.Use {
			return []impact.Use{{Path: library, Device: device(version), Mapped: true}}
		}
		s.Processes = append(s.Processes, impact.Process{PID: 1, Unit: impact.ManagerUnit, SystemRoot: true, Uses: use(w.manager)},
			impact.Process{PID: 2, Unit: "agent.service", SystemRoot: true}, impact.Process{PID: 3, Unit: "idle.service", SystemRoot: true})
		for unit, version := range w.services {
			if !w.failed[unit] {
				s.Processes = append(s.Processes, impact.Process{PID: 10, Unit: unit, SystemRoot: true, Uses: use(version)})
			}
		}
		if swapped {
			s.Fresh = device(w.usr)
		}
		return nil
	})
	return s, err
}

func (w worldSystem) Pinned(context.Context) ([]string, error) {
	return nil, w.do("audit", func() error { return nil })
}

type worldHealth struct{ *world }

func (w worldHealth) Check(context.Context, *agentapi.HealthCheck) error {
	return w.do("check", func() error {
		if w.usr == w.unhealthy {
			return errors.New("status 500")
		}
		return nil
	})
}

type worldRecords struct{ *world }

func (w worldRecords) Journal() (r Record, err error) {
	err = w.do("read journal", func() error {
		if w.unreadable != nil {
			return w.unreadable
		}
		if w.journal == nil {
			return ErrNoJournal
		}
		r = *w.journal
		return nil
	})
	return r, err
}

func (w worldRecords) SaveJournal(r Record) error {
	return w.do("journal "+string(r.State), func() error { w.journal = &r; return nil })
}

func (w worldRecords) Request() (data []byte, err error) {
	return w.request, w.do("read request", func() error { return nil })
}

func (w worldRecords) SaveRequest(data []byte) error {
	return w.do("keep request", func() error { w.request = data; return nil })
}

func (w worldRecords) Committed() (release.Stack, uint64, bool, error) {
	if w.committed == nil {
		return release.Stack{}, 0, false, nil
	}
	return *w.committed, w.commits, true, nil
}

func (w worldRecords) Commit(stack release.Stack) (uint64, error) {
	err := w.do("commit", func() error {
		if w.committed == nil || !SameStack(*w.committed, stack) {
			w.commits++
		}
		w.committed = &stack
		return nil
	})
	return w.commits, err
}

type worldBlobs struct{ *world }

func (w worldBlobs) Open(digest tree.Digest) (file io.ReadCloser, err error) {
	err = w.do("open blob", func() error {
		data, has := w.blobs[digest]
		if !has {
			return fmt.Errorf("no blob %s", digest)
		}
		file = io.NopCloser(bytes.NewReader(data))
		return nil
	})
	return file, err
}

func (w worldBlobs) Drop() error {
	return w.do("drop blobs", func() error { clear(w.blobs); return nil })
}

// until waits for the flight to end, and returns the last report.
func until(t *testing.T, e *Engine) Status {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		e.mutex.Lock()
		flying := e.flight != nil
		e.mutex.Unlock()
		if !flying {
			status, err := e.Status()
			if err != nil {
				t.Fatal(err)
			}
			return status
		}
	}
	t.Fatal("the refresh does not end")
	return Status{}
}

// whole checks that the VM is on one stack and nothing is between.
func (w *world) whole(status Status) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	var problems []string
	expect := func(what string, got tree.Digest) {
		if got != w.usr {
			problems = append(problems, fmt.Sprintf("%s is of %s, /usr of %s", what, w.name(got), w.name(w.usr)))
		}
	}
	expect("/etc", w.etc)
	expect("the status", status.Stack.Base)
	expect("PID 1", w.manager)
	for unit, version := range w.services {
		expect(unit, version)
		if w.failed[unit] {
			problems = append(problems, unit+" does not run")
		}
	}
	next := w.booted.Base
	if w.committed != nil {
		next = w.committed.Base
	}
	expect("the next boot", next)
	if w.etcUndo != nil {
		problems = append(problems, "/etc can still be undone")
	}
	if w.journal != nil && w.journal.State != Idle {
		problems = append(problems, "the journal says "+string(w.journal.State))
	}
	if len(problems) > 0 {
		return errors.New(strings.Join(problems, "; "))
	}
	return nil
}

func (w *world) name(base tree.Digest) string {
	for name, made := range w.releases {
		if made.stack.Base == base {
			return name
		}
	}
	return base.String()
}

func (w *world) ask(from, to string) *agentapi.RefreshRequest {
	return &agentapi.RefreshRequest{Target: w.target(from, to), Strategy: "live",
		HealthChecks: []*agentapi.HealthCheck{{Name: "web", Kind: &agentapi.HealthCheck_Unit{Unit: "a.service"}, TimeoutMs: 20}}, SettleMs: 2}
}

// refresh asks for a refresh and waits for its end.
func (w *world) refresh(e *Engine, request *agentapi.RefreshRequest) Status {
	w.t.Helper()
	request, _ = proto.Clone(request).(*agentapi.RefreshRequest)
	started, err := e.Refresh(request)
	if err != nil || !started {
		w.t.Fatalf("refresh: started %v, %v", started, err)
	}
	return until(w.t, e)
}

func restartedUnits(report *agentapi.Report) []string {
	var names []string
	for _, r := range report.GetRestarts() {
		names = append(names, r.GetUnit())
	}
	slices.Sort(names)
	return names
}

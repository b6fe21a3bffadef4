package refresh

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
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
	// dyingBefore and dyingAfter end the agent before or after the operation's effect, dyingWithin in the middle of it
	// where it is not atomic, and else before it.
	dyingBefore
	dyingAfter
	dyingWithin
)

// tester is a test, or one draw of a property's.
type tester interface {
	Helper()
	Errorf(format string, values ...any)
	Fatal(values ...any)
	Fatalf(format string, values ...any)
}

// world is a VM as strict as a real one: what is on the private disk survives a power cut, the rest does not.
// Versions are stacks' bases.
type world struct {
	t tester

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
	etcTo      tree.Digest
	// trials counts the boots of stacks that are not committed, distrusted are those that are not to be booted.
	trials     map[tree.Digest]int
	distrusted map[tree.Digest]bool
	// first is what the VM was made with, given what the host gives.
	first, given release.Stack
	// torn is an /etc of which some files are of one version and some of another.
	torn tree.Digest

	// Of this boot.
	boot     int
	root     int
	trial    tree.Digest // what a kexec'ed kernel may boot
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
	// broke is an operation that always fails.
	broke string
	kill  context.CancelFunc
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
	obstacles map[Rung]string
	kernel    string
	// hopeless stacks do not come up, stuck ones do not even get to the agent.
	hopeless, stuck tree.Digest
	// notSwitched is why the last soft-reboot stayed where it was, because stay was set.
	stay, notSwitched string

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

func newWorld(t tester) *world {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, key: key, releases: map[string]*made{}, pathOf: map[string]tree.Digest{}, torn: tree.Sum([]byte("torn"))}
	w.trials, w.distrusted = map[tree.Digest]int{}, map[tree.Digest]bool{}
	one := w.release("one", 1, nil)
	w.release("two", 2, one)
	w.first, w.given = one.stack, one.stack
	w.etc = one.stack.Base
	w.start()
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

// start is a boot: init chooses a stack, takes back what was carried to /etc for another one, and brings /etc to the one that
// it chose, such that it can be taken back.
func (w *world) start() {
	w.boot++
	w.begin(w.choose())
	if was := w.etc; w.etcUndo == nil && was != w.booted.Base && was != w.torn {
		w.etc, w.etcTo, w.etcUndo = w.booted.Base, w.booted.Base, &was
	}
	w.blobs, w.open = map[tree.Digest][]byte{}, map[tree.Digest]bool{}
	if w.stuck == w.booted.Base {
		w.trial = tree.Digest{}
		w.start() // the kernel panics, which is a reset
	}
}

// begin is where a boot and a soft-reboot have the userland begin.
func (w *world) begin(stack release.Stack) {
	w.root++
	w.booted, w.notSwitched = stack, ""
	if w.etcUndo != nil && w.etcTo != stack.Base {
		w.etc, w.etcUndo = *w.etcUndo, nil
	}
	w.usr, w.earlier = w.booted.Base, nil
	w.services = map[string]tree.Digest{"a.service": w.usr, "b.service": w.usr}
	w.manager = w.usr
	w.restartedAt, w.failed = map[string]time.Time{}, map[string]bool{}
}

func (w *world) inFlight() bool {
	return w.journal != nil && w.journal.State != Idle && w.journal.State != ""
}

// choose is what package boot decides.
func (w *world) choose() release.Stack {
	if j := w.journal; w.inFlight() && j.State == Starting && j.Strategy == Kexec && j.To.Base == w.trial {
		return j.To
	}
	committed := w.first
	if w.committed != nil {
		committed = *w.committed
	}
	if w.given.Base != w.first.Base && w.given.Base != committed.Base && !w.distrusted[w.given.Base] && w.trials[w.given.Base] == 0 {
		w.trials[w.given.Base]++
		return w.given
	}
	return committed
}

// powerCut starts the VM again, with nothing but the private disk.
func (w *world) powerCut() {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.trial = tree.Digest{}
	w.start()
}

// hostStarts is the host that powers the VM off and starts it with another stack.
func (w *world) hostStarts(stack release.Stack) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.given, w.trial = stack, tree.Digest{}
	w.start()
}

// ends is systemd that ends the agent and then has something else begin.
func (w *world) ends(name string, then func()) error {
	return w.do(name, func() error {
		w.crashed = true
		w.kill()
		then()
		return nil
	})
}

type worldStarter struct{ *world }

func (w worldStarter) Obstacles(context.Context) (map[Rung]string, error) {
	return w.obstacles, w.do("obstacles", func() error { return nil })
}

func (w worldStarter) SoftReboot(context.Context) error {
	return w.ends("soft-reboot", func() {
		switch {
		case w.stay != "":
			w.notSwitched = w.stay
			w.services = map[string]tree.Digest{"a.service": w.usr, "b.service": w.usr}
		case w.journal.State == Starting:
			w.begin(w.journal.To)
		case w.journal.State == RollingBack:
			w.begin(w.journal.From)
		default:
			w.t.Errorf("a soft-reboot in state %s", w.journal.State)
		}
	})
}

func (w worldStarter) Kexec(_ context.Context, kernel, initramfs io.Reader, commandLine string, trial release.Stack) error {
	if kernel == nil {
		return nil
	}
	for what, file := range map[string]io.Reader{"kernel": kernel, "initramfs": initramfs} {
		if text, err := io.ReadAll(file); err != nil || string(text) != what {
			w.t.Errorf("the %s is %q, %v", what, text, err)
		}
	}
	if commandLine != "quiet" {
		w.t.Errorf("the command line is %q", commandLine)
	}
	return w.ends("kexec", func() {
		w.trial = trial.Base
		w.start()
	})
}

func (w worldStarter) Reboot(context.Context) error {
	return w.ends("reboot", func() {
		w.trial = tree.Digest{}
		w.start()
	})
}

// give puts contents lists where the host puts them.
func (w *world) give(names ...string) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for _, name := range names {
		w.blobs[w.releases[name].manifest.Contents.Digest] = w.releases[name].contents
	}
	for _, file := range []string{"kernel", "initramfs"} {
		w.blobs[tree.Sum([]byte(file))] = []byte(file)
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
	booted, notSwitched := w.booted, w.notSwitched
	w.mutex.Unlock()
	public, _ := w.key.Public().(ed25519.PublicKey)
	e := &Engine{
		Layers: worldLayers{w}, Usr: worldUsr{w}, Etc: worldEtc{w}, Units: worldUnits{w}, System: worldSystem{w}, Health: worldHealth{w},
		Records: worldRecords{w}, Blobs: worldBlobs{w}, Operators: []ed25519.PublicKey{public}, Booted: booted, Agent: "agent.service", RetryPause: time.Millisecond,
		Starter: worldStarter{w}, NotSwitched: notSwitched, StartLimit: 20 * time.Second,
	}
	err := e.Start(ctx)
	if errors.Is(err, errFault) {
		err = e.Start(ctx) // systemd starts an agent again that could not start
	}
	if err != nil && !errors.Is(err, errCrashed) {
		w.t.Fatal(err)
	}
	return e, func() { cancel(); e.Wait() }
}

// do runs one operation with an effect, and lets go wrong what is to.
func (w *world) do(name string, effect func() error) error {
	return w.doInParts(name, func() error { return nil }, effect)
}

// doInParts is do for an operation that can be cut off in the middle: half is then what was done of it.
func (w *world) doInParts(name string, half, effect func() error) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.crashed {
		return errCrashed
	}
	w.count++
	w.log = append(w.log, name)
	if name == w.broke {
		return fmt.Errorf("%s: %w", name, errFault)
	}
	if w.count == w.at {
		switch w.fault {
		case failing:
			return fmt.Errorf("%s: %w", name, errFault)
		case dyingBefore, dyingWithin, dyingAfter:
			var err error
			switch w.fault {
			case dyingWithin:
				err = half()
			case dyingAfter:
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

func (w worldUsr) Warm(context.Context, []string) error {
	return w.do("warm", func() error { return nil })
}

func (w worldUsr) Settle() error { return w.do("settle usr", func() error { return nil }) }

type worldEtc struct{ *world }

func (w worldEtc) Carry(_ context.Context, differences []etcmerge.Difference, _, to []string) (etcmerge.Outcome, error) {
	begin := func() error {
		base, err := worldUsr(w).of(to)
		if err != nil {
			return err
		}
		if w.etcUndo == nil {
			was := w.etc
			w.etcUndo = &was
		}
		w.etc, w.etcTo = w.torn, base
		return nil
	}
	err := w.doInParts("carry", begin, func() error {
		if len(differences) != 1 || differences[0].Path != settings {
			return fmt.Errorf("differences %v", differences)
		}
		if err := begin(); err != nil {
			return err
		}
		w.etc = w.etcTo
		return nil
	})
	return etcmerge.Outcome{Carried: 1, LoaderCache: true}, err
}

func (w worldEtc) RenewLoaderCache(context.Context) error {
	return w.do("renew the loader's cache", func() error { return nil })
}

func (w worldEtc) Undo(context.Context) error {
	return w.doInParts("undo etc", func() error {
		if w.etcUndo != nil {
			w.etc = w.torn
		}
		return nil
	}, func() error {
		if w.etcUndo != nil {
			w.etc, w.etcUndo = *w.etcUndo, nil
		}
		return nil
	})
}

func (w worldEtc) End(_ context.Context, running release.Stack) error {
	return w.do("end etc", func() error {
		if w.etcUndo != nil && w.etcTo != running.Base {
			w.etc = *w.etcUndo
		}
		w.etcUndo = nil
		return nil
	})
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

func (w worldUnits) State(context.Context) (state string, err error) {
	err = w.do("system state", func() error {
		state = "running"
		switch {
		case w.hopeless == w.usr:
			state = "maintenance"
		case len(w.failedUnits()) > 0:
			state = "degraded"
		}
		return nil
	})
	return state, err
}

func (w worldUnits) Failed(context.Context) (names []string, err error) {
	err = w.do("failed units", func() error { names = w.failedUnits(); return nil })
	return names, err
}

func (w *world) failedUnits() (names []string) {
	for unit, version := range w.broken {
		if version == w.usr {
			names = append(names, unit)
		}
	}
	return names
}

type worldSystem struct{ *world }

func (w worldSystem) Root() (string, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return fmt.Sprint(w.root), nil
}

func (w worldSystem) BootID() (string, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return fmt.Sprint(w.boot), nil
}
func (w worldSystem) Kernel() (string, error) { return cmp.Or(w.kernel, "6.12.0"), nil }
func (w worldSystem) Obstacle() string        { return w.obstacle }
func (w worldSystem) ForeignGenerators() (bool, error) {
	return true, w.do("generators", func() error { return nil })
}

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
	return w.do("journal "+string(r.State), func() error {
		seen(w.journal, r)
		w.journal = &r
		return nil
	})
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

func (w worldRecords) Distrust(stack release.Stack) error {
	return w.do("distrust", func() error { w.distrusted[stack.Base] = true; return nil })
}

func (w worldRecords) Trust(stack release.Stack) error {
	return w.do("trust", func() error {
		delete(w.distrusted, stack.Base)
		delete(w.trials, stack.Base)
		return nil
	})
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
func until(t tester, e *Engine) Status {
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
	trials := maps.Clone(w.trials)
	w.trial = tree.Digest{} // it has no trial after all this
	expect("the next boot", w.choose().Base)
	w.trials = trials
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

// askFor asks for a refresh that is to climb to one rung.
func (w *world) askFor(rung Rung) *agentapi.RefreshRequest {
	if rung != Live {
		w.obstacle = "Linux 6.1 has no MOVE_MOUNT_BENEATH"
	}
	if rung.height() > SoftReboot.height() {
		w.obstacles = map[Rung]string{SoftReboot: "systemd 252"}
		w.kernel = "6.1.0" // another one than the releases have
	}
	request := w.ask("one", "two")
	request.Strategy, request.MaxImpact = string(rung), agentapi.Level_REBOOT
	request.Kernel, request.Initramfs, request.CommandLine = tree.Sum([]byte("kernel")).String(), tree.Sum([]byte("initramfs")).String(), "quiet"
	return request
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

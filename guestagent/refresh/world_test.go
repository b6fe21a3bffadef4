package refresh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/network"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	library  = "usr/lib/libx.so"
	settings = "etc/x.conf"
	// networkd is a unit whose restart drops what was added to the network by hand.
	networkd = "systemd-networkd.service"
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
	// behind is why /etc does not belong to the running stack.
	behind error
	t      tester

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
	// accounts are the VM's account files.
	accounts etcmerge.AccountTexts
	kept     []string
	purge    bool
	// anyEtc allows for other differences of /etc than the settings.
	anyEtc bool
	// conflicts are those of each carry.
	conflicts []etcmerge.Conflict
	// left are what an undo of /etc leaves in place.
	left []etcmerge.Conflict
	// generate are the units that make what the VM lacks.
	generate []string
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
	swapped  bool // whether /usr was swapped in this boot
	manager  tree.Digest
	blobs    map[tree.Digest][]byte
	pathOf   map[string]tree.Digest // mount point of a layer to the base it belongs to

	// atOnce is how many units are restarted at the same time, after which ones each has to wait for.
	atOnce int
	after  map[string][]string

	// network says whether the network has what was added by hand, keptNetwork is set while that is kept.
	network     bool
	keptNetwork *bool
	sure        network.Sure

	// What goes wrong.
	at      int
	fault   fault
	count   int
	log     []string
	crashed bool
	// broke is an operation that always fails.
	broke string
	// full: the private disk takes no further file.
	full bool
	// slow is an operation that begins once held is closed.
	slow string
	held chan struct{}
	kill context.CancelFunc
	// broken units do not come back on these versions; flaky ones die soon after.
	broken, flaky map[string]tree.Digest
	// links are symbolic links of releases, by the release's name.
	links map[string][]string
	// script is a unit that systemd makes of an init script.
	script string
	// standIn is a unit that is a stand-in in release "one".
	standIn string
	// active are further active units, such as targets. notStartable are units that systemd does
	// not start, and why, unmet those of which a condition is not met.
	active       []string
	notStartable map[string]string
	unmet        map[string]bool
	// failed units do not run: a restart leaves them as they are.
	failed      map[string]bool
	restartedAt map[string]time.Time
	// within is how long the last restart or restoration of a unit had.
	within map[string]time.Duration
	// followers are restarted with a unit.
	followers map[string][]string
	unhealthy tree.Digest
	readError error
	// unreadableLayers are the layers that cannot be read any more, and why.
	unreadableLayers map[tree.Digest]error
	obstacle         string
	obstacles        map[Rung]string
	kernel           string
	// hopeless stacks do not come up, stuck ones do not even get to the agent.
	hopeless, stuck tree.Digest
	// notSwitched is why the last soft-reboot stayed where it was, because stay was set.
	stay, notSwitched string

	key      ed25519.PrivateKey
	releases map[string]*made
}

// made is the signed stack of a release.
type made struct {
	signed   []byte
	stack    release.Stack
	manifest *release.Manifest
	contents []byte
}

func newWorld(t tester) *world {
	t.Helper()
	// The second release enables a unit, whatever the test is about.
	return newWorldWith(t,
		map[string][]string{"two": {"usr/lib/systemd/system/multi-user.target.wants/enabled.service"}})
}

// newWorldWith makes a world with these links in its releases.
func newWorldWith(t tester, links map[string][]string) *world {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, key: key, releases: map[string]*made{}, pathOf: map[string]tree.Digest{},
		torn: tree.Sum([]byte("torn"))}
	w.trials, w.distrusted = map[tree.Digest]int{}, map[tree.Digest]bool{}
	w.links, w.active = links, []string{"multi-user.target"}
	one := w.release("one", 1, nil)
	w.release("two", 2, one)
	w.first, w.given = one.stack, one.stack
	w.etc = one.stack.Base
	w.start()
	return w
}

// release makes a release whose library and settings differ from all others. One whose name ends in "+" has the library
// of the release without.
func (w *world) release(name string, sequence uint64, previous *made) *made {
	w.t.Helper()
	entries := []tree.Entry{
		{Path: ".", Type: tree.Directory, Mode: 0o755}, {Path: "etc", Type: tree.Directory, Mode: 0o755},
		{Path: settings, Type: tree.Regular, Mode: 0o644, Size: 1, Digest: tree.Sum([]byte("etc " + name))},
		{Path: "usr", Type: tree.Directory, Mode: 0o755}, {Path: "usr/lib", Type: tree.Directory, Mode: 0o755},
		{Path: library, Type: tree.Regular, Mode: 0o644, Size: 1, Digest: tree.Sum([]byte("library " + strings.TrimSuffix(name, "+")))},
	}
	for _, link := range w.links[name] {
		entries = append(entries, tree.Entry{Path: link, Type: tree.Symlink, Link: "x", Mode: 0o777})
	}
	slices.SortFunc(entries, func(a, b tree.Entry) int { return tree.Compare(a.Path, b.Path) })
	var contents bytes.Buffer
	blob, err := release.WriteContents(&contents, entries)
	if err != nil {
		w.t.Fatal(err)
	}
	image := release.Blob{Digest: tree.Sum([]byte("kernel")), Size: 1}
	m := &release.Manifest{
		Schema: release.Schema, Kind: release.Base, Name: "debian", Sequence: sequence,
		Architecture: "amd64", OS: "Debian",
		Layers:   []release.Layer{{ID: tree.Sum([]byte("layer one")), DataSize: 4096, Size: 8192}},
		Contents: blob, Kernel: &release.Kernel{Release: "6.12.0", Image: image, Modules: image},
	}
	if previous != nil {
		m.Previous = previous.stack.Base
		m.Layers = append(m.Layers,
			release.Layer{ID: tree.Sum([]byte("layer " + name)), DataSize: 4096, Size: 8192, Delta: true})
	}
	if sequence > 1 && previous == nil {
		m.Previous = tree.Sum([]byte("some"))
	}
	made := w.sign(m)
	made.contents = contents.Bytes()
	w.releases[name] = made
	w.pathOf[layerPath(m.Layers[len(m.Layers)-1])] = made.stack.Base
	return made
}

// sign makes the signed stack of a base alone.
func (w *world) sign(m *release.Manifest) *made {
	w.t.Helper()
	encoded, err := m.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	return w.signStack(compose.Parts{Base: release.Identified{ID: release.ID(encoded), Manifest: m}}, nil)
}

// signStack makes the signed stack of releases.
func (w *world) signStack(parts compose.Parts, lists compose.Lists) *made {
	w.t.Helper()
	stack, contents, err := compose.Compose(parts, lists)
	if err != nil {
		w.t.Fatal(err)
	}
	signed, id, err := release.SignStack(stack, w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	return &made{signed: signed, stack: stack.Record(id), manifest: parts.Base.Manifest, contents: contents}
}

func layerPath(l release.Layer) string { return "/layers/" + l.ID.Hex() }

// start is a boot: init chooses a stack, takes back what was carried to /etc for another one, and brings /etc to the
// one that it chose, such that it can be taken back.
func (w *world) start() {
	w.boot++
	w.keptNetwork = nil // /run is gone
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
	w.usr, w.earlier, w.swapped = w.booted.Base, nil, false
	w.services = map[string]tree.Digest{"a.service": w.usr, "b.service": w.usr}
	if len(w.links[w.name(w.usr)]) > 0 {
		w.services["enabled.service"] = w.usr
	}
	w.manager = w.usr
	w.restartedAt, w.failed = map[string]time.Time{}, map[string]bool{}
	w.network = false
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
	if w.given.Base != w.first.Base && w.given.Base != committed.Base && !w.distrusted[w.given.Base] &&
		w.trials[w.given.Base] == 0 {
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
	return &agentapi.Target{To: w.releases[to].signed, From: w.releases[from].signed}
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
		Layers: worldLayers{w}, Usr: worldUsr{w}, Etc: worldEtc{w}, Units: worldUnits{w},
		System: worldSystem{w}, Health: worldHealth{w},
		Records: worldRecords{w}, Blobs: worldBlobs{w}, Operators: []ed25519.PublicKey{public}, Booted: booted,
		Agent: "agent.service", RetryPause: time.Millisecond, AtOnce: w.atOnce,
		Starter: worldStarter{w}, Network: worldNetwork{w}, NotSwitched: notSwitched, StartLimit: 20 * time.Second,
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

// do runs one operation with an effect, or fails if the test wants it to.
func (w *world) do(name string, effect func() error) error {
	return w.doInParts(name, func() error { return nil }, effect)
}

// doInParts is do for an operation that can be cut off in the middle: half is then what was done of it.
func (w *world) doInParts(name string, half, effect func() error) error {
	w.mutex.Lock()
	held := w.held
	if name != w.slow {
		held = nil
	}
	w.mutex.Unlock()
	if held != nil {
		<-held
	}
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
	if height(rung) > height(SoftReboot) {
		w.obstacles = map[Rung]string{SoftReboot: "systemd 252"}
		w.kernel = "6.1.0" // another one than the releases have
	}
	request := w.ask("one", "two")
	request.Strategy, request.MaxImpact = string(rung), agentapi.Level_REBOOT
	request.Kernel, request.Initramfs, request.CommandLine = tree.Sum([]byte("kernel")).String(),
		tree.Sum([]byte("initramfs")).String(), "quiet"
	return request
}

func (w *world) ask(from, to string) *agentapi.RefreshRequest {
	return &agentapi.RefreshRequest{Target: w.target(from, to), Strategy: "live",
		HealthChecks: []*agentapi.HealthCheck{{Name: "web", Kind: &agentapi.HealthCheck_Unit{Unit: "a.service"},
			TimeoutMs: 20}}, SettleMs: 2}
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

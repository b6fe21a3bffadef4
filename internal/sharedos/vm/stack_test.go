package vm_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// putList stores the contents list of a tree with these files below /usr.
func (w *world) putList(t *testing.T, files map[string]string) release.Blob {
	t.Helper()
	entries := []tree.Entry{{Path: tree.Root, Type: tree.Directory, Mode: 0o755},
		{Path: "usr", Type: tree.Directory, Mode: 0o755}}
	for name, text := range files {
		entries = append(entries,
			tree.Entry{Path: "usr/" + name, Type: tree.Regular, Mode: 0o644, Size: int64(len(text)),
				Digest: tree.Sum([]byte(text))})
	}
	slices.SortFunc(entries, func(a, b tree.Entry) int { return tree.Compare(a.Path, b.Path) })
	var list bytes.Buffer
	blob, err := release.WriteContents(&list, entries)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.PutBlob(t.Context(), blob, bytes.NewReader(list.Bytes()), nil); err != nil {
		t.Fatal(err)
	}
	return blob
}

// withFiles publishes a base whose contents list is one.
func (w *world) withFiles(t *testing.T, sequence uint64, kernel string, files map[string]string) tree.Digest {
	t.Helper()
	m := &release.Manifest{Name: "listed", Sequence: sequence,
		Layers: []release.Layer{w.putLayer(t, "listed "+kernel, false)}}
	if sequence > 1 {
		m.Previous = tree.Sum([]byte("some"))
	}
	id := w.publish(t, w.fleet.Key, m, kernel)
	m.Contents = w.putList(t, files)
	return w.sign(t, m, id)
}

func (w *world) sign(t *testing.T, m *release.Manifest, _ tree.Digest) tree.Digest {
	t.Helper()
	note, id, err := release.Sign(m, w.fleet.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.PutManifest(t.Context(), id, note); err != nil {
		t.Fatal(err)
	}
	return id
}

// component publishes a component of a base release. Its tree has the files.
func (w *world) component(t *testing.T, on tree.Digest, name string, sequence uint64,
	files map[string]string) tree.Digest {
	t.Helper()
	m := &release.Manifest{
		Schema: release.Schema, Kind: release.Component, Name: name, Sequence: sequence, BuiltOn: on,
		Architecture: "amd64", OS: "Debian",
		Layers:   []release.Layer{w.putLayer(t, name+" "+strings.Repeat("i", int(sequence))+on.Hex(), true)},
		Contents: w.putList(t, files),
		Users:    map[string]uint32{"root": 0}, Groups: map[string]uint32{"root": 0},
	}
	if sequence > 1 {
		m.Previous = tree.Sum([]byte("some"))
	}
	return w.sign(t, m, tree.Digest{})
}

var shell = map[string]string{"sh": "shell", "status": "shell"}

func with(more ...string) map[string]string {
	files := map[string]string{"sh": "shell", "status": "shell"}
	for i := 0; i < len(more); i += 2 {
		files[more[i]] = more[i+1]
	}
	return files
}

// What does not make a stack is refused before anything is made or changed, by a plan as by an apply.
func TestReleasesThatDoNotMakeAStackAreRefused(t *testing.T) {
	w := newWorld(t)
	base := w.withFiles(t, 1, "6.12.1", shell)
	other := w.withFiles(t, 2, "6.12.2", shell)
	postgres := w.component(t, base, "postgres", 1, with("postgres", "1", "status", "shell postgres"))
	redis := w.component(t, base, "redis", 1, with("redis", "1", "status", "shell redis"))
	for name, test := range map[string]struct {
		base       tree.Digest
		components []tree.Digest
		want       error
	}{
		"another base as a component":         {base, []tree.Digest{w.old}, compose.ErrKind},
		"a component as the base":             {postgres, nil, compose.ErrKind},
		"a component of another base release": {other, []tree.Digest{postgres}, compose.ErrBuiltOn},
		"two that write one package database": {base, []tree.Digest{postgres, redis}, compose.ErrConflict},
		"more components than a VM can have": {base,
			slices.Repeat([]tree.Digest{postgres}, release.MaxComponents+1), compose.ErrTooMany},
	} {
		t.Run(name, func(t *testing.T) {
			spec := w.spec()
			spec.Base, spec.Components = test.base, test.components
			if _, err := w.fleet.Check(t.Context(), spec, true); !errors.Is(err, test.want) ||
				!errors.Is(err, compose.ErrStack) {
				t.Errorf("checked: %v, want %v", err, test.want)
			}
			if _, err := w.fleet.Create(within(t, time.Minute), spec, quiet); !errors.Is(err, test.want) {
				t.Errorf("created: %v, want %v", err, test.want)
			}
			if _, _, err := w.hypervisor.Lookup(t.Context(), spec.Name); !errors.Is(err, hypervisor.ErrNotFound) {
				t.Errorf("a domain was defined: %v", err)
			}
		})
	}
}

func TestAVMRunsABaseAndTwoComponentsAsOneStack(t *testing.T) {
	w := newWorld(t)
	base := w.withFiles(t, 1, "6.12.1", shell)
	spec := w.spec()
	spec.Base, spec.Components = base, []tree.Digest{
		w.component(t, base, "one", 1, with("one", "1")), w.component(t, base, "two", 1, with("two", "2")),
	}
	made := w.create(t, spec)
	if made.Stack.ID.IsZero() || !made.Stack.Same(made.Configured) || len(made.Stack.Layers) != 3 ||
		len(made.Stack.Components) != 2 {
		t.Fatalf("it runs %+v", made.Stack)
	}
	// Off goes a component, live.
	spec.Components = spec.Components[:1]
	if impact, err := w.fleet.Assess(t.Context(), spec); err != nil || impact == nil {
		t.Fatalf("assessed %v, %v", impact, err)
	}
	updated, report, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if err != nil || !report.GetCommitted() || !slices.Equal(updated.Stack.Components, spec.Components) ||
		updated.Stack.ID == made.Stack.ID {
		t.Fatalf("updated %+v, %v, %v", updated, report, err)
	}
	if asked := w.agent(t, spec.Name).Asked().GetTarget(); len(asked.GetTo()) == 0 || len(asked.GetFrom()) == 0 {
		t.Errorf("it was asked for %v", asked)
	}
}

// A change of components alone is a change of the stack: the VM waits for the host, and is left with what it runs, as
// it is with a change of the base.
func TestAChangeOfComponentsAloneIsAChangeOfTheStack(t *testing.T) {
	for _, strategy := range []string{vm.Reboot, vm.NextBoot} {
		t.Run(strategy, func(t *testing.T) {
			w := newWorld(t)
			base := w.withFiles(t, 1, "6.12.1", shell)
			spec := w.spec()
			spec.Base = base
			made := w.create(t, spec)
			w.agent(t, spec.Name).Impact = &agentapi.Impact{Level: agentapi.Level_SOFT_REBOOT,
				Reasons: []string{"the dynamic loader differs"}}
			spec.Components = []tree.Digest{w.component(t, base, "one", 1, with("one", "1"))}
			spec.Refresh = vm.RefreshPolicy{Strategy: strategy, MaxImpact: agentapi.Level_REBOOT}
			updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
			if err != nil {
				t.Fatal(err)
			}
			moved := strategy == vm.Reboot
			if updated.AwaitsPowerCycle == moved || updated.Stack.Same(updated.Configured) != moved ||
				updated.Stack.Same(made.Stack) == moved {
				t.Errorf("it awaits a power cycle: %v; it runs %+v, and is to run %+v", updated.AwaitsPowerCycle,
					updated.Stack, updated.Configured)
			}
		})
	}
}

func TestAMoveThatNeedsMoreLayersThanAVMCanHaveFailsThePlan(t *testing.T) {
	w := newWorld(t)
	var layers [2][]release.Layer
	for i := range layers {
		for j := range 13 {
			layers[i] = append(layers[i], w.putLayer(t, strings.Repeat("x", 13*i+j+1)+"|", j > 0))
		}
	}
	base := w.publish(t, w.fleet.Key, &release.Manifest{Name: "deep", Sequence: 1, Layers: layers[0]}, "6.12.1")
	next := w.publish(t, w.fleet.Key,
		&release.Manifest{Name: "deep", Sequence: 2, Previous: base, Layers: layers[1]}, "6.12.2")
	spec := w.spec()
	spec.Base = base
	w.create(t, spec)
	spec.Base = next
	if _, err := w.fleet.Assess(t.Context(), spec); !errors.Is(err, vm.ErrNotLive) ||
		!strings.Contains(err.Error(), "26 layers") {
		t.Errorf("got %v", err)
	}
}

// lastVersion is a VM as the last version left it: its definition and its guest know no ids of stacks, and its agent
// speaks protocol 1.
func lastVersion(t *testing.T, name string) *world {
	t.Helper()
	w := newWorld(t)
	data, err := os.ReadFile("testdata/last-version/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var domain hypervisor.Domain
	if err := json.Unmarshal(data, &domain); err != nil {
		t.Fatal(err)
	}
	var config agentapi.BootConfig
	if err := json.Unmarshal(domain.BootConfig, &config); err != nil {
		t.Fatal(err)
	}
	if !config.Stack.ID.IsZero() || !slices.Contains([]tree.Digest{w.old, w.new}, config.Stack.Base) {
		t.Fatalf("the recorded VM boots %+v", config.Stack)
	}
	config.Operators = w.operators()
	if domain.BootConfig, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	volume := domain.Metadata.PrivateVolume
	path, err := w.store.CreatePrivateDisk(t.Context(), volume, w.spec().DiskSize)
	if err != nil {
		t.Fatal(err)
	}
	domain.PrivateDisk = path
	// The recorded paths are of another pool.
	domain.Kernel, domain.Initramfs = filepath.Join(t.TempDir(), "kernel"), filepath.Join(t.TempDir(), "initramfs")
	for _, path := range []string{domain.Kernel, domain.Initramfs} {
		if err := os.WriteFile(path, []byte("boots"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range domain.Layers {
		if domain.Layers[i].Path, err = w.store.LayerPath(t.Context(), domain.Layers[i].ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.hypervisor.Define(t.Context(), domain); err != nil {
		t.Fatal(err)
	}
	agent := w.agent(t, domain.Name)
	agent.Binary, agent.OldBinary = []byte("the last version's agent"), []byte("the last version's agent")
	if err := w.hypervisor.Start(t.Context(), domain.Name); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestAVMOfTheLastVersionIsMovedByItsNextRefresh(t *testing.T) {
	w := lastVersion(t, "running")
	now, err := w.fleet.Read(t.Context(), "web-a")
	if err != nil || !now.Answered || now.Stack.Base != w.old || !now.Stack.ID.IsZero() ||
		!now.Stack.Same(now.Configured) || now.AwaitsPowerCycle {
		t.Fatalf("it is %+v, %v", now, err)
	}
	spec := w.spec()
	spec.Base = w.new
	// A plan cannot ask its agent, and says why.
	if _, err := w.fleet.Assess(t.Context(), spec); !errors.Is(err, vm.ErrOldAgent) {
		t.Errorf("assessed: %v", err)
	}
	updated, report, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if !report.GetCommitted() || updated.Agent.GetBootId() != now.Agent.GetBootId() || updated.Stack.Base != w.new ||
		updated.Stack.ID.IsZero() {
		t.Errorf("it is %+v, and reports %v", updated, report)
	}
	domain, _, err := w.hypervisor.Lookup(t.Context(), "web-a")
	if err != nil || domain.Metadata.Stack.ID != updated.Stack.ID {
		t.Errorf("its definition has %+v, %v", domain.Metadata.Stack, err)
	}
}

func TestAnUpdateOfAVMOfTheLastVersionThatMovesNothingInterruptsNothing(t *testing.T) {
	w := lastVersion(t, "running")
	updated, report, err := w.fleet.Update(within(t, time.Minute), w.spec(), quiet)
	if err != nil || report != nil || updated.Agent.GetBootId() != "boot-1" || w.agent(t, "web-a").Refreshes() != 0 {
		t.Fatalf("it is %+v, %v, %v", updated, report, err)
	}
	// Its definition has an id now, and what the guest recorded has none: they are the same by their releases.
	if updated.Configured.ID.IsZero() || !updated.Stack.Same(updated.Configured) {
		t.Errorf("it runs %+v, and is to run %+v", updated.Stack, updated.Configured)
	}
}

// The definition of this one got another stack by the last version, which left the VM with what it ran.
func TestAVMThatTheLastVersionLeftWithItsStackIsStillLeft(t *testing.T) {
	w := lastVersion(t, "left")
	w.agent(t, "web-a").FallBack(w.stackOf(t, w.old))
	now, err := w.fleet.Read(t.Context(), "web-a")
	if err != nil || !now.AwaitsPowerCycle || now.Configured.Base != w.new || now.Stack.Base != w.old {
		t.Errorf("it is %+v, %v", now, err)
	}
}

// stackOf is the record of a base alone, as the last version wrote it.
func (w *world) stackOf(t *testing.T, base tree.Digest) release.Stack {
	t.Helper()
	note, err := w.store.GetManifest(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := release.OpenUnsigned(note)
	if err != nil {
		t.Fatal(err)
	}
	return release.Stack{Base: base, Layers: m.Layers, Kernel: cmp.Or(m.Kernel, &release.Kernel{}).Release}
}

func TestAnOldAgentThatCannotBeReplacedIsToldFrom(t *testing.T) {
	w := lastVersion(t, "running")
	w.agent(t, "web-a").RefuseAgent = "it ended"
	spec := w.spec()
	spec.Base = w.new
	_, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if !errors.Is(err, vm.ErrOldAgent) {
		t.Fatalf("got %v", err)
	}
	// The next start brings this version's.
	w.agent(t, "web-a").Binary = []byte("agent")
	spec.Refresh.Strategy = vm.NextBoot
	if updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil || !updated.AwaitsPowerCycle {
		t.Errorf("it is %+v, %v", updated, err)
	}
}

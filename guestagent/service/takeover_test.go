package service

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/refresh"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

var ownDigest = tree.Sum([]byte("this agent"))

func placesIn(directory string) takeoverPlaces {
	in := func(name string) string { return filepath.Join(directory, name) }
	return takeoverPlaces{binary: in("agent"), next: in("agent.next"), record: in("takeover.json"),
		socket: in("takeover.sock")}
}

// signedFor has an operator sign that data takes over.
func (w *world) signedFor(data []byte, change func(*release.Takeover)) []byte {
	w.t.Helper()
	next := release.Takeover{Guest: w.answers.replacer.guest, From: ownDigest,
		To: tree.Sum(data), Size: int64(len(data))}
	if change != nil {
		change(&next)
	}
	signed, err := release.SignTakeover(next, w.operator)
	must(w.t, err)
	return signed
}

func (w *world) put(data []byte) {
	w.t.Helper()
	_, err := w.agent().Put(w.t.Context(),
		&agentapi.PutRequest{Digest: tree.Sum(data).String(), Size: int64(len(data)), Data: data})
	must(w.t, err)
}

func TestAnAgentTakesOverOnAnOperatorsWord(t *testing.T) {
	w := newWorld(t)
	next := []byte("the next agent")
	w.put(next)
	answer, err := w.agent().Replace(t.Context(), &agentapi.ReplaceRequest{Note: w.signedFor(next, nil)})
	must(t, err)
	if !answer.GetStarted() || !w.left.Load() || !w.engine.yielded {
		t.Errorf("%v, left %v", answer, w.left.Load())
	}
	data, err := os.ReadFile(w.answers.replacer.places.next)
	must(t, err)
	info, err := os.Stat(w.answers.replacer.places.next)
	must(t, err)
	if string(data) != string(next) || info.Mode().Perm() != 0o755 {
		t.Errorf("beside this agent lies %q, mode %v", data, info.Mode())
	}
}

func TestNoAgentTakesOverThatMayNot(t *testing.T) {
	next, other := []byte("the next agent"), []byte("another agent")
	for name, c := range map[string]struct {
		note func(w *world) []byte
		busy error
		code codes.Code
	}{
		"a manifest, signed": {code: codes.InvalidArgument, note: func(w *world) []byte {
			signed, _, err := release.Sign(manifest(), w.operator)
			must(w.t, err)
			return signed
		}},
		"no note": {code: codes.PermissionDenied, note: func(*world) []byte { return []byte("garbage") }},
		"another VM": {code: codes.FailedPrecondition, note: func(w *world) []byte {
			return w.signedFor(next, func(n *release.Takeover) { n.Guest = make([]byte, 32) })
		}},
		"a replay": {code: codes.FailedPrecondition, note: func(w *world) []byte {
			return w.signedFor(next,
				func(n *release.Takeover) { n.From = tree.Digest{1} })
		}},
		"another size": {code: codes.FailedPrecondition, note: func(w *world) []byte {
			return w.signedFor(next,
				func(n *release.Takeover) { n.Size++ })
		}},
		"not put": {code: codes.FailedPrecondition,
			note: func(w *world) []byte { return w.signedFor(other, nil) }},
		"in a refresh": {code: codes.FailedPrecondition, busy: refresh.ErrBusy, note: func(w *world) []byte { return w.signedFor(next, nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.put(next)
			w.engine.refused = c.busy
			if _, err := w.agent().Replace(t.Context(),
				&agentapi.ReplaceRequest{Note: c.note(w)}); status.Code(err) != c.code {
				t.Errorf("got %v, want code %v", err, c.code)
			}
			if _, err := os.Stat(w.answers.replacer.places.next); !errors.Is(err, os.ErrNotExist) ||
				w.left.Load() || w.engine.yielded {
				t.Errorf("something was done: %v, left %v", err, w.left.Load())
			}
		})
	}
	matrix.Record(t, "a new agent, signed for another VM or for replacing an earlier agent", "idle", "refused")
	matrix.Record(t, "a new agent", "while a refresh is in flight", "refused")
}

func TestTheAgentThatRunsIsNotReplacedByItself(t *testing.T) {
	w := newWorld(t)
	answer, err := w.agent().Replace(t.Context(),
		&agentapi.ReplaceRequest{Note: w.signedFor([]byte("this agent"), nil)})
	must(t, err)
	if answer.GetStarted() || w.left.Load() {
		t.Errorf("%v, left %v", answer, w.left.Load())
	}
}

func manifest() *release.Manifest {
	blob := release.Blob{Digest: tree.Digest{1}, Size: 1}
	return &release.Manifest{
		Schema: release.Schema, Kind: release.Base, Name: "debian", Sequence: 1, Architecture: "amd64", OS: "Debian",
		Layers: []release.Layer{{ID: tree.Digest{2}, DataSize: 4096, Size: 8192}}, Contents: blob,
		Kernel: &release.Kernel{Release: "6.12.0", Image: blob, Modules: blob},
		Users:  map[string]uint32{"root": 0}, Groups: map[string]uint32{"root": 0},
	}
}

// handOver has a program that behaves in some way take over from the test.
func handOver(t *testing.T, behaviour string, limits takeoverLimits) (takeoverPlaces, int, error) {
	t.Helper()
	t.Setenv(childVariable, behaviour)
	places := placesIn(t.TempDir())
	self, err := os.Executable()
	must(t, err)
	must(t, os.WriteFile(places.binary, []byte("old"), 0o755))
	must(t, os.Symlink(self, places.next))
	must(t, places.save(takeoverRecord{To: tree.Digest{7}}))
	adopted := 0
	err = places.handOver(t.Context(), limits, func(pid int) error { adopted = pid; return nil })
	if adopted != 0 {
		t.Cleanup(func() { must(t, unix.Kill(adopted, unix.SIGKILL)) })
	}
	return places, adopted, err
}

var quick = takeoverLimits{up: 20 * time.Second, answer: 20 * time.Second, hold: 50 * time.Millisecond}

func TestASuccessorThatAnswersGetsTheAgentsPlace(t *testing.T) {
	places, pid, err := handOver(t, "answers", quick)
	must(t, err)
	if pid == 0 {
		t.Fatal("nobody was adopted")
	}
	must(t, unix.Kill(pid, 0)) // it lives on
	if target, err := os.Readlink(places.binary); err != nil || target == "" {
		t.Errorf("the binary is still the old one: %q, %v", target, err)
	}
	refused, err := places.settle(func() (tree.Digest, error) { return tree.Digest{7}, nil })
	if err != nil || refused != (takeoverRecord{}) {
		t.Errorf("it remembers %q, %v", refused, err)
	}
}

func TestASuccessorThatDoesNotComeUpIsEndedAndTold(t *testing.T) {
	impatient := takeoverLimits{up: 300 * time.Millisecond, answer: 300 * time.Millisecond, hold: 20 * time.Second}
	for behaviour, c := range map[string]struct {
		limits takeoverLimits
		why    string
	}{
		"exits":   {quick, "exit status 3"},
		"hangs":   {impatient, "has not listened"},
		"babbles": {impatient, "has not listened"},
		"listens": {takeoverLimits{up: 20 * time.Second, answer: 300 * time.Millisecond}, "has not answered the host"},
		"answers, exits": {takeoverLimits{up: 20 * time.Second, answer: 20 * time.Second, hold: 20 * time.Second},
			"it ended before it "}, // its end may be seen before its last words
	} {
		t.Run(behaviour, func(t *testing.T) {
			places, adopted, err := handOver(t, behaviour, c.limits)
			if !errors.Is(err, errSuccessor) || adopted != 0 {
				t.Fatalf("it took over: %v", err)
			}
			if data, err := os.ReadFile(places.binary); err != nil || string(data) != "old" {
				t.Errorf("the binary is %q, %v", data, err)
			}
			if _, err := os.Lstat(places.next); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the successor's binary is left: %v", err)
			}
			for range 2 { // an agent that is restarted tells it, too
				refused, err := places.settle(func() (tree.Digest, error) { return ownDigest, nil })
				if err != nil || !strings.Contains(refused.Refused, c.why) || refused.To != (tree.Digest{7}) {
					t.Errorf("it tells %q, %v; want %q", refused, err, c.why)
				}
			}
		})
	}
}

// The kernel ends the whole service then, and systemd starts the binary that stands at its place: the old one.
func TestAnAgentThatIsKilledWhileItWaitsForItsSuccessorServesAgain(t *testing.T) {
	places := placesIn(t.TempDir())
	must(t, os.WriteFile(places.next, []byte("new"), 0o755))
	must(t, places.save(takeoverRecord{To: tree.Digest{7}}))
	refused, err := places.settle(func() (tree.Digest, error) { return ownDigest, nil })
	if err != nil || !strings.Contains(refused.Refused, "was ended while it waited") {
		t.Errorf("it tells %q, %v", refused, err)
	}
	if _, err := os.Stat(places.next); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the successor's binary is left: %v", err)
	}
}

func TestStatusTellsWhichAgentAnswers(t *testing.T) {
	w := newWorld(t)
	w.answers.refused = takeoverRecord{To: tree.Digest{7}, Refused: "it ended"}
	answer, err := w.agent().Status(t.Context(), &agentapi.StatusRequest{})
	must(t, err)
	if answer.GetAgentDigest() != ownDigest.String() ||
		answer.GetAgentRefused() != "agent "+(tree.Digest{7}).String()+": it ended" ||
		answer.GetRefusedAgentDigest() != (tree.Digest{7}).String() ||
		answer.GetProtocol() != agentapi.Protocol || w.answered.Load() != 1 {
		t.Errorf("%v, answered %d", answer, w.answered.Load())
	}
}

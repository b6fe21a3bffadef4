package ondemand

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/refresh"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin/paths"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// world is a VM that is offered the components "a" and "b" on demand, and has "fixed".
type world struct {
	directory string
	operator  ed25519.PublicKey
	// stacks by the components of "a" and "b" that they have: "", "a", "b", "ab".
	stacks map[string]stack

	mu      sync.Mutex
	running release.Stack
	report  *agentapi.Report
	asked   []*agentapi.RefreshRequest
	// fails is why refreshes fail; busy is how often the host is faster, and joins whether its
	// refresh is to the same stack.
	fails string
	busy  int
	joins bool
	// stopping is true if the agent stops.
	stopping bool
	last     *agentapi.RefreshRequest
	blobs    map[tree.Digest][]byte
	holds    int
	// closed are the layers that were closed.
	closed []tree.Digest
}

func member(name string) release.Member {
	return release.Member{ID: tree.Sum([]byte(name)), Name: name, Sequence: 1}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	operator, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		directory: t.TempDir(), operator: operator, stacks: map[string]stack{}, blobs: map[tree.Digest][]byte{},
		last: &agentapi.RefreshRequest{},
	}
	for _, at := range []string{paths.OfferStacks, paths.OfferContents} {
		if err := os.Mkdir(filepath.Join(w.directory, at), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	layer := func(name string, delta bool) release.Layer {
		return release.Layer{ID: tree.Sum([]byte("layer " + name)), DataSize: 4096, Size: 8192, Delta: delta}
	}
	for _, with := range []string{"", "a", "b", "ab"} {
		list := []byte(strings.Repeat("list of "+with, 200_000))
		m := &release.StackManifest{
			Schema: release.StackSchema, Base: member("base"), Architecture: "amd64", OS: "Test",
			Layers:     []release.Layer{layer("base", false)},
			Components: []release.Member{member("fixed")},
			Contents:   release.Blob{Digest: tree.Sum(list), Size: int64(len(list))},
			Kernel: release.Kernel{
				Release: "6.12", Image: release.Blob{Digest: tree.Sum([]byte("k")), Size: 1},
				Modules: release.Blob{Digest: tree.Sum([]byte("m")), Size: 1},
			},
		}
		for _, name := range []string{"a", "b"} {
			if strings.Contains(with, name) {
				m.Components, m.Layers = append(m.Components, member(name)), append(m.Layers, layer(name, true))
			} else {
				m.Offered, m.Layers = append(m.Offered, member(name)), append(m.Layers, layer("stand-in "+name, true))
			}
		}
		m.BaseLayers = 1
		signed, id, err := release.SignStack(m, key)
		if err != nil {
			t.Fatal(err)
		}
		w.stacks[with] = stack{id, signed, m}
		for path, data := range map[string][]byte{paths.OfferStack(id): signed,
			paths.OfferList(m.Contents.Digest): list} {
			if err := os.WriteFile(filepath.Join(w.directory, path), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.running = w.record("")
	return w
}

func (w *world) record(with string) release.Stack {
	return w.stacks[with].manifest.Record(w.stacks[with].id)
}

// Status implements Engine.
func (w *world) Status() (refresh.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return refresh.Status{Stack: w.running, State: journal.Idle, Report: w.report}, nil
}

// Await implements Engine.
func (w *world) Await(context.Context, agentapi.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report.Done = true
}

// Refresh implements Engine. It needs the contents lists of both stacks.
func (w *world) Refresh(request *agentapi.RefreshRequest) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopping {
		return false, refresh.ErrStopping
	}
	if w.busy > 0 {
		w.busy--
		w.report = &agentapi.Report{}
		if w.joins {
			return false, nil // that refresh is in flight, and fails
		}
		return false, refresh.ErrBusy
	}
	w.asked = append(w.asked, request)
	w.report = &agentapi.Report{Error: w.fails}
	for _, signed := range [][]byte{request.GetTarget().GetFrom(), request.GetTarget().GetTo()} {
		m, id, err := release.OpenStack(signed, []ed25519.PublicKey{w.operator})
		if err != nil {
			return false, err
		}
		if data := w.blobs[m.Contents.Digest]; tree.Sum(data) != m.Contents.Digest {
			return false, errors.New("the engine lacks a contents list")
		}
		if w.fails == "" {
			w.running = m.Record(id)
		}
	}
	return true, nil
}

// LastRequest implements Engine.
func (w *world) LastRequest() (*agentapi.RefreshRequest, error) {
	if w.last == nil {
		return nil, errors.New("the request of the last refresh cannot be read")
	}
	return w.last, nil
}

func (w *world) put(digest tree.Digest, offset, size int64, data []byte) (bool, error) {
	if w.holds == 0 {
		return false, errors.New("nobody holds what is put")
	}
	if int64(len(w.blobs[digest])) != offset {
		return true, nil // it has it
	}
	w.blobs[digest] = append(w.blobs[digest], data...)
	return int64(len(w.blobs[digest])) == size, nil
}

func (w *world) server(t *testing.T) *Server {
	return &Server{
		Engine: w, Put: w.put, Operators: []ed25519.PublicKey{w.operator},
		Hold:     func() func() { w.holds++; return func() { w.holds-- } },
		Offer:    func(use func(string) error) error { return use(w.directory) },
		Close:    func(_ context.Context, id tree.Digest) error { w.closed = append(w.closed, id); return nil },
		Say:      func(err error) { t.Log(err) },
		Commands: w.directory + "/commands",
	}
}

// Components come and go in any order, each time by one refresh between stacks of the offer.
func TestComponentsOnDemandComeAndGo(t *testing.T) {
	w := newWorld(t)
	s := w.server(t)
	for i, step := range []struct {
		request
		runs string
		err  error
		asks int
	}{
		{request{Verb: attach, Name: "b", Used: true}, "b", nil, 1},
		{request{Verb: attach, Name: "b"}, "b", nil, 1}, // it is there
		{request{Verb: attach, Name: "a"}, "ab", nil, 2},
		{request{Verb: detach, Name: "b"}, "a", nil, 3},
		{request{Verb: detach, Name: "b"}, "a", nil, 3},
		{request{Verb: attach, Name: "c"}, "a", ErrNotOffered, 3},
		{request{Verb: detach, Name: "fixed"}, "a", ErrNotOffered, 3}, // it is no component on demand
	} {
		w.busy = i % 2
		if _, err := s.answer(t.Context(), step.request); !errors.Is(err, step.err) {
			t.Errorf("%d: %v, want %v", i, err, step.err)
		}
		if !w.running.Same(w.record(step.runs)) || len(w.asked) != step.asks || w.holds != 0 {
			t.Errorf("%d: it runs %s after %d refreshes, %d holds", i, w.running.ID, len(w.asked), w.holds)
		}
	}
	want := []Component{{"a", true, true}, {"b", false, true}, {"fixed", true, false}}
	got, err := s.answer(t.Context(), request{Verb: list})
	if err != nil || !cmp.Equal(want, got) {
		t.Errorf("%v: %s", err, cmp.Diff(want, got))
	}
	if last := w.closed[len(w.closed)-1]; last != tree.Sum([]byte("layer b")) {
		t.Errorf("the layer of what was detached was not closed, but %s", last)
	}
	var out bytes.Buffer
	if err := show(&out, got); err != nil || !strings.Contains(out.String(), "b          no        yes\n") {
		t.Errorf("%v:\n%s", err, out.String())
	}
}

// That the host has begun the same refresh does not mean that it succeeds.
func TestTheSameRefreshByTheHostIsAwaited(t *testing.T) {
	w := newWorld(t)
	s := w.server(t)
	w.busy, w.joins = 1, true
	if _, err := s.answer(t.Context(), request{Verb: attach, Name: "a"}); err != nil || !w.running.Same(w.record("a")) {
		t.Errorf("%v; it runs %s", err, w.running.ID)
	}
}

// A component is attached by what the host said for the last refresh. Without that, nothing says
// which units may restart.
func TestWhatTheHostSaidHoldsForMovesOnDemand(t *testing.T) {
	w := newWorld(t)
	s := w.server(t)
	w.last = nil
	if _, err := s.answer(t.Context(), request{Verb: attach, Name: "a"}); err == nil || len(w.asked) > 0 {
		t.Errorf("%v, %d refreshes", err, len(w.asked))
	}
	said := &agentapi.RefreshRequest{
		Policy:    &agentapi.UnitPolicy{Units: map[string]string{"x.service": "report"}},
		KeepFiles: []string{"etc/x"}, Purge: true,
		HealthChecks: []*agentapi.HealthCheck{{Name: "x"}}, RestartTimeoutMs: 7,
		MaxImpact: agentapi.Level_REBOOT, Strategy: "reboot",
	}
	w.last = said
	if _, err := s.answer(t.Context(), request{Verb: attach, Name: "a"}); err != nil {
		t.Fatal(err)
	}
	want, _ := proto.Clone(said).(*agentapi.RefreshRequest)
	want.Own, want.MaxImpact, want.Strategy, want.SettleMs = true, agentapi.Level_RESTART, "live", 1000
	got, _ := proto.Clone(w.asked[0]).(*agentapi.RefreshRequest)
	got.Target = nil
	if !proto.Equal(want, got) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A client that an agent leaves without an answer asks the next one.
func TestAnAgentThatStopsDoesNotAnswer(t *testing.T) {
	w := newWorld(t)
	w.stopping = true
	s := w.server(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "client")
		connection, err := net.FileConn(file)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		ends[i], _ = connection.(*net.UnixConn)
	}
	ours, theirs := ends[0], ends[1]
	defer func() { _ = theirs.Close() }()
	if _, err := io.WriteString(theirs, `{"verb":"attach","name":"a"}`); err != nil {
		t.Fatal(err)
	}
	s.client(t.Context(), ours)
	if data, err := io.ReadAll(theirs); err != nil || len(data) > 0 {
		t.Errorf("it gets %q, %v", data, err)
	}
}

// A component that cannot be attached is not tried again by the stand-in of a socket on which
// somebody waits, but by root.
func TestAStandInDoesNotTryAgainAtOnce(t *testing.T) {
	w := newWorld(t)
	s := w.server(t)
	w.fails = "a.service does not start"
	if _, err := s.answer(t.Context(), request{Verb: attach, Name: "a", Used: true}); err == nil ||
		!strings.Contains(err.Error(), w.fails) {
		t.Errorf("the first time: %v", err)
	}
	if _, err := s.answer(t.Context(), request{Verb: attach, Name: "a", Used: true}); err == nil || len(w.asked) != 1 {
		t.Errorf("again: %v after %d refreshes", err, len(w.asked))
	}
	if _, err := s.answer(t.Context(), request{Verb: attach, Name: "b", Used: true}); err == nil || len(w.asked) != 2 {
		t.Errorf("another component: %v after %d refreshes", err, len(w.asked))
	}
	w.fails = ""
	if _, err := s.answer(t.Context(), request{Verb: attach, Name: "a"}); err != nil {
		t.Errorf("by root: %v", err)
	}
	if _, err := s.answer(t.Context(), request{Verb: detach, Name: "a"}); err != nil {
		t.Error(err)
	}
	if _, err := s.answer(t.Context(), request{Verb: attach, Name: "a", Used: true}); err != nil {
		t.Errorf("after it was attached: %v", err)
	}
}

// What no operator has signed, or what is not for the running stack, is not attached.
func TestOnlyWhatIsOfferedIsAttached(t *testing.T) {
	w := newWorld(t)
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := w.server(t)
	s.Operators = []ed25519.PublicKey{other}
	if _, err := s.answer(t.Context(), request{Verb: attach, Name: "a"}); !errors.Is(err, release.ErrSignature) {
		t.Errorf("signed by another operator: %v", err)
	}
	s = w.server(t)
	w.running = release.Stack{ID: tree.Sum([]byte("another")), Base: member("base").ID}
	for _, verb := range []string{attach, detach, list} {
		if _, err := s.answer(t.Context(), request{Verb: verb, Name: "a"}); !errors.Is(err, ErrOutdated) {
			t.Errorf("%s in a VM with another stack: %v", verb, err)
		}
	}
	w.running = w.record("")
	if err := os.RemoveAll(filepath.Join(w.directory, paths.OfferContents)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.answer(t.Context(), request{Verb: attach, Name: "a"}); err == nil || len(w.asked) > 0 {
		t.Errorf("without contents lists: %v, %d refreshes", err, len(w.asked))
	}
	s.Offer = func(func(string) error) error { return ErrNoOffer }
	if _, err := s.answer(t.Context(), request{Verb: list}); !errors.Is(err, ErrNoOffer) {
		t.Errorf("without an offer: %v", err)
	}
}

// The socket takes one request of a client, and refuses what is none.
func TestRequestsOverTheSocket(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "socket")
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- w.server(t).Serve(ctx, path) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	var connection net.Conn
	dial := func() net.Conn {
		t.Helper()
		for range 100 {
			var err error
			if connection, err = net.Dial("unix", path); err == nil {
				return connection
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatal("nobody listens")
		return nil
	}
	for text, want := range map[string]string{
		`{"verb":"list"}`:                          `"name":"fixed"`,
		`{"verb":"attach","name":"a","used":true}`: `{}`,
		`{"verb":"attach","name":"../x"}`:          "a component is named by",
		`{"verb":"drop","name":"a"}`:               "not a request",
		`[]`:                                       "read the request",
		strings.Repeat(" ", maxRequest) + `{"verb":"list"}`:          "read the request",
		`{"verb":"detach","name":"` + strings.Repeat("a", 99) + `"}`: "a component is named by",
	} {
		client := dial()
		if _, err := io.WriteString(client, text+"\n"); err != nil {
			t.Fatal(err)
		}
		var answer json.RawMessage
		if err := json.NewDecoder(client).Decode(&answer); err != nil || !strings.Contains(string(answer), want) {
			t.Errorf("%.60s: %v: %s", text, err, answer)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The generator copies units and links, and does nothing in a stack without stand-ins.
func TestTheGeneratorShowsStandIns(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(from, "db.service"), []byte("[Service]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(from, "sockets.target.wants"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, link := range map[string]string{"sockets.target.wants/db.socket": "../db.socket",
		"alias.service": "db.service"} {
		if err := os.Symlink(link, filepath.Join(from, name)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // systemd empties the directory before, but nothing depends on it
		if err := copyUnits(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(to, "alias.service")); err != nil || string(text) != "[Service]\n" {
		t.Errorf("%q, %v", text, err)
	}
	if link, err := os.Readlink(filepath.Join(to, "sockets.target.wants", "db.socket")); err != nil ||
		link != "../db.socket" {
		t.Errorf("%q, %v", link, err)
	}
	if err := copyUnits(filepath.Join(from, "none"), to); err != nil {
		t.Error(err)
	}
}

// The program knows by its arguments what it is called for.
func TestWhatTheProgramIsCalledFor(t *testing.T) {
	for _, c := range []struct {
		arguments []string
		other     bool
	}{
		{[]string{"/init"}, false}, {[]string{paths.Agent, "serve"}, false}, {[]string{paths.Agent, "next-root"}, false},
		{[]string{paths.Agent, "resolver", "x"}, false}, {nil, false},
		{[]string{"/usr/sbin/sharedos"}, true}, {[]string{"sharedos", "component", "list"}, true},
		{[]string{"/" + paths.Generator, "a", "b", "c"}, true},
		{[]string{paths.Agent, "use", "db"}, true},
		{[]string{paths.Agent, "call db", "/usr/bin/psql"}, true}, {[]string{paths.Agent, "call db", "/usr/bin/psql", "-l"}, true},
	} {
		if got := Program(c.arguments, io.Discard) != nil; got != c.other {
			t.Errorf("%q: %v", c.arguments, got)
		}
	}
	for _, wrong := range [][]string{nil, {"component"}, {"component", "add"}, {"component", "list", "x"}, {"list"}} {
		if err := command(wrong, io.Discard); !errors.Is(err, ErrUsage) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

// A stand-in of a command is known by its first line.
func TestStandInsOfCommandsAreKnown(t *testing.T) {
	for text, want := range map[string]bool{
		"#!" + paths.Agent + " call db\n": true, "#!/bin/sh\n": false, "": false,
		"\x7fELF" + strings.Repeat("x", 100): false,
	} {
		path := filepath.Join(t.TempDir(), "command")
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		if got, err := isStandIn(path); err != nil || got != want {
			t.Errorf("%.20q: %v, %v", text, got, err)
		}
	}
}

// The command is there while something is offered. What is not ours stays.
func TestTheCommandIsInstalled(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "sbin")
	path := filepath.Join(directory, "sharedos")
	for _, offered := range []bool{false, true, true, false, false} {
		if err := InstallCommand(directory, offered); err != nil {
			t.Fatal(err)
		}
		if target, _ := os.Readlink(path); (target == paths.Agent) != offered {
			t.Errorf("offered is %v, and the command is a link to %q", offered, target)
		}
	}
	if err := os.WriteFile(path, []byte("mine"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, offered := range []bool{true, false} {
		if err := InstallCommand(directory, offered); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "mine" {
		t.Errorf("%q, %v", text, err)
	}
}

// Only root sees what units have logged. Other users learn only that it failed, and can have only some clients at once.
func TestWhatOtherUsersGet(t *testing.T) {
	w := newWorld(t)
	s := w.server(t)
	w.fails = "a.service is failed; it logged last: password=hunter2"
	_, err := s.answer(t.Context(), request{Verb: attach, Name: "a", Used: true, uid: 1000})
	if told := s.tell(request{Name: "a", uid: 1000}, err); strings.Contains(told, "hunter2") ||
		!strings.Contains(told, "journalctl") {
		t.Errorf("a user is told %q", told)
	}
	if told := s.tell(request{Name: "a"}, err); !strings.Contains(told, "hunter2") {
		t.Errorf("root is told %q", told)
	}
	var leave []func()
	for i := range userClients + 1 {
		one, ok := s.enter(1000)
		if ok != (i < userClients) {
			t.Errorf("client %d of a user: %v", i+1, ok)
		}
		if ok {
			leave = append(leave, one)
		}
	}
	for _, uid := range []uint32{0, 1001} {
		if _, ok := s.enter(uid); !ok {
			t.Errorf("user %d is shut out by another one", uid)
		}
	}
	leave[0]()
	again, ok := s.enter(1000)
	if !ok {
		t.Fatal("a user whose client has left is shut out")
	}
	for _, left := range append(leave[1:], again) {
		left()
	}
	if left, known := s.users[1000]; known {
		t.Errorf("a user whose clients have all left is remembered with %d", left)
	}
}

// A stand-in that another component needs while it is being attached does not wait for ever.
func TestAStandInDoesNotWaitForEver(t *testing.T) {
	s := newWorld(t).server(t)
	end, err := s.turn(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.answer(ctx, request{Verb: attach, Name: "a", Used: true}); !errors.Is(err, errOthers) {
		t.Errorf("while another one is attached: %v", err)
	}
	end()
	if _, err := s.answer(t.Context(), request{Verb: attach, Name: "a", Used: true}); err != nil {
		t.Errorf("after that: %v", err)
	}
}

package ondemand

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/refresh"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin/paths"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Verbs of a request.
const (
	attach = "attach"
	detach = "detach"
	list   = "list"
)

// request is what a client sends, as one line of JSON.
type request struct {
	Verb string `json:"verb"`
	Name string `json:"name,omitempty"`
	// Used is true for a request of a stand-in, and not of a person. Triggered is true if a socket,
	// a timer or a path has started the stand-in, and would do so again at once.
	Used      bool `json:"used,omitempty"`
	Triggered bool `json:"triggered,omitempty"`

	uid uint32
}

// response is the answer, as one line of JSON.
type response struct {
	Error      string      `json:"error,omitempty"`
	Components []Component `json:"components,omitempty"`
}

const (
	// maxRequest bounds a request, in bytes, maxClients how many are answered at once. requestLimit
	// is how long a client may take to send one, moveLimit how long an answer may take.
	maxRequest   = 4 << 10
	maxClients   = 64
	requestLimit = 5 * time.Second
	moveLimit    = 40 * time.Minute
	// settle is for how long units have to run before a component counts as attached.
	settle = time.Second
	// failedFor is how long a component that could not be attached is not attached again by its stand-ins.
	failedFor = 5 * time.Minute
	// othersLimit is how long a stand-in waits while another component is attached or detached. A
	// unit of that one may wait for the unit of this stand-in.
	othersLimit = 2 * time.Minute
	// userClients is how many clients of one user other than root are answered at once.
	userClients = 8
)

// Engine refreshes this VM.
type Engine interface {
	Status() (refresh.Status, error)
	Await(ctx context.Context, seen agentapi.State)
	Refresh(request *agentapi.RefreshRequest) (started bool, err error)
	// LastRequest returns the request of the last refresh, an empty one if there was none.
	LastRequest() (*agentapi.RefreshRequest, error)
}

// Put takes one part of a blob of size bytes for the engine, and reports whether the blob is complete, with its digest
// checked.
type Put func(digest tree.Digest, offset, size int64, data []byte) (complete bool, err error)

// Server answers the clients of this VM.
type Server struct {
	Engine    Engine
	Put       Put
	Operators []ed25519.PublicKey
	// Hold keeps what Put took until the function that it returns is called.
	Hold func() (let func())
	// Offer opens the offer for as long as use runs: Device.
	Offer func(use func(directory string) error) error
	// Commands is the directory for the command of a person (InstallCommand).
	Commands string
	// Close closes a layer, unless the running stack or a refresh needs it.
	Close func(ctx context.Context, id tree.Digest) error
	Say   func(error)

	once sync.Once
	// moving has a value while a component is attached or detached.
	moving chan struct{}
	failed sync.Map // of names, when a refresh to attach them was rolled back
	mutex  sync.Mutex
	users  map[uint32]int // how many clients each user has now
}

// Serve answers clients on a socket until ctx ends.
func (s *Server) Serve(ctx context.Context, path string) error {
	if err := fileio.Remove(path); err != nil { // of an earlier agent
		return err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen for components on demand: %w", err)
	}
	// Anybody may call a command of a component.
	if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // who asks for what is checked
		return errors.Join(err, listener.Close())
	}
	defer func() { _ = listener.Close() }() // nobody is to connect to it any more
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	slots := make(chan struct{}, maxClients)
	var clients sync.WaitGroup
	defer clients.Wait()
	ctx, leave := context.WithCancel(ctx)
	defer leave() // the clients ask whoever listens next
	for {
		connection, err := listener.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a client of components on demand: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default: // all slots are taken: this client is turned away
			_ = connection.Close()
			continue
		}
		clients.Go(func() {
			defer func() { <-slots }()
			s.client(ctx, connection)
		})
	}
}

func (s *Server) client(ctx context.Context, connection *net.UnixConn) {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
	defer stop()
	defer func() { _ = connection.Close() }()
	answer := response{}
	asked, err := s.asked(connection)
	if err == nil {
		var leave func()
		var ok bool
		if leave, ok = s.enter(asked.uid); ok {
			defer leave()
			answer.Components, err = s.answer(ctx, asked)
		} else {
			err = errMany
		}
	}
	if ctx.Err() != nil || errors.Is(err, refresh.ErrStopping) {
		return // without an answer, the client asks again
	}
	if err != nil {
		answer.Error = s.tell(asked, err)
	}
	if err != nil && asked.Triggered && !errors.Is(err, errRolledBack) { // that one is waited for before the next try
		// What has triggered the stand-in starts it again once it has failed, and systemd gives up after a few times.
		select {
		case <-ctx.Done():
		case <-time.After(failedFor):
		}
	}
	_ = json.NewEncoder(connection).Encode(answer) // a client that is gone needs no answer
}

// tell logs an error, and returns what the client gets to know: what units have logged is not for every user.
func (s *Server) tell(asked request, err error) string {
	s.Say(fmt.Errorf("components on demand: %w", err))
	if asked.uid != 0 && errors.Is(err, errRolledBack) {
		return fmt.Sprintf("component %q could not be attached; root finds the reason with: journalctl -u %s",
			asked.Name, paths.AgentUnit)
	}
	return err.Error()
}

// enter counts a client of a user, and reports whether the user may have one more.
func (s *Server) enter(uid uint32) (leave func(), ok bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if uid != 0 && s.users[uid] >= userClients {
		return nil, false
	}
	if s.users == nil {
		s.users = map[uint32]int{}
	}
	s.users[uid]++
	return func() {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		if s.users[uid]--; s.users[uid] == 0 {
			delete(s.users, uid)
		}
	}, true
}

var (
	// errRolledBack means that the VM runs what it ran before.
	errRolledBack = errors.New("the refresh failed and was rolled back")
	// errFaster means that the host has started a refresh since the status was read.
	errFaster = errors.New("the host has started a refresh")
	// errOthers means that another component was attached or detached for too long.
	errOthers = errors.New("another component is being attached or detached")
	// errMany means that a user has too many clients.
	errMany = errors.New("too many requests at once")
	// errRefused means that the caller may not do that.
	errRefused = errors.New("only root may do that")
)

// asked reads the request of a client.
func (s *Server) asked(connection *net.UnixConn) (request, error) {
	uid, err := peer(connection)
	if err != nil {
		return request{}, err
	}
	return readRequest(connection, uid)
}

// readRequest reads a request, and checks that its sender may make it.
func readRequest(connection *net.UnixConn, uid uint32) (asked request, err error) {
	if err := connection.SetReadDeadline(time.Now().Add(requestLimit)); err != nil {
		return asked, err
	}
	if err := json.NewDecoder(io.LimitReader(connection, maxRequest)).Decode(&asked); err != nil {
		return asked, fmt.Errorf("read the request: %w", err)
	}
	asked.uid, asked.Triggered = uid, asked.Triggered && asked.Used && uid == 0
	switch {
	case !slices.Contains([]string{attach, detach, list}, asked.Verb):
		return asked, fmt.Errorf("%q is not a request", asked.Verb)
	case asked.Verb != list && !release.ValidName(asked.Name):
		return asked, errors.New("a component is named by 1 to 63 letters, digits, ., _ and -")
	case uid != 0 && (asked.Verb == detach || asked.Verb == attach && !asked.Used):
		return asked, fmt.Errorf("%s component %q: %w", asked.Verb, asked.Name, errRefused)
	}
	return asked, nil
}

// peer returns the user who has connected.
func peer(connection *net.UnixConn) (uid uint32, err error) {
	raw, err := connection.SyscallConn()
	if err != nil {
		return 0, err
	}
	var credentials *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		credentials, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, fmt.Errorf("find out who asks: %w", err)
	}
	return credentials.Uid, nil
}

func (s *Server) answer(ctx context.Context, asked request) ([]Component, error) {
	switch asked.Verb {
	case list:
		return s.components()
	default:
		return nil, s.move(ctx, asked, asked.Verb == attach)
	}
}

// components lists the components of this VM.
func (s *Server) components() (all []Component, err error) {
	now, err := s.Engine.Status()
	if err != nil {
		return nil, err
	}
	err = s.withOffer(func(o offer) error {
		from, err := o.running(now.Stack)
		if err == nil {
			all = o.components(from)
		}
		return err
	})
	return all, err
}

func (s *Server) withOffer(use func(offer) error) error {
	return s.Offer(func(directory string) error {
		found, err := readOffer(directory, s.Operators)
		if err != nil {
			return err
		}
		return use(found)
	})
}

// turn waits until no other component is attached or detached, and returns what ends the own turn.
func (s *Server) turn(ctx context.Context, used bool) (end func(), err error) {
	s.once.Do(func() { s.moving = make(chan struct{}, 1) })
	limit := moveLimit
	if used {
		limit = othersLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case s.moving <- struct{}{}:
		return func() { <-s.moving }, nil
	case <-ctx.Done():
		return nil, errOthers
	}
}

// move attaches or detaches a component, and returns when that is committed. It is no error if nothing is to be done.
func (s *Server) move(ctx context.Context, asked request, with bool) error {
	for {
		end, err := s.turn(ctx, asked.Used)
		if err != nil {
			return fmt.Errorf("component %q: %w", asked.Name, err)
		}
		rest := s.banned(asked)
		if rest <= 0 {
			defer end()
			break
		}
		end()
		if !asked.Triggered {
			return fmt.Errorf(
				"component %q could not be attached, and is not tried again before %v have passed; sharedos "+
					"component add %[1]s tries at once", asked.Name, rest.Round(time.Second))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("component %q: %w", asked.Name, context.Cause(ctx))
		case <-time.After(rest):
		}
	}
	err := s.moveNow(ctx, asked.Name, with)
	switch {
	case errors.Is(err, errRolledBack) && with:
		s.failed.Store(asked.Name, time.Now())
	case err == nil:
		s.failed.Delete(asked.Name)
	}
	return err
}

// banned returns for how long a stand-in is not to attach its component, since that was rolled back.
func (s *Server) banned(asked request) time.Duration {
	at, failed := s.failed.Load(asked.Name)
	when, ok := at.(time.Time)
	if asked.Verb != attach || !asked.Used || !failed || !ok {
		return 0
	}
	return failedFor - time.Since(when)
}

func (s *Server) moveNow(ctx context.Context, name string, with bool) error {
	for {
		now, err := s.idle(ctx)
		if err != nil {
			return err
		}
		from, to, err := s.begin(ctx, now.Stack, name, with)
		if errors.Is(err, errFaster) {
			continue
		}
		if err != nil || from.Same(to) {
			return err
		}
		now, err = s.idle(ctx)
		if err != nil {
			return err
		}
		if !now.Stack.Same(to) {
			return fmt.Errorf("component %q: %w: %s", name, errRolledBack, now.Report.GetError())
		}
		if err := InstallCommand(s.Commands, true); err != nil {
			s.Say(fmt.Errorf("components on demand: %w", err))
		}
		s.closeUnused(ctx, from, to)
		return nil
	}
}

// idle waits until no refresh is in flight.
func (s *Server) idle(ctx context.Context) (refresh.Status, error) {
	for {
		now, err := s.Engine.Status()
		if err != nil || now.Report == nil || now.Report.GetDone() {
			return now, err
		}
		s.Engine.Await(ctx, now.Message())
		if err := context.Cause(ctx); err != nil {
			return now, fmt.Errorf("wait until the refresh in flight has ended: %w", err)
		}
	}
}

// begin starts the refresh that attaches or detaches a component, and returns between which stacks. These are the same
// if nothing is to be done. The error is errFaster if the host has started a refresh meanwhile, whatever its target is.
func (s *Server) begin(ctx context.Context, running release.Stack, name string,
	with bool) (from, to release.Stack, err error) {
	from, to = running, running
	err = s.withOffer(func(o offer) error {
		before, err := o.running(running)
		if err != nil {
			return err
		}
		if before.has(name) == with {
			return nil
		}
		after, err := o.move(before, name, with)
		if err != nil {
			return err
		}
		defer s.Hold()() // the engine keeps them from then on
		if err := o.give(ctx, s.Put, before, after); err != nil {
			return err
		}
		from, to = before.manifest.Record(before.id), after.manifest.Record(after.id)
		request, err := s.request(&agentapi.Target{From: before.signed, To: after.signed})
		if err != nil {
			return err
		}
		started, err := s.Engine.Refresh(request)
		if errors.Is(err, refresh.ErrBusy) || err == nil && !started {
			return errFaster
		}
		return err
	})
	return from, to, err
}

// request is a live refresh by what the host said for the last one.
func (s *Server) request(target *agentapi.Target) (*agentapi.RefreshRequest, error) {
	last, err := s.Engine.LastRequest()
	if err != nil {
		return nil, err
	}
	return &agentapi.RefreshRequest{
		Target: target, Own: true, MaxImpact: agentapi.Level_RESTART, Strategy: string(refresh.Live),
		SettleMs: settle.Milliseconds(),
		Policy:   last.GetPolicy(), KeepFiles: last.GetKeepFiles(), Purge: last.GetPurge(),
		HealthChecks:     last.GetHealthChecks(),
		RestartTimeoutMs: last.GetRestartTimeoutMs(),
	}, nil
}

// closeUnused closes the layers that only the earlier stack has. What is still in use stays open
// until the host detaches it.
func (s *Server) closeUnused(ctx context.Context, from, to release.Stack) {
	for _, layer := range from.Layers {
		if slices.ContainsFunc(to.Layers, func(l release.Layer) bool { return l.ID == layer.ID }) {
			continue
		}
		if err := s.Close(ctx, layer.ID); err != nil {
			s.Say(fmt.Errorf("components on demand: %w", err))
		}
	}
}

package agenttest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Bounds of the contract. A refresh of an emulated guest takes half a minute.
const (
	callLimit = 60 * time.Second
	// atOnce is longer than an answer takes under emulation, and shorter than an agent ever waits.
	atOnce       = 8 * time.Second
	refreshLimit = 5 * time.Minute
	partSize     = 1 << 20
)

// Subject is the VM whose agent is tested. It runs Current and has not been refreshed since it booted. The layers of
// Next, a later release of the same base, are attached.
type Subject struct {
	Dialer   transport.Dialer
	Operator ed25519.PrivateKey
	// Current and Next are signed stack manifests, of a base alone.
	Current, Next []byte
	// Contents are the contents lists of both.
	Contents [][]byte
}

// Contract tests what the host relies on in any agent. Its steps build on each other. At the end the VM runs Next.
func Contract(t *testing.T, subject Subject) {
	c := &contract{Subject: subject}
	c.current, c.currentID = c.open(t, subject.Current)
	c.next, c.nextID = c.open(t, subject.Next)
	c.agent = c.connect(t, subject.Operator)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"only operators are answered", c.onlyOperators},
		{"it tells what runs", c.tellsWhatRuns},
		{"what has happened already is not waited for", c.nothingToWaitFor},
		{"the agent's key is the same on every connection", c.keepsItsKey},
		{"bytes that are not the blob's are refused", c.refusesWrongBytes},
		{"a part that does not follow is refused", c.refusesAGap},
		{"an assessment needs the contents lists", c.needsContents},
		{"a manifest that no operator signed is refused", c.refusesAForeignManifest},
		{"an assessment changes nothing", c.assesses},
		{"what is no stack is refused", c.refusesARelease},
		{"a comparison with another stack than the running one is refused", c.refusesAStaleCaller},
		{"a refresh to what runs changes nothing", c.hasNothingToDo},
		{"layers of the running stack are held", c.holdsItsLayers},
		{"health checks are made without a refresh", c.checks},
		{"a refresh ends on the target", c.refreshes},
		{"the same refresh again changes nothing", c.isRefreshed},
		{"an earlier release is refused", c.refusesADowngrade},
	} {
		if !t.Run(step.name, step.run) {
			return // what follows rests on it
		}
	}
}

type contract struct {
	Subject
	agent             *transport.Agent
	current, next     *release.StackManifest
	currentID, nextID tree.Digest
	booted            *agentapi.StatusResponse
}

func (c *contract) open(t *testing.T, note []byte) (*release.StackManifest, tree.Digest) {
	t.Helper()
	manifest, id, err := release.OpenStack(note, []ed25519.PublicKey{c.Operator.Public().(ed25519.PublicKey)})
	if err != nil {
		t.Fatal(err)
	}
	return manifest, id
}

func (c *contract) dial(t *testing.T, key ed25519.PrivateKey) (*transport.Agent, error) {
	t.Helper()
	config, err := transport.ClientConfig(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return transport.Connect(limited(t, callLimit), c.Dialer, config)
}

func (c *contract) connect(t *testing.T, key ed25519.PrivateKey) *transport.Agent {
	t.Helper()
	agent, err := c.dial(t, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := agent.Close(); err != nil {
			t.Errorf("close the connection: %v", err)
		}
	})
	return agent
}

func limited(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func (c *contract) status(t *testing.T) *agentapi.StatusResponse {
	t.Helper()
	answer, err := c.agent.Status(limited(t, callLimit), &agentapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// mustFail fails unless an error has one of the codes.
func mustFail(t *testing.T, err error, want ...codes.Code) {
	t.Helper()
	if got := status.Code(err); !slices.Contains(want, got) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
}

func (c *contract) target() *agentapi.Target {
	return &agentapi.Target{To: c.Next, From: c.Current}
}

func (c *contract) onlyOperators(t *testing.T) {
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := c.dial(t, stranger)
	if err != nil {
		return
	}
	// With TLS 1.3 the client may get the error only after its handshake.
	defer func() { _ = agent.Close() }() // it was cut off
	if _, err := agent.Status(limited(t, callLimit), &agentapi.StatusRequest{}); err == nil {
		t.Error("a stranger was answered")
	}
}

func (c *contract) tellsWhatRuns(t *testing.T) {
	c.booted = c.status(t)
	stack, err := agentapi.ParseStack(c.booted.GetStack())
	if err != nil {
		t.Fatal(err)
	}
	if stack.ID != c.currentID || stack.Base != c.current.Base.ID || len(stack.Layers) != len(c.current.Layers) ||
		len(stack.Components) != 0 {
		t.Errorf("it runs %+v", stack)
	}
	if c.booted.GetState() != agentapi.State_IDLE || c.booted.GetLast() != nil {
		t.Errorf("it is in state %v, and reports %v", c.booted.GetState(), c.booted.GetLast())
	}
	if c.booted.GetProtocol() != agentapi.Protocol {
		t.Errorf("it speaks protocol %d", c.booted.GetProtocol())
	}
	if c.booted.GetBootId() == "" || c.booted.GetKernel() == "" || c.booted.GetSystemState() == "" ||
		c.booted.GetReadySeconds() <= 0 {
		t.Errorf("something is missing in %v", c.booted)
	}
	for _, layer := range stack.Layers {
		if !slices.Contains(c.booted.GetAttached(), layer.ID.String()) {
			t.Errorf("layer %s of its stack is not among those attached: %v", layer.ID, c.booted.GetAttached())
		}
	}
}

// nothingToWaitFor tests that a Status call for something that has happened already returns at once, with all fields.
func (c *contract) nothingToWaitFor(t *testing.T) {
	for _, event := range []agentapi.Event{agentapi.Event_PROGRESS, agentapi.Event_SERVICES} {
		question := &agentapi.StatusRequest{Event: event, Seen: agentapi.State_IDLE,
			WaitMs: (2 * atOnce).Milliseconds()}
		answer, err := c.agent.Status(limited(t, atOnce), question)
		if err != nil {
			t.Fatal(err)
		}
		if !agentapi.Started(answer.GetSystemState()) || !slices.Equal(answer.GetAttached(), c.booted.GetAttached()) {
			t.Errorf("asked to wait for %v it answers %v", event, answer)
		}
	}
}

func (c *contract) keepsItsKey(t *testing.T) {
	if again := c.connect(t, c.Operator); !bytes.Equal(again.Key, c.agent.Key) ||
		len(again.Key) != ed25519.PublicKeySize {
		t.Errorf("its key was %x and is %x", c.agent.Key, again.Key)
	}
}

func (c *contract) refusesWrongBytes(t *testing.T) {
	_, err := c.agent.Put(limited(t, callLimit),
		&agentapi.PutRequest{Digest: tree.Sum([]byte("these")).String(), Size: 5, Data: []byte("those")})
	mustFail(t, err, codes.InvalidArgument)
}

func (c *contract) refusesAGap(t *testing.T) {
	digest := tree.Sum([]byte("abcdef")).String()
	first, err := c.agent.Put(limited(t, callLimit), &agentapi.PutRequest{Digest: digest, Size: 6, Data: []byte("ab")})
	if err != nil || first.GetComplete() {
		t.Fatalf("a first part: %v, %v", first, err)
	}
	_, err = c.agent.Put(limited(t, callLimit),
		&agentapi.PutRequest{Digest: digest, Size: 6, Offset: 4, Data: []byte("ef")})
	mustFail(t, err, codes.InvalidArgument)
}

func (c *contract) needsContents(t *testing.T) {
	_, err := c.agent.Assess(limited(t, callLimit), &agentapi.AssessRequest{Target: c.target()})
	mustFail(t, err, codes.FailedPrecondition)
}

// put uploads the contents lists in parts, as the host does.
func (c *contract) put(t *testing.T) {
	t.Helper()
	for _, list := range c.Contents {
		complete := false
		for offset := 0; offset < len(list); offset += partSize {
			answer, err := c.agent.Put(limited(t, callLimit), &agentapi.PutRequest{
				Digest: tree.Sum(list).String(), Size: int64(len(list)), Offset: int64(offset),
				Data: list[offset:min(offset+partSize, len(list))],
			})
			if err != nil {
				t.Fatal(err)
			}
			complete = answer.GetComplete()
		}
		if !complete {
			t.Fatal("all parts were taken, and it is not complete")
		}
	}
}

func (c *contract) refusesAForeignManifest(t *testing.T) {
	c.put(t)
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	foreign, _, err := release.SignStack(c.next, stranger)
	if err != nil {
		t.Fatal(err)
	}
	target := &agentapi.Target{To: foreign, From: c.Current}
	_, err = c.agent.Assess(limited(t, callLimit), &agentapi.AssessRequest{Target: target})
	mustFail(t, err, codes.PermissionDenied)
	_, err = c.agent.Refresh(limited(t, callLimit), &agentapi.RefreshRequest{Target: target})
	mustFail(t, err, codes.PermissionDenied)
}

// refusesARelease tests that a signed release is not accepted as a signed stack, nor a target of protocol 1.
func (c *contract) refusesARelease(t *testing.T) {
	c.put(t)
	m := &release.Manifest{
		Schema: release.Schema, Kind: release.Base, Name: c.next.Base.Name, Sequence: 1,
		Architecture: c.next.Architecture, OS: c.next.OS,
		Layers: c.next.Layers, Contents: c.next.Contents, Kernel: &c.next.Kernel,
	}
	signed, _, err := release.Sign(m, c.Operator)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []*agentapi.Target{{To: signed, From: c.Current},
		{To: c.Next, From: signed}, {To: c.Next}, {}} {
		_, err = c.agent.Assess(limited(t, callLimit), &agentapi.AssessRequest{Target: target})
		mustFail(t, err, codes.InvalidArgument)
	}
}

func (c *contract) assesses(t *testing.T) {
	c.put(t)
	answer, err := c.agent.Assess(limited(t, callLimit), &agentapi.AssessRequest{Target: c.target()})
	if err != nil {
		t.Fatal(err)
	}
	if answer.GetImpact().GetLevel() == agentapi.Level_LEVEL_UNSPECIFIED {
		t.Errorf("the impact is %v", answer.GetImpact())
	}
	if now := c.status(t); now.GetStack().GetId() != c.currentID.String() ||
		now.GetState() != agentapi.State_IDLE || now.GetLast() != nil {
		t.Errorf("after an assessment it is %v", now)
	}
}

func (c *contract) refusesAStaleCaller(t *testing.T) {
	c.put(t)
	stale := &agentapi.Target{To: c.Next, From: c.Next}
	_, err := c.agent.Assess(limited(t, callLimit), &agentapi.AssessRequest{Target: stale})
	mustFail(t, err, codes.FailedPrecondition)
	c.mustRefuse(t, stale)
	if now := c.status(t); now.GetStack().GetId() != c.currentID.String() {
		t.Errorf("it runs %s", now.GetStack().GetBase())
	}
}

// mustRefuse fails unless a refresh is refused before anything changes.
func (c *contract) mustRefuse(t *testing.T, target *agentapi.Target) {
	t.Helper()
	answer, err := c.agent.Refresh(limited(t, callLimit),
		&agentapi.RefreshRequest{Target: target, MaxImpact: agentapi.Level_RESTART})
	if err != nil || !answer.GetStarted() {
		t.Fatalf("got %v, %v", answer, err)
	}
	if last := c.settled(t).GetLast(); last.GetCommitted() || !last.GetRefused() || last.GetError() == "" ||
		last.GetRefusal() != agentapi.Refusal_REFUSAL_TARGET {
		t.Errorf("it reports %v", last)
	}
}

// settled waits until a refresh that was started has ended.
func (c *contract) settled(t *testing.T) *agentapi.StatusResponse {
	t.Helper()
	ctx := limited(t, refreshLimit)
	for {
		now := c.status(t)
		if now.GetState() == agentapi.State_IDLE && now.GetLast().GetDone() {
			return now
		}
		if now.GetLast().GetDone() {
			t.Fatalf("the report is done in state %v", now.GetState())
		}
		select {
		case <-ctx.Done():
			t.Fatalf("it is still in state %v", now.GetState())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *contract) hasNothingToDo(t *testing.T) {
	c.put(t)
	answer, err := c.agent.Refresh(limited(t, callLimit), &agentapi.RefreshRequest{
		Target: &agentapi.Target{To: c.Current, From: c.Current},
	})
	if err != nil || answer.GetStarted() {
		t.Errorf("got %v, %v", answer, err)
	}
}

func (c *contract) holdsItsLayers(t *testing.T) {
	id := c.current.Layers[0].ID.String()
	answer, err := c.agent.ReleaseLayers(limited(t, callLimit), &agentapi.ReleaseLayersRequest{Ids: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.GetFree()) > 0 || len(answer.GetHeld()) != 1 || answer.GetHeld()[0].GetId() != id ||
		len(answer.GetHeld()[0].GetBy()) == 0 {
		t.Errorf("got %v", answer)
	}
}

func (c *contract) checks(t *testing.T) {
	none, err := c.agent.Check(limited(t, callLimit), &agentapi.CheckRequest{})
	if err != nil || len(none.GetFailed()) > 0 {
		t.Errorf("no checks: %v, %v", none, err)
	}
}

func (c *contract) refreshes(t *testing.T) {
	c.put(t)
	request := &agentapi.RefreshRequest{Target: c.target(), MaxImpact: agentapi.Level_RESTART}
	answer, err := c.agent.Refresh(limited(t, callLimit), request)
	if err != nil || !answer.GetStarted() {
		t.Fatalf("got %v, %v", answer, err)
	}
	if again, err := c.agent.Refresh(limited(t, callLimit), request); err != nil || again.GetStarted() {
		t.Errorf("asked again at once: %v, %v", again, err)
	}
	last := c.settled(t).GetLast()
	if !last.GetCommitted() || last.GetError() != "" || last.GetState() != agentapi.State_COMMITTED ||
		last.GetFrom().GetId() != c.currentID.String() || last.GetTo().GetId() != c.nextID.String() ||
		last.GetImpact().GetLevel() == agentapi.Level_LEVEL_UNSPECIFIED {
		t.Errorf("it reports %v", last)
	}
	c.isOnNext(t)
}

func (c *contract) isOnNext(t *testing.T) {
	t.Helper()
	now := c.status(t)
	if now.GetStack().GetId() != c.nextID.String() || now.GetBootId() != c.booted.GetBootId() {
		t.Errorf("it runs %s, boot %s", now.GetStack().GetId(), now.GetBootId())
	}
	if now.GetGeneration() <= c.booted.GetGeneration() {
		t.Errorf("generation %d became %d", c.booted.GetGeneration(), now.GetGeneration())
	}
	if c.next.Kernel.Release != now.GetKernel() && !slices.ContainsFunc(now.GetPending(), func(pending string) bool {
		return strings.Contains(pending, c.next.Kernel.Release)
	}) {
		t.Errorf("it runs kernel %s, and of the new one it tells %q", now.GetKernel(), now.GetPending())
	}
	if len(now.GetStack().GetLayers()) != len(c.next.Layers) {
		t.Errorf("its stack is %v", now.GetStack())
	}
}

func (c *contract) isRefreshed(t *testing.T) {
	answer, err := c.agent.Refresh(limited(t, callLimit), &agentapi.RefreshRequest{Target: c.target()})
	if err != nil || answer.GetStarted() {
		t.Errorf("got %v, %v", answer, err)
	}
	// The agent has dropped the lists of the refresh.
	back := &agentapi.Target{To: c.Next, From: c.Next}
	if c.currentID != c.nextID {
		back.To = c.Current
	}
	if _, err := c.agent.Assess(limited(t, callLimit), &agentapi.AssessRequest{Target: back}); err == nil {
		t.Error("an earlier release was assessed without contents lists")
	}
	c.isOnNext(t)
}

func (c *contract) refusesADowngrade(t *testing.T) {
	c.put(t)
	c.mustRefuse(t, &agentapi.Target{To: c.Current, From: c.Next})
	c.isOnNext(t)
}

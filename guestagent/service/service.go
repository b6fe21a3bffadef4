package service

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/configure"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/disks"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/live"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/ondemand"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/refresh"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/units"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// collectAt is the garbage collector's target percentage. It keeps the heap small, since it takes memory in every
	// VM.
	collectAt = 15
	// lastWord is how long a replaced agent goes on serving, so that its last answer is sent.
	lastWord = 500 * time.Millisecond
	// tidyAfter is how long after a caller has connected or disconnected memory is returned to the system.
	tidyAfter = 2 * time.Second
)

// Run serves until ctx ends. version is the one in the status.
func Run(ctx context.Context, version string) error {
	debug.SetGCPercent(collectAt)
	// systemd writes stderr to the journal.
	say := func(err error) { fmt.Fprintln(os.Stderr, "sharedos-agent:", err) }
	record, notSwitched, err := boot.ReadBootRecord()
	if err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	operators, err := operatorKeys(record.Operators)
	if err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	key, err := agentKey(mounts.AgentKey)
	if err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	guest, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("start the agent: %w", errKey)
	}
	certificate, err := transport.Certificate(key)
	if err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	blobs, err := newBlobs(mounts.BlobsDir)
	if err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	usr, err := live.NewUsr(mounts.UsrRecord)
	if err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	manager := &units.Manager{}
	for _, layer := range record.Stack.Layers {
		usr.Booted = append(usr.Booted, mounts.LayerPath(layer.ID))
	}
	system := live.NewSystem(usr, manager, boot.AgentUnit)
	engine := &refresh.Engine{
		Layers: live.Layers{}, Usr: usr, Etc: live.Etc{}, Units: liveUnits{manager}, System: system,
		Health:  live.Health{Units: manager},
		Records: live.Records{Configured: record.Configured, Detaches: record.Detaches}, Blobs: blobs,
		Starter: live.Starter{Units: manager}, Refused: record.Refused, NotSwitched: notSwitched,
		Operators: operators, Booted: record.Stack, Generation: record.Generation,
		Agent: boot.AgentUnit, Moved: moved(record),
		AtOnce: refresh.AtOnce(runtime.NumCPU()), Network: &live.Network{Record: mounts.NetworkRecord, Units: manager},
	}
	if err := engine.Starter.Kexec(ctx, nil, nil, "", release.Stack{}); err != nil {
		say(err) // the watchdog may still reset the machine, as if this system had not started
	}
	// leave ends all waits.
	ctx, leave := context.WithCancel(ctx)
	if err := engine.Start(ctx); err != nil {
		leave()
		return fmt.Errorf("start the agent: %w", err)
	}
	defer engine.Wait()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		boots := window{
			alone: record.Alone, limit: upLimit, pause: upPause, state: manager.State,
			judged:  engine.Trial,
			good:    func() error { return boot.MarkGood(record.Stack) },
			restart: func(ctx context.Context) error { return manager.Begin(ctx, "reboot.target") },
		}
		if err := boots.watch(ctx); err != nil && ctx.Err() == nil {
			say(fmt.Errorf("the boot is not marked good: %w", err))
		}
	}()
	defer func() { <-ended }()
	defer leave()
	own := sync.OnceValues(func() (tree.Digest, error) { return digestOf("/proc/self/exe") })
	places := takeoverPlaces{binary: mounts.AgentBinary, next: mounts.AgentBinary + ".next",
		record: mounts.RunDir + "/takeover.json", socket: mounts.RunDir + "/takeover.sock"}
	var refused takeoverRecord
	if judge() == "" { // otherwise the previous agent, which waits for this one, keeps that record
		if refused, err = places.settle(own); err != nil {
			say(fmt.Errorf("the outcome of the last takeover is not known: %w", err))
		}
	}
	serving, yielded := context.WithCancel(ctx)
	defer yielded()
	var replaced atomic.Bool
	health := live.Health{Units: manager}
	configurator := &configure.Configurator{
		Root: "/", StateDirectory: mounts.StateDir, Engine: engine, Units: configuredUnits{liveUnits{manager}},
		Stack:  runningStack{engine},
		Health: health, Networks: liveNetworks(manager), MergeKeys: boot.MergeAuthorizedKeys,
	}
	recovered := make(chan struct{})
	go func() { // it may have to restart units, for which no caller waits
		defer close(recovered)
		if err := configurator.Recover(ctx); err != nil && ctx.Err() == nil {
			say(err)
		}
	}()
	defer func() { <-recovered }()
	defer leave()
	answers := &answerer{
		version: version, configurator: configurator, engine: engine, blobs: blobs, layers: liveLayers{},
		system: observer{System: system, manager: manager, usr: usr},
		booted: record.Stack, notBooted: record.Refused, privateDir: mounts.PrivateDir, proc: "/proc",
		refused: refused, grow: boot.GrowMounted,
		identify: identify, setDisks: func(ctx context.Context, wanted []disks.Wanted,
			release []string) (map[string][]string, error) {
			firmware, err := boot.FirmwareDisks()
			if err != nil {
				return nil, err
			}
			return disks.Set(ctx, disks.Running{Manager: manager}, disks.Own, firmware, wanted, release)
		},
		replacer: &replacer{own: own, guest: guest, operators: operators, places: places,
			yield: func() (func(), error) { return yield(engine, configurator) }, leave: func() {
				replaced.Store(true)
				time.AfterFunc(lastWord, yielded)
			}},
		answered: sync.OnceFunc(func() {
			if err := notify(judge(), answeredWord); err != nil {
				say(err)
			}
		}),
	}
	// Callers come in bursts, and each TLS handshake uses memory that their calls do not need.
	tidy := time.AfterFunc(0, func() {
		if err := giveBack(); err != nil {
			say(fmt.Errorf("memory is not returned to the system: %w", err))
		}
	})
	defer tidy.Stop()
	passed := func() { tidy.Reset(tidyAfter) }
	ready := func() error {
		if answers.ready, err = uptime("/proc"); err != nil {
			return err
		}
		passed()
		if before := judge(); before != "" {
			return notify(before, readyWord)
		}
		return notify(serviceManager(), readyWord)
	}
	demand := &ondemand.Server{
		Engine: engine, Put: blobs.put, Hold: blobs.hold, Operators: operators, Offer: ondemand.Device,
		Close: answers.closeUnneeded, Say: say, Commands: mounts.LocalCommands,
	}
	answers.looked = demand.UpdateCommand
	go serveOnDemand(serving, demand)
	listen := func() (net.Listener, error) {
		inner, err := transport.ListenVSock(agentapi.Port)
		if err != nil {
			return nil, err
		}
		return transport.NewListener(inner, transport.ServerConfig(certificate, operators)), nil
	}
	if err := serve(serving, usualLimits, listen, answers, ready, passed, say); err != nil || !replaced.Load() {
		return err
	}
	return places.handOver(ctx, takeoverLimits{up: upWithin, answer: answerWithin, hold: holdFor}, adopt)
}

// yield keeps refreshes and configurations from starting until stay is called.
func yield(engine *refresh.Engine, configurator *configure.Configurator) (stay func(), err error) {
	release, err := configurator.Hold()
	if err != nil {
		return nil, err
	}
	if stay, err = engine.Yield(); err != nil {
		release()
		return nil, err
	}
	return func() { stay(); release() }, nil
}

// serveOnDemand answers the clients of components on demand until ctx ends.
func serveOnDemand(ctx context.Context, server *ondemand.Server) {
	server.UpdateCommand()
	for ctx.Err() == nil {
		if err := server.Serve(ctx, mounts.OnDemandSocket); err != nil {
			server.Say(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(lastPause):
		}
	}
}

// liveUnits implements refresh.Units for this system.
type liveUnits struct{ *units.Manager }

// ApplyAccounts implements refresh.Units.
func (liveUnits) ApplyAccounts(ctx context.Context, names []string) error {
	return units.ApplyAccounts(ctx, names)
}

// ApplyTemporary implements refresh.Units.
func (liveUnits) ApplyTemporary(ctx context.Context, names []string) error {
	return units.ApplyTemporary(ctx, names)
}

// observer implements Observer for this system.
type observer struct {
	*live.System
	manager *units.Manager
	usr     *live.Usr
}

// State implements Observer.
func (o observer) State(ctx context.Context) (string, error) { return o.manager.State(ctx) }

// liveLayers are the layers of this system.
type liveLayers struct{}

// Attached implements Layers.
func (liveLayers) Attached(layers []release.Layer) ([]tree.Digest, error) {
	disks, err := mounts.Disks()
	if err != nil {
		return nil, err
	}
	open, err := mounts.OpenLayers()
	if err != nil {
		return nil, err
	}
	attached := open
	for _, layer := range layers {
		serial := mounts.LayerSerial(layer.ID)
		has := slices.ContainsFunc(disks, func(d mounts.Disk) bool { return d.Serial == serial })
		if has && !slices.Contains(attached, layer.ID) {
			attached = append(attached, layer.ID)
		}
	}
	return attached, nil
}

// Open implements Layers.
func (liveLayers) Open(id tree.Digest) (bool, error) {
	open, err := mounts.OpenLayers()
	return slices.Contains(open, id), err
}

// Check implements Layers.
func (liveLayers) Check(ctx context.Context, layer release.Layer) error {
	return live.CheckLayer(ctx, layer, live.StatusCheck)
}

// Close implements Layers.
func (liveLayers) Close(ctx context.Context, id tree.Digest) error { return mounts.CloseLayer(ctx, id) }

// Abandon implements Layers.
func (liveLayers) Abandon(id tree.Digest) error { return mounts.AbandonLayer(id) }

// moved is the report of a boot that booted another stack than the committed one; nil if it booted the committed one.
func moved(record boot.BootRecord) *agentapi.Report {
	if record.Moved == nil {
		return nil
	}
	return refresh.Moved(record.Moved.From, record.Stack, record.Moved.Carried, record.Moved.Conflicts)
}

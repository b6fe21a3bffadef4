package vm

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
)

// Bounds of waiting for an agent. A guest under emulation answers within a second when it is there.
const (
	connectLimit = 5 * time.Second
	callLimit    = 20 * time.Second
	pollEvery    = 250 * time.Millisecond
	reportEvery  = 10 * time.Second
	// waitFor is how long an agent is asked to wait for an event in its VM before it answers. Between two such
	// questions the state of the domain is read.
	waitFor = 2 * time.Second
	// startLimit bounds the wait for a VM that was started, within what ctx allows. An emulated guest boots in
	// half a minute.
	startLimit = 10 * time.Minute
)

// ErrBroke means that QEMU of a VM crashed, or that somebody killed it, while its agent was waited for.
var ErrBroke = errors.New("QEMU has ended by itself")

// ErrPaused means that a VM stays paused, so that its agent cannot answer.
var ErrPaused = errors.New("the VM is paused")

// connect reaches the agent of a running VM. At first contact it pins the agent's key in the definition.
func (f *Fleet) connect(ctx context.Context, domain hypervisor.Domain) (*transport.Agent, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	var pinned ed25519.PublicKey
	if domain.Metadata.AgentKey != "" {
		key, err := base64.StdEncoding.DecodeString(domain.Metadata.AgentKey)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("the agent key in the definition of %q is not a base64 Ed25519 key", domain.Name)
		}
		pinned = key
	}
	if err := f.knows(domain); err != nil {
		return nil, err
	}
	config, err := transport.ClientConfig(f.Key, pinned)
	if err != nil {
		return nil, err
	}
	dialer, err := f.Hypervisor.Dialer(ctx, domain.Name)
	if err != nil {
		return nil, err
	}
	agent, err := transport.Connect(ctx, dialer, config)
	if errors.Is(err, transport.ErrPeerKey) {
		return nil, fmt.Errorf("%w: what answers in VM %q is not the agent that answered after its first boot; "+
			"if its private disk was replaced on purpose, taint the resource", err, domain.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return agent, nil
}

// knows returns ErrOperator if the domain was defined for other operators than this one. The agent would end the
// connection without a reason.
func (f *Fleet) knows(domain hypervisor.Domain) error {
	var config agentapi.BootConfig
	own, ok := f.Key.Public().(ed25519.PublicKey)
	if err := json.Unmarshal(domain.BootConfig, &config); err != nil || !ok || len(config.Operators) == 0 {
		return nil //nolint:nilerr // a damaged definition is reported elsewhere, and the agent may answer nevertheless
	}
	if slices.Contains(config.Operators, base64.StdEncoding.EncodeToString(own)) {
		return nil
	}
	return fmt.Errorf("%w: VM %q: %w", ErrNoAnswer, domain.Name, ErrOperator)
}

// status asks the agent of a running VM for its status, once.
func (f *Fleet) status(ctx context.Context, domain hypervisor.Domain) (*agentapi.StatusResponse, error) {
	agent, err := f.connect(ctx, domain)
	if err != nil {
		return nil, err
	}
	status, err := statusOf(ctx, agent, &agentapi.StatusRequest{})
	if err != nil {
		return nil, errors.Join(err, agent.Close())
	}
	return status, agent.Close()
}

func statusOf(ctx context.Context, agent *transport.Agent,
	request *agentapi.StatusRequest) (*agentapi.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	status, err := agent.Status(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return status, nil
}

// errNotStarted means that libvirt has not started a domain.
var errNotStarted = errors.New("start")

// start boots the VM, waits until its agent answers, and then until its services have started. It returns the
// seconds from start to the agent's first answer; 0 for a VM that ran already.
func (f *Fleet) start(ctx context.Context, name string, progress Progress) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	_, before, err := f.Hypervisor.Lookup(ctx, name)
	if err != nil {
		return 0, err
	}
	progress("starting")
	began := time.Now()
	if err := f.Hypervisor.Start(ctx, name); err != nil {
		return 0, fmt.Errorf("%w: %w", errNotStarted, err)
	}
	status, err := f.await(ctx, name, "waiting for the agent", progress, askNow,
		func(*agentapi.StatusResponse) bool { return true })
	if err != nil {
		return 0, err
	}
	ready := time.Since(began).Seconds()
	if before == hypervisor.Running {
		ready = 0
	}
	if !started(status) {
		if _, err := f.await(ctx, name, "the agent answers; waiting for the services", progress,
			askForServices, started); err != nil {
			return 0, err
		}
	}
	return ready, f.awaitAddress(ctx, name, progress)
}

// addressLimit bounds the wait for an address of a VM whose services have started, unless Fleet.AddressLimit does. DHCP
// of an emulated guest takes up to half a minute.
const addressLimit = time.Minute

// awaitAddress waits until a VM that was started can be reached at an address. It is no error if none comes: the VM may
// have none by intention, and VM.Unreachable tells. An agent that does not say whether there is one is not waited for.
func (f *Fleet) awaitAddress(ctx context.Context, name string, progress Progress) error {
	domain, _, err := f.Hypervisor.Lookup(ctx, name)
	if err != nil || len(domain.Interfaces) == 0 {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, cmp.Or(f.AddressLimit, addressLimit))
	defer cancel()
	if _, err := f.await(limited, name, "the services have started; waiting for an address", progress, askForAddress,
		func(status *agentapi.StatusResponse) bool { return !unreachable(domain, status) }); err != nil &&
		limited.Err() == nil {
		return err
	}
	return ctx.Err()
}

// unreachable reports whether an agent says that its VM, which has a network interface, has no address. User-mode
// networking forwards ports to an address of IPv4, which may come after one of IPv6.
func unreachable(domain hypervisor.Domain, status *agentapi.StatusResponse) bool {
	network := status.GetNetwork()
	if network == nil || len(domain.Interfaces) == 0 {
		return false
	}
	for _, one := range domain.Interfaces {
		if one.User == nil {
			continue
		}
		return !slices.ContainsFunc(network.GetAddresses(), func(text string) bool {
			address, err := netip.ParseAddr(text)
			return err == nil && address.Is4()
		})
	}
	return len(network.GetAddresses()) == 0
}

// started reports whether systemd has finished starting the system. Units may have failed.
func started(status *agentapi.StatusResponse) bool {
	return agentapi.Started(status.GetSystemState())
}

// askNow asks an agent what it knows now.
func askNow() *agentapi.StatusRequest { return &agentapi.StatusRequest{} }

// askForServices asks an agent to answer when its VM's services have started.
func askForServices() *agentapi.StatusRequest {
	return &agentapi.StatusRequest{Event: agentapi.Event_SERVICES, WaitMs: waitFor.Milliseconds()}
}

// askForAddress asks an agent to answer when its VM has an address.
func askForAddress() *agentapi.StatusRequest {
	return &agentapi.StatusRequest{Event: agentapi.Event_ADDRESS, WaitMs: waitFor.Milliseconds()}
}

// askForTurn asks an agent that waits for the host to answer when it no longer waits.
func askForTurn() *agentapi.StatusRequest {
	return &agentapi.StatusRequest{Event: agentapi.Event_PROGRESS, Seen: agentapi.State_STARTING,
		WaitMs: waitFor.Milliseconds()}
}

// wentOff is why a VM that is off cannot be waited for.
func (f *Fleet) wentOff(ctx context.Context, name, what, console string) error {
	broke, err := f.Hypervisor.Broke(ctx, name)
	if err != nil {
		return fmt.Errorf("VM %q is off while %s, and why is not known: %w; the end of its console, %s:%s",
			name, what, err, console, f.consoleTail(ctx, console))
	}
	if broke {
		return fmt.Errorf(
			"VM %q went off while %s: %w, without the guest having powered off: it crashed or was killed, for "+
				"example because the host was out of memory. The VM's log of libvirt (/var/log/libvirt/qemu/%s.log) "+
				"and the host's kernel log tell why; mend that and apply again; the end of its console, %s:%s",
			name, what, ErrBroke, name, console, f.consoleTail(ctx, console))
	}
	return fmt.Errorf("VM %q powered off while %s; the end of its console, %s:%s", name, what, console,
		f.consoleTail(ctx, console))
}

// await asks the agent until done returns true, the VM is off or stays paused, or ctx ends. At the first contact it
// pins the agent's key. An agent that answers at once is asked again after pollEvery.
func (f *Fleet) await(ctx context.Context, name, what string, progress Progress,
	question func() *agentapi.StatusRequest, done func(*agentapi.StatusResponse) bool,
) (*agentapi.StatusResponse, error) {
	began := time.Now()
	reported := began
	progress(what)
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	var agent *transport.Agent
	defer func() {
		if agent != nil {
			_ = agent.Close() // only questions were asked on it
		}
	}()
	last := errors.New("the agent was not asked yet")
	var said *agentapi.StatusResponse // its last answer
	var reset resetWait
	vsock := func(ctx context.Context) (hypervisor.VSockState, error) { return f.Hypervisor.VSock(ctx, name) }
	console := f.consoleLog(name)
	ran := began // when it was last not seen paused
	ended := func() error {
		return fmt.Errorf("%s of VM %q for %d s: %w; last: %w; the end of its console, %s:%s", what, name,
			int(time.Since(began).Seconds()), ctx.Err(), last, console, f.consoleTail(ctx, console))
	}
	for {
		domain, state, err := f.Hypervisor.Lookup(ctx, name)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, ended()
		case err != nil:
			return nil, err
		}
		console = domain.ConsoleLog
		if state == hypervisor.Off || state == hypervisor.Crashed {
			return nil, f.wentOff(ctx, name, what, console)
		}
		if state != hypervisor.Paused {
			ran = time.Now()
		} else if paused := time.Since(ran); paused >= cmp.Or(f.PausedLimit, time.Minute) {
			return nil, fmt.Errorf(
				"%s of VM %q: %w since %d s: QEMU pauses a VM when it cannot write its disk or cannot go on, which "+
					"the VM's log of libvirt tells (virsh domstate --reason %s; /var/log/libvirt/qemu/%s.log); mend "+
					"that, then virsh resume or virsh destroy it, and apply again; the end of its console, %s:%s",
				what, name, ErrPaused, int(paused.Seconds()), name, name, console, f.consoleTail(ctx, console))
		}
		if agent == nil && reset.over(ctx, vsock, time.Now()) {
			agent, err = f.connectAndPin(ctx, domain)
			if errors.Is(err, transport.ErrPeerKey) || errors.Is(err, ErrOperator) ||
				errors.Is(err, hypervisor.ErrVSockEnded) {
				return nil, err // waiting does not help
			}
		}
		if agent != nil {
			status, statusErr := statusOf(ctx, agent, question())
			if statusErr == nil && done(status) {
				return status, nil
			}
			if err = statusErr; err != nil {
				_ = agent.Close() // it is broken already
				agent = nil
				reset.lost(said, time.Now())
			} else {
				said = status
			}
		}
		if err != nil {
			last = err
		}
		if time.Since(reported) >= reportEvery {
			reported = time.Now()
			progress(fmt.Sprintf("%s (%d s)", what, int(time.Since(began).Seconds())))
		}
		select {
		case <-ctx.Done():
			return nil, ended()
		case <-ticker.C:
		}
	}
}

// bootLimit is the default of Fleet.BootLimit. An emulated guest boots in half a minute.
const bootLimit = time.Minute

// awaitBoot waits for the agent of a VM that may still be booting. If the agent does not answer within
// Fleet.BootLimit, it returns nil, too: what follows asks the agent again, and knows what to do without an answer.
func (f *Fleet) awaitBoot(ctx context.Context, domain hypervisor.Domain, progress Progress) error {
	_, err := f.status(ctx, domain)
	if !errors.Is(err, ErrNoAnswer) {
		return nil //nolint:nilerr // waiting does not help
	}
	limited, cancel := context.WithTimeout(ctx, cmp.Or(f.BootLimit, bootLimit))
	defer cancel()
	if _, err := f.await(limited, domain.Name, "waiting for the agent of a VM that may be booting", progress, askNow,
		func(*agentapi.StatusResponse) bool { return true }); err != nil && limited.Err() == nil {
		return err
	}
	return ctx.Err()
}

// connectAndPin connects to the agent, and records its key in the definition at the first contact.
func (f *Fleet) connectAndPin(ctx context.Context, domain hypervisor.Domain) (*transport.Agent, error) {
	agent, err := f.connect(ctx, domain)
	if err != nil || domain.Metadata.AgentKey != "" {
		return agent, err
	}
	metadata := domain.Metadata
	metadata.AgentKey = base64.StdEncoding.EncodeToString(agent.Key)
	if err := f.Hypervisor.SetMetadata(ctx, domain.Name, metadata); err != nil {
		return nil, errors.Join(fmt.Errorf("pin the agent's key: %w", err), agent.Close())
	}
	return agent, nil
}

// consoleLimit is how much of a console log an error shows, in bytes and lines.
const (
	consoleLimit = 4096
	consoleLines = 15
)

// consoleTimeout bounds reading it, which an error that ended its context has to do, too.
const consoleTimeout = 5 * time.Second

// consoleTail returns the last lines of a console log, marked as the guest's, which wrote them.
func (f *Fleet) consoleTail(ctx context.Context, path string) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), consoleTimeout)
	defer cancel()
	text, err := f.Machine.ReadTail(ctx, path, consoleLimit)
	if err != nil {
		return " (" + err.Error() + ")"
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return plain.Guest(lines[max(0, len(lines)-consoleLines):]...)
}

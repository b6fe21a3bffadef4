package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// Bounds of what is done to a VM. They are generous: a boot that takes half a minute takes several on a busy machine.
const (
	lifeLimit  = 20 * time.Minute
	loginLimit = 10 * time.Minute
	agentLimit = 2 * time.Minute
	// attempts is how often Create makes a VM whose emulator fails while it boots.
	attempts = 3
	// askLimit bounds each of several questions to an agent.
	askLimit = 20 * time.Second
)

// VM is a VM of a World.
type VM struct {
	World *World
	// Spec is what the VM was last asked to be.
	Spec vm.Spec
	// ports maps ports of the guest to ports of the host's 127.0.0.1.
	ports map[uint16]uint16
	slots *testbed.Slots
	// login is the SSH connection that Run keeps if World.KeepLogin is set; nil if there is none.
	login      *ssh.Client
	loginMutex sync.Mutex
}

// Create makes a VM of 512 MiB with a disk of 4 GiB that runs a release, and waits until its services have started.
// SSH and the given TCP ports of the guest are forwarded, see Address. shape, unless it is nil, changes the VM's
// specification first.
//
// The VM holds one of the machine's guest slots (testbed.TakeSlots) until Delete, or until the testbed is closed.
// Create waits for the slot as long as ctx allows. A caller that needs two VMs at the same time must not create one
// after the other, since each could wait for a slot that another such caller holds.
//
// A VM whose emulator fails while it boots (testbed.EmulatorFailed) is made again under another name.
func (w *World) Create(ctx context.Context, name string, base tree.Digest, shape func(*vm.Spec),
	ports ...uint16) (*VM, error) {
	slots, err := w.Bed.TakeSlots(ctx, 1, w.Expected)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lifeLimit)
	defer cancel()
	v := &VM{World: w, slots: slots, ports: map[uint16]uint16{}, Spec: vm.Spec{
		Name: w.Bed.Name(name), UUID: uuid.NewString(), Base: base, VCPUs: 1, Memory: 512 << 20, DiskSize: 4 << 30,
		AuthorizedKeys: []string{w.Key.Authorized}, Running: true,
		Refresh: vm.RefreshPolicy{Strategy: "live", MaxImpact: agentapi.Level_RESTART, Settle: time.Second},
	}}
	v.Spec.Hostname = v.Spec.Name
	forwards := map[uint16]uint16{}
	for _, port := range append([]uint16{22}, ports...) {
		free, err := testbed.FreePort()
		if err != nil {
			return nil, err
		}
		forwards[free], v.ports[port] = port, free
	}
	v.Spec.Interfaces = map[string]hypervisor.Interface{"lan": {User: &hypervisor.UserNetwork{Forwards: forwards}}}
	if shape != nil {
		shape(&v.Spec)
	}
	for attempt := 1; ; attempt++ {
		err := v.create(ctx)
		if err == nil {
			return v, nil
		}
		if attempt == attempts || !w.Bed.EmulatorFailed(v.Spec.Name) {
			return nil, err
		}
		w.Tell(fmt.Sprintf("%s: the emulator failed, and another VM is made: %v", v.Spec.Name, err))
		if err := w.Host.Fleet.Delete(ctx, v.Spec.Name, v.Spec.UUID, v.progress); err != nil {
			return nil, err
		}
		failed := v.Spec.Name // its logs stay
		v.Spec.Name, v.Spec.UUID = w.Bed.Name(name), uuid.NewString()
		if v.Spec.Hostname == failed {
			v.Spec.Hostname = v.Spec.Name
		}
	}
}

// create makes the VM, and gives up when its emulator has failed.
func (v *VM) create(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for ctx.Err() == nil {
			if v.World.Bed.EmulatorFailed(v.Spec.Name) {
				cancel()
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
		}
	}()
	_, err := v.World.Host.Fleet.Create(ctx, v.Spec, v.progress)
	cancel()
	<-watched
	return err
}

func (v *VM) progress(step string) { v.World.Tell(v.Spec.Name + ": " + step) }

// Address returns the host's address that is forwarded to a port of the guest, "127.0.0.1:port"; "" for a port that
// Create was not called with.
func (v *VM) Address(port uint16) string {
	at, known := v.ports[port]
	if !known {
		return ""
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(at)))
}

// Run runs a shell command as root in the guest and returns its output. It waits until the guest accepts logins.
func (v *VM) Run(ctx context.Context, command string) (string, error) {
	return v.RunWith(ctx, command, nil)
}

// RunWith is Run with a standard input.
func (v *VM) RunWith(ctx context.Context, command string, stdin io.Reader) (string, error) {
	waiting, cancel := context.WithTimeout(ctx, loginLimit)
	defer cancel()
	for {
		text, err := v.runOnce(ctx, command, stdin)
		if !errors.Is(err, ErrLogin) || waiting.Err() != nil {
			return strings.TrimRight(text, "\n"), err
		}
		select {
		case <-waiting.Done():
			return "", err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// RunAll runs shell commands one after the other in one login, which costs an emulated guest one to two seconds, and
// returns what each of them prints. It ends with the first command that fails, which is an error.
func (v *VM) RunAll(ctx context.Context, commands ...string) ([]string, error) {
	script := &strings.Builder{}
	for _, command := range commands {
		fmt.Fprintf(script, "(\n%s\n) || exit\nprintf '\\0'\n", command)
	}
	text, err := v.Run(ctx, script.String())
	printed := strings.Split(text, "\x00")
	if err == nil && len(printed) != len(commands)+1 {
		err = fmt.Errorf("%d commands in the guest print %d texts", len(commands), len(printed)-1)
	}
	if err != nil {
		return nil, err
	}
	printed = printed[:len(commands)]
	for i := range printed {
		printed[i] = strings.TrimRight(printed[i], "\n")
	}
	return printed, nil
}

// runOnce runs a command over the kept connection, or over one of its own.
func (v *VM) runOnce(ctx context.Context, command string, stdin io.Reader) (string, error) {
	if !v.World.KeepLogin {
		return v.World.Key.Run(ctx, v.Address(22), command, stdin)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	client, err := v.keptLogin(ctx)
	if err != nil {
		return "", err
	}
	text, err := runIn(ctx, client, v.Address(22), command, stdin)
	if exit := (*ssh.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		v.logout(client)
	}
	return text, err
}

// keptLogin returns the kept connection, or makes one.
func (v *VM) keptLogin(ctx context.Context) (_ *ssh.Client, err error) {
	v.loginMutex.Lock()
	defer v.loginMutex.Unlock()
	if v.login == nil {
		v.login, err = v.World.Key.login(ctx, v.Address(22))
	}
	return v.login, err
}

// logout closes a connection on which a command failed, and does not keep it. The guest may have closed it before.
func (v *VM) logout(client *ssh.Client) {
	v.loginMutex.Lock()
	defer v.loginMutex.Unlock()
	_ = client.Close()
	if v.login == client {
		v.login = nil
	}
}

// Refresh refreshes the VM to another release by the policy in Spec, and waits for the end. A refresh that failed
// has a report, too. Spec names the new release only if the VM runs it.
func (v *VM) Refresh(ctx context.Context, to tree.Digest) (*agentapi.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, lifeLimit)
	defer cancel()
	spec := v.Spec
	spec.Base = to
	_, report, err := v.World.Host.Fleet.Update(ctx, spec, v.progress)
	if err == nil {
		v.Spec = spec
	}
	return report, err
}

// Status asks the agent.
func (v *VM) Status(ctx context.Context) (*agentapi.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, agentLimit)
	defer cancel()
	now, err := v.World.Host.Fleet.Read(ctx, v.Spec.Name)
	if err != nil {
		return nil, err
	}
	if !now.Answered {
		return nil, fmt.Errorf("the agent of %s does not answer: %w", v.Spec.Name, now.NoAnswer)
	}
	return now.Agent, nil
}

// Await asks the agent until done returns true, and tolerates that it does not answer meanwhile. It keeps one
// connection as long as that works, and the question may ask the agent to wait for an event, which done may change:
// under emulation a new connection costs the guest nearly a tenth of a second of its processor, and so does an answer.
func (v *VM) Await(ctx context.Context, what string, question *agentapi.StatusRequest,
	done func(*agentapi.StatusResponse) bool) (*agentapi.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, lifeLimit)
	defer cancel()
	var agent *transport.Agent
	disconnect := func() {
		if agent != nil {
			_ = agent.Close() // only questions were asked on it
		}
		agent = nil
	}
	defer disconnect()
	ask := func() (*agentapi.StatusResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, askLimit)
		defer cancel()
		if agent == nil {
			var err error
			if agent, err = v.Agent(ctx); err != nil {
				return nil, err
			}
		}
		return agent.Status(ctx, question)
	}
	for {
		status, err := ask()
		if err == nil && done(status) {
			return status, nil
		}
		if err == nil {
			err = fmt.Errorf("it is in state %s, system %s, running base %s", status.GetState(),
				status.GetSystemState(), status.GetStack().GetBase())
		} else {
			disconnect()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait until %s %s: %w; last: %w", v.Spec.Name, what, ctx.Err(), err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// Services is a question that the agent answers when the services of its VM have started.
func Services() *agentapi.StatusRequest {
	return &agentapi.StatusRequest{Event: agentapi.Event_SERVICES, WaitMs: (askLimit / 2).Milliseconds()}
}

// Settled waits until no refresh is in flight and the system has started. While a refresh is in
// flight, the agent answers at each of its states alone, and briefly: whole answers four times a
// second take processor time from the refresh.
func (v *VM) Settled(ctx context.Context) (*agentapi.StatusResponse, error) {
	question := Services()
	return v.Await(ctx, "is settled", question, func(s *agentapi.StatusResponse) bool {
		question.Event, question.Seen = agentapi.Event_SERVICES, s.GetState()
		if s.GetState() != agentapi.State_IDLE || s.GetLast() != nil && !s.GetLast().GetDone() {
			question.Event = agentapi.Event_PROGRESS
			return false
		}
		return s.GetSystemState() == "running" || s.GetSystemState() == "degraded"
	})
}

// CutPower ends the VM like a power cut: it loses what is not on its disk.
func (v *VM) CutPower(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lifeLimit)
	defer cancel()
	return v.World.Host.Fleet.Hypervisor.PowerOff(ctx, v.Spec.Name)
}

// Start starts the VM from its definition and waits until it is settled.
func (v *VM) Start(ctx context.Context) (*agentapi.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, lifeLimit)
	defer cancel()
	if err := v.World.Host.Fleet.Hypervisor.Start(ctx, v.Spec.Name); err != nil {
		return nil, err
	}
	return v.Settled(ctx)
}

// Agent connects to the agent as the operator, without the fleet. The caller closes it.
func (v *VM) Agent(ctx context.Context) (*transport.Agent, error) {
	ctx, cancel := context.WithTimeout(ctx, agentLimit)
	defer cancel()
	config, err := transport.ClientConfig(v.World.Operator, nil)
	if err != nil {
		return nil, err
	}
	dialer, err := v.World.Host.Fleet.Hypervisor.Dialer(ctx, v.Spec.Name)
	if err != nil {
		return nil, err
	}
	return transport.Connect(ctx, dialer, config)
}

// Console is the path of the file with the output of the VM's serial console.
func (v *VM) Console() string {
	return filepath.Join(v.World.Host.Fleet.ConsoleDir, v.Spec.Name+".log")
}

// Delete ends and removes the VM, and releases its guest slot.
func (v *VM) Delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lifeLimit)
	defer cancel()
	if err := v.World.Bed.KeepLogs(v.Spec.Name); err != nil {
		return err
	}
	if err := v.World.Host.Fleet.Delete(ctx, v.Spec.Name, v.Spec.UUID, v.progress); err != nil {
		return err
	}
	return v.slots.Release()
}

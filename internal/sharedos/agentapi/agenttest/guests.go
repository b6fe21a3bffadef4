package agenttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor/hypervisortest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Guests are the agents in the domains of a fake hypervisor. They start and end with their domains, and see the disks
// that are attached to them.
type Guests struct {
	// OnNew, if set, is called with each new agent before its first boot.
	OnNew func(name string, agent *Agent)

	mu     sync.Mutex
	agents map[string]*Agent
	silent map[string]bool
	// servers are what else listens in guests.
	servers map[server]func(net.Conn)
}

// server is a port of a guest.
type server struct {
	guest string
	port  uint32
}

// Serve has something listen on a port of a guest, for as long as the guest runs. serve owns the
// connections that it gets.
func (g *Guests) Serve(name string, port uint32, serve func(net.Conn)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.servers == nil {
		g.servers = map[server]func(net.Conn){}
	}
	g.servers[server{name, port}] = serve
}

// Inhabit runs an agent in each domain of a hypervisor.
func Inhabit(domains *hypervisortest.Hypervisor) *Guests {
	g := &Guests{agents: map[string]*Agent{}, silent: map[string]bool{}}
	domains.OnStart = func(d hypervisor.Domain) error {
		agent, err := g.Agent(d.Name)
		if err != nil {
			return err
		}
		layers := make([]tree.Digest, len(d.Layers))
		for i, layer := range d.Layers {
			layers[i] = layer.ID
		}
		return agent.Boot(d.BootConfig, layers)
	}
	domains.OnOff = func(name string) {
		if agent := g.known(name); agent != nil {
			agent.Off()
		}
	}
	domains.OnAttach = func(name string, layer hypervisor.LayerDevice) error {
		agent, err := g.Agent(name)
		if err != nil {
			return err
		}
		agent.Attach(layer.ID)
		return nil
	}
	domains.OnDetach = func(name string, id tree.Digest) error {
		agent, err := g.Agent(name)
		if err != nil {
			return err
		}
		return agent.Detach(id)
	}
	domains.OnResize = func(name, disk string, size int64) {
		if agent := g.known(name); agent != nil && disk == "" {
			agent.Resize(size)
		}
	}
	domains.Dial = func(name string) (transport.Dialer, error) {
		agent, err := g.Agent(name)
		return line{g, name, agent}, err
	}
	return g
}

// line is the connection to a guest, which may not answer.
type line struct {
	guests *Guests
	name   string
	agent  *Agent
}

func (l line) DialContext(ctx context.Context, port uint32) (net.Conn, error) {
	l.guests.mu.Lock()
	silent, serve := l.guests.silent[l.name], l.guests.servers[server{l.name, port}]
	l.guests.mu.Unlock()
	if silent {
		return nil, fmt.Errorf("dial %s: %w", l.name, transport.ErrRefused)
	}
	if serve != nil {
		ours, theirs, err := socketPair()
		if err == nil {
			go serve(theirs)
		}
		return ours, err
	}
	return l.agent.DialContext(ctx, port)
}

// socketPair returns two connected sockets, which have buffers as those of a vsock have.
func socketPair() (ours, theirs net.Conn, err error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	var conns [2]net.Conn
	for i, end := range ends {
		file := os.NewFile(uintptr(end), "socket") //nolint:gosec // it is not negative
		conn, connErr := net.FileConn(file)
		conns[i], err = conn, errors.Join(err, connErr, file.Close())
	}
	return conns[0], conns[1], err
}

// Agent returns the agent of a VM. It exists as long as the VM's private disk.
func (g *Guests) Agent(name string) (*Agent, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.agents[name] == nil {
		agent, err := New()
		if err != nil {
			return nil, fmt.Errorf("make an agent for VM %q: %w", name, err)
		}
		if g.OnNew != nil {
			g.OnNew(name, agent)
		}
		g.agents[name] = agent
	}
	return g.agents[name], nil
}

func (g *Guests) known(name string) *Agent {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.agents[name]
}

// Silence makes the agent of a VM stop answering, or answer again.
func (g *Guests) Silence(name string, silent bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.silent[name] = silent
}

// Forget ends the agent of a VM. The next VM of the name has a new agent, as after a new private disk.
func (g *Guests) Forget(name string) {
	if agent := g.known(name); agent != nil {
		agent.Off()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.agents, name)
}

// Off ends all agents.
func (g *Guests) Off() {
	g.mu.Lock()
	agents := g.agents
	g.agents = map[string]*Agent{}
	g.mu.Unlock()
	for _, agent := range agents {
		agent.Off()
	}
}

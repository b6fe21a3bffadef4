package agenttest

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor/hypervisortest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Guests are the agents in the domains of a fake hypervisor: they boot, end and see disks as the domains do.
type Guests struct {
	// OnNew, when set, is called with every agent before it first boots.
	OnNew func(name string, agent *Agent)

	mu     sync.Mutex
	agents map[string]*Agent
	silent map[string]bool
}

// Inhabit puts agents into the domains of a hypervisor.
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
	domains.OnResize = func(name string, size int64) {
		if agent := g.known(name); agent != nil {
			agent.Resize(size)
		}
	}
	domains.Dial = func(name string) (transport.Dialer, error) {
		agent, err := g.Agent(name)
		return line{g, name, agent}, err
	}
	return g
}

// line is the way to a guest, which may be silent.
type line struct {
	guests *Guests
	name   string
	agent  *Agent
}

func (l line) DialContext(ctx context.Context, port uint32) (net.Conn, error) {
	l.guests.mu.Lock()
	silent := l.guests.silent[l.name]
	l.guests.mu.Unlock()
	if silent {
		return nil, fmt.Errorf("dial %s: %w", l.name, transport.ErrRefused)
	}
	return l.agent.DialContext(ctx, port)
}

// Agent returns a VM's agent, which lasts as long as its private disk would.
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

// Silence makes nothing answer in a VM, or the agent again.
func (g *Guests) Silence(name string, silent bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.silent[name] = silent
}

// Forget ends a VM's agent and makes the next one of the name another, as a new private disk does.
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

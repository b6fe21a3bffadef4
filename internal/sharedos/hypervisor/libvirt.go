package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
)

// maxStateDir leaves room for a name of 46 bytes, and the port that the vsock daemon appends to it.
const maxStateDir = 50

// Libvirt runs domains of the QEMU driver of one libvirt.
type Libvirt struct {
	client  *libvirtconn.Client
	machine machine.Machine
	// stateDir on the machine has the sockets and records of vsock daemons.
	stateDir string

	mu sync.Mutex
	// virtType is "kvm" or emulated, and empty until it is asked for.
	virtType string

	// leaving has the connections to guests that wait to be let go, until close.
	leaving sync.WaitGroup
	life    context.Context
	close   context.CancelFunc
}

var _ Hypervisor = (*Libvirt)(nil)

// New returns the hypervisor of a libvirt and the machine that it runs on. stateDir is a directory on the machine for the
// sockets and records of vsock daemons. It has to last as long as domains run, and its path is short because a socket's path
// has at most 108 bytes. Closing the hypervisor leaves the client open.
func New(ctx context.Context, client *libvirtconn.Client, on machine.Machine, stateDir string) (*Libvirt, error) {
	if !filepath.IsAbs(stateDir) || len(stateDir) > maxStateDir {
		return nil, fmt.Errorf("state directory %q: use an absolute path of at most %d bytes, because sockets are created in it", stateDir, maxStateDir)
	}
	// QEMU may run as another user, and has to reach a socket in the directory by its name.
	if err := on.MakeDir(ctx, stateDir, 0o711); err != nil {
		return nil, fmt.Errorf("create the state directory: %w", err)
	}
	h := &Libvirt{client: client, machine: on, stateDir: filepath.Clean(stateDir)}
	h.life, h.close = context.WithCancel(context.Background())
	return h, nil
}

// Close implements Hypervisor.
func (h *Libvirt) Close() error {
	h.close()
	h.leaving.Wait()
	return nil
}

// letGo runs what closes a connection, beside. Close waits for it, after it has ended its context.
func (h *Libvirt) letGo(close func(context.Context)) {
	h.leaving.Go(func() { close(h.life) })
}

func (h *Libvirt) call(ctx context.Context, what string, fn func(*libvirt.Libvirt) error) error {
	err := h.client.Call(ctx, what, fn)
	if libvirtconn.Is(err, libvirt.ErrNoDomain) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// ours is a domain that this project made.
type ours struct {
	libvirt.Domain
	// defined is its persistent definition.
	defined *libvirtxml.Domain
	state   State
}

// find looks a domain up by name. It returns ErrForeign for one that this project did not make.
func find(l *libvirt.Libvirt, name string) (ours, error) {
	handle, err := l.DomainLookupByName(name)
	if err != nil {
		return ours{}, err
	}
	return look(l, handle)
}

func look(l *libvirt.Libvirt, handle libvirt.Domain) (ours, error) {
	defined, err := describe(l, handle, libvirt.DomainXMLInactive)
	if err != nil {
		return ours{}, err
	}
	if _, made := metadataText(defined); !made {
		return ours{}, fmt.Errorf("domain %q: %w", handle.Name, ErrForeign)
	}
	state, err := stateOf(l, handle)
	return ours{Domain: handle, defined: defined, state: state}, err
}

func describe(l *libvirt.Libvirt, handle libvirt.Domain, flags libvirt.DomainXMLFlags) (*libvirtxml.Domain, error) {
	text, err := l.DomainGetXMLDesc(handle, flags)
	if err != nil {
		return nil, err
	}
	var domain libvirtxml.Domain
	if err := domain.Unmarshal(text); err != nil {
		return nil, fmt.Errorf("read the definition of domain %q: %w", handle.Name, err)
	}
	return &domain, nil
}

func stateOf(l *libvirt.Libvirt, handle libvirt.Domain) (State, error) {
	state, _, err := l.DomainGetState(handle, 0)
	if err != nil {
		return 0, err
	}
	switch libvirt.DomainState(state) {
	case libvirt.DomainShutoff:
		return Off, nil
	case libvirt.DomainCrashed:
		return Crashed, nil
	case libvirt.DomainPaused, libvirt.DomainPmsuspended:
		return Paused, nil
	default: // running, blocked, and shutting down: there is a QEMU that runs the guest
		return Running, nil
	}
}

// alive reports whether there is a QEMU for the domain.
func (s State) alive() bool { return s == Running || s == Paused }

// Define implements Hypervisor.
func (h *Libvirt) Define(ctx context.Context, domain Domain) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("define domain %q: %w", domain.Name, err)
	}
	if err := domain.Check(); err != nil {
		return err
	}
	what := fmt.Sprintf("define domain %q", domain.Name)
	return h.call(ctx, what, func(l *libvirt.Libvirt) error {
		there, err := find(l, domain.Name)
		switch {
		case libvirtconn.Is(err, libvirt.ErrNoDomain):
		case err != nil:
			return err
		case there.defined.UUID != domain.UUID:
			return fmt.Errorf("its UUID is %s and not %s: %w", there.defined.UUID, domain.UUID, ErrForeign)
		}
		platform, err := h.platform(ctx, l)
		if err != nil {
			return err
		}
		text, err := platform.encode(domain)
		if err != nil {
			return err
		}
		_, err = l.DomainDefineXMLFlags(text, 0)
		return err
	})
}

// platform asks what this host offers a domain.
func (h *Libvirt) platform(ctx context.Context, l *libvirt.Libvirt) (platform, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.virtType == "" {
		text, err := l.ConnectGetCapabilities()
		if err != nil {
			return platform{}, err
		}
		var capabilities libvirtxml.Caps
		if err := capabilities.Unmarshal(text); err != nil {
			return platform{}, fmt.Errorf("read the host's capabilities: %w", err)
		}
		if h.virtType, err = virtType(capabilities); err != nil {
			return platform{}, err
		}
	}
	hostVSock, err := h.machine.Exists(ctx, vhostVSock)
	if err != nil {
		return platform{}, fmt.Errorf("look for %s: %w", vhostVSock, err)
	}
	return platform{virtType: h.virtType, hostVSock: hostVSock, vsockSocket: h.vsock}, nil
}

// virtType picks how domains of this architecture run: with KVM where the host has it, else emulated.
func virtType(capabilities libvirtxml.Caps) (string, error) {
	found := ""
	for _, guest := range capabilities.Guests {
		if guest.OSType != "hvm" || guest.Arch.Name != "x86_64" {
			continue
		}
		for _, domain := range guest.Arch.Domains {
			switch domain.Type {
			case "kvm":
				return "kvm", nil
			case emulated:
				found = emulated
			}
		}
	}
	if found == "" {
		return "", errors.New("libvirt knows no QEMU for x86_64; install it (on Debian: apt-get install qemu-system-x86)")
	}
	return found, nil
}

// Lookup implements Hypervisor.
func (h *Libvirt) Lookup(ctx context.Context, name string) (Domain, State, error) {
	var found ours
	err := h.call(ctx, fmt.Sprintf("look up domain %q", name), func(l *libvirt.Libvirt) error {
		var err error
		found, err = find(l, name)
		return err
	})
	if err != nil {
		return Domain{}, 0, err
	}
	domain, err := decode(found.defined)
	return domain, found.state, err
}

// List implements Hypervisor.
func (h *Libvirt) List(ctx context.Context) ([]Domain, error) {
	var all []Domain
	err := h.call(ctx, "list domains", func(l *libvirt.Libvirt) error {
		handles, _, err := l.ConnectListAllDomains(1, 0)
		if err != nil {
			return err
		}
		for _, handle := range handles {
			found, err := look(l, handle)
			if errors.Is(err, ErrForeign) || libvirtconn.Is(err, libvirt.ErrNoDomain) {
				continue
			}
			if err != nil {
				return err
			}
			domain, err := decode(found.defined)
			if err != nil {
				return err
			}
			all = append(all, domain)
		}
		return nil
	})
	return all, err
}

// SetMetadata implements Hypervisor.
func (h *Libvirt) SetMetadata(ctx context.Context, name string, metadata Metadata) error {
	text, err := encodeMetadata(metadata)
	if err != nil {
		return fmt.Errorf("record metadata of domain %q: %w", name, err)
	}
	return h.call(ctx, fmt.Sprintf("record metadata of domain %q", name), func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		impact := libvirt.DomainAffectConfig
		if found.state.alive() {
			impact |= libvirt.DomainAffectLive
		}
		return l.DomainSetMetadata(found.Domain, int32(libvirt.DomainMetadataElement),
			libvirt.OptString{text}, libvirt.OptString{metadataPrefix}, libvirt.OptString{metadataSpace}, impact)
	})
}

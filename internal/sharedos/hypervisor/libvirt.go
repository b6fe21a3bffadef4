package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// Config says which libvirt.
type Config struct {
	// URI of libvirt; "" is $LIBVIRT_DEFAULT_URI or qemu:///system.
	URI string
	// StateDir is a directory for what runs beside domains: the sockets and records of vsock daemons. It lasts as
	// long as the domains run, and its path is short: sockets below it have to fit into 108 bytes.
	StateDir string
}

// maxStateDir leaves room for a name of 46 bytes, and the port that the vsock daemon appends to it.
const maxStateDir = 50

// Libvirt runs domains of the QEMU driver of one libvirt.
type Libvirt struct {
	client   *libvirtconn.Client
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

// Open connects to libvirt, and starts it if the URI is the local system's and none runs.
func Open(ctx context.Context, config Config) (*Libvirt, error) {
	if !filepath.IsAbs(config.StateDir) || len(config.StateDir) > maxStateDir {
		return nil, fmt.Errorf("state directory %q: give an absolute path of at most %d bytes, sockets are made in it", config.StateDir, maxStateDir)
	}
	// Only the name of a socket has to be found in it, by QEMU, which may run as another user.
	if err := os.MkdirAll(config.StateDir, 0o711); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	client, err := libvirtconn.Open(ctx, config.URI)
	if err != nil {
		return nil, unreachable(err)
	}
	h := &Libvirt{client: client, stateDir: filepath.Clean(config.StateDir)}
	h.life, h.close = context.WithCancel(context.Background())
	return h, nil
}

// Close implements Hypervisor.
func (h *Libvirt) Close() error {
	h.close()
	h.leaving.Wait()
	return h.client.Close()
}

// letGo runs what closes a connection, beside. Close waits for it, after it has ended its context.
func (h *Libvirt) letGo(close func(context.Context)) {
	h.leaving.Go(func() { close(h.life) })
}

// unreachable gives a failure to ask libvirt this package's name.
func unreachable(err error) error {
	if errors.Is(err, libvirtconn.ErrUnreachable) {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

func (h *Libvirt) call(ctx context.Context, what string, fn func(*libvirt.Libvirt) error) error {
	err := unreachable(h.client.Call(ctx, what, fn))
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
		machine, err := h.machine(l)
		if err != nil {
			return err
		}
		text, err := machine.encode(domain)
		if err != nil {
			return err
		}
		_, err = l.DomainDefineXMLFlags(text, 0)
		return err
	})
}

// machine asks what this host offers a domain.
func (h *Libvirt) machine(l *libvirt.Libvirt) (machine, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.virtType == "" {
		text, err := l.ConnectGetCapabilities()
		if err != nil {
			return machine{}, err
		}
		var capabilities libvirtxml.Caps
		if err := capabilities.Unmarshal(text); err != nil {
			return machine{}, fmt.Errorf("read the host's capabilities: %w", err)
		}
		if h.virtType, err = virtType(capabilities); err != nil {
			return machine{}, err
		}
	}
	return machine{virtType: h.virtType, hostVSock: hasHostVSock(), vsockSocket: h.vsock}, nil
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

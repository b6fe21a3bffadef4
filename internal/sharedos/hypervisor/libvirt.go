package hypervisor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
)

// maxStateDir is the maximum length of the state directory's path in bytes. A socket's path has at
// most 108 bytes (unix(7)): the directory, a directory of a VM and a name of 46 bytes together, and
// a port that the vsock daemon appends.
const maxStateDir = 50

// Libvirt runs domains of the QEMU driver of one libvirt.
type Libvirt struct {
	client  *libvirtconn.Client
	machine machine.Machine
	// stateDir is the directory on the machine for the sockets and records of vsock daemons.
	stateDir string

	mu sync.Mutex
	// virtType is "kvm" or emulated. It is empty until libvirt was asked for it. qemuUser is the
	// number of the user that QEMU runs as.
	virtType string
	qemuUser int

	limits limits

	// closing are the connections to guests that are closed in the background, open is their number. life ends when the
	// hypervisor is closed.
	closing sync.WaitGroup
	open    atomic.Int64
	life    context.Context
	end     context.CancelFunc
}

var _ Hypervisor = (*Libvirt)(nil)

// New returns the hypervisor of a libvirt and of the machine that it runs on. stateDir is an absolute path
// on the machine, of at most 50 bytes. It has to last as long as domains run. Close leaves the client open.
func New(ctx context.Context, client *libvirtconn.Client, on machine.Machine, stateDir string) (*Libvirt, error) {
	if !filepath.IsAbs(stateDir) || len(stateDir) > maxStateDir {
		return nil, fmt.Errorf(
			"state directory %q: use an absolute path of at most %d bytes, because sockets are created in it", stateDir,
			maxStateDir)
	}
	// QEMU may run as another user. It has to reach a socket in the directory by its name, and need
	// not list the directory.
	if err := on.MakeDir(ctx, stateDir, 0o711); err != nil {
		return nil, fmt.Errorf("create the state directory: %w", err)
	}
	if err := checkStateDir(ctx, on, stateDir); err != nil {
		return nil, err
	}
	h := &Libvirt{client: client, machine: on, stateDir: filepath.Clean(stateDir)}
	h.life, h.end = context.WithCancel(context.Background())
	return h, nil
}

// checkStateDir refuses a directory in which others can create or replace files.
func checkStateDir(ctx context.Context, on machine.Machine, dir string) error {
	self, err := on.User(ctx)
	if err != nil {
		return fmt.Errorf("check the state directory: %w", err)
	}
	owner, mode, err := on.Owner(ctx, dir)
	switch {
	case err != nil:
		return fmt.Errorf("check the state directory: %w", err)
	case !mode.IsDir():
		return fmt.Errorf("state directory %s is no directory", dir)
	case owner != self && owner != 0:
		return fmt.Errorf(
			"state directory %s belongs to user %d, who could replace sockets in it: choose another one (SHAREDOS_STATE_DIR)", dir, owner)
	case mode.Perm()&0o022 != 0:
		return fmt.Errorf(
			"state directory %s has mode %o, so that others could replace sockets in it: chmod go-w %[1]s, or choose "+
				"another one (SHAREDOS_STATE_DIR)", dir, mode.Perm())
	}
	return nil
}

// Close implements Hypervisor.
func (h *Libvirt) Close() error {
	h.end()
	h.closing.Wait()
	return nil
}

// inBackground runs a function that closes a connection to a guest. Close ends its context and waits for it.
func (h *Libvirt) inBackground(closeConn func(context.Context)) {
	h.open.Add(1)
	h.closing.Go(func() {
		defer h.open.Add(-1)
		closeConn(h.life)
	})
}

// Closing implements Hypervisor.
func (h *Libvirt) Closing() bool { return h.open.Load() > 0 }

func (h *Libvirt) call(ctx context.Context, what string, fn func(*libvirt.Libvirt) error) error {
	err := h.client.Call(ctx, what, fn)
	if libvirtconn.Is(err, libvirt.ErrNoDomain) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// ours is a domain that this project created.
type ours struct {
	libvirt.Domain
	// defined is its persistent definition.
	defined *libvirtxml.Domain
	state   State
}

// find looks up a domain by name; ErrForeign if this project did not create it.
func find(l *libvirt.Libvirt, name string) (ours, error) {
	handle, err := l.DomainLookupByName(name)
	if err != nil {
		return ours{}, err
	}
	return inspect(l, handle)
}

// inspect reads the definition and the state of a domain; ErrForeign if this project did not create it.
func inspect(l *libvirt.Libvirt, handle libvirt.Domain) (ours, error) {
	defined, err := describe(l, handle, libvirt.DomainXMLInactive)
	if err != nil {
		return ours{}, err
	}
	if _, found := metadataText(defined); !found {
		return ours{Domain: handle, defined: defined}, fmt.Errorf("domain %q: %w", handle.Name, ErrForeign)
	}
	state, err := stateOf(l, handle)
	return ours{Domain: handle, defined: defined, state: state}, err
}

// describe reads the definition of a domain: the persistent one with DomainXMLInactive, and the live one without.
func describe(l *libvirt.Libvirt, handle libvirt.Domain, flags libvirt.DomainXMLFlags) (*libvirtxml.Domain, error) {
	text, err := l.DomainGetXMLDesc(handle, flags)
	if err != nil {
		return nil, err
	}
	return parse(handle.Name, text)
}

func parse(name, definition string) (*libvirtxml.Domain, error) {
	var domain libvirtxml.Domain
	err := domain.Unmarshal(definition)
	if err == nil {
		err = declareInElements(domain.Metadata, definition)
	}
	if err != nil {
		return nil, fmt.Errorf("read the definition of domain %q: %w", name, err)
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
	default: // running, blocked, or shutting down: QEMU runs the guest
		return Running, nil
	}
}

// alive reports whether there is a QEMU process for the domain.
func (s State) alive() bool { return s == Running || s == Paused }

// Define implements Hypervisor.
func (h *Libvirt) Define(ctx context.Context, domain Domain) error {
	if err := domain.Check(); err != nil {
		return err
	}
	return h.call(ctx, fmt.Sprintf("define domain %q", domain.Name), func(l *libvirt.Libvirt) error {
		existing, err := find(l, domain.Name)
		switch {
		case libvirtconn.Is(err, libvirt.ErrNoDomain):
		case err != nil:
			return err
		case existing.defined.UUID != domain.UUID:
			return fmt.Errorf("its UUID is %s and not %s: %w", existing.defined.UUID, domain.UUID, ErrForeign)
		}
		platform, err := h.platform(ctx, l)
		if err != nil {
			return err
		}
		text, err := platform.encode(domain)
		if err != nil {
			return err
		}
		if len(domain.Hardware.Patches) == 0 {
			_, err = l.DomainDefineXMLFlags(text, 0)
			return err
		}
		if refusal, err := schemaRefusal(l, platform, domain, func(*libvirtxml.Domain) {}); err != nil ||
			refusal != nil {
			return errors.Join(refusal, err)
		}
		handle, err := l.DomainDefineXMLFlags(text, 0)
		if err != nil {
			return err
		}
		return recordUnread(l, handle, domain)
	})
}

// recordUnread records the patches that libvirt has written in other words, right after a definition.
func recordUnread(l *libvirt.Libvirt, handle libvirt.Domain, domain Domain) error {
	defined, err := describe(l, handle, libvirt.DomainXMLInactive)
	if err != nil {
		return err
	}
	metadata := domain.Metadata
	if metadata.UnreadPatches, err = lostPatches(defined, domain.Hardware.Patches, nil); err != nil {
		return err
	}
	if slices.Equal(metadata.UnreadPatches, domain.Metadata.UnreadPatches) {
		return nil
	}
	text, err := encodeMetadata(metadata)
	if err != nil {
		return err
	}
	return l.DomainSetMetadata(handle, int32(libvirt.DomainMetadataElement), libvirt.OptString{text},
		libvirt.OptString{metadataPrefix},
		libvirt.OptString{metadataSpace}, libvirt.DomainAffectConfig)
}

// platform finds out what the host offers to domains.
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
		if h.qemuUser, err = qemuUser(ctx, h.machine, capabilities, h.virtType); err != nil {
			return platform{}, err
		}
	}
	hostVSock, err := h.machine.Exists(ctx, vhostVSock)
	if err != nil {
		return platform{}, fmt.Errorf("look for %s: %w", vhostVSock, err)
	}
	return platform{virtType: h.virtType, hostVSock: hostVSock, qemuUser: h.qemuUser, vsockSocket: h.vsock}, nil
}

// qemuUser is the number of the user that libvirt runs QEMU as: the label of its security driver
// dac, "+64055:+64055", or the user of libvirt if it does not change the user.
func qemuUser(ctx context.Context, on machine.Machine, capabilities libvirtxml.Caps, virtType string) (int, error) {
	for _, model := range capabilities.Host.SecModel {
		if model.Name != "dac" {
			continue
		}
		for _, label := range model.Labels {
			if label.Type != virtType {
				continue
			}
			user, _, _ := strings.Cut(strings.TrimPrefix(label.Value, "+"), ":")
			number, err := strconv.Atoi(user)
			if err != nil {
				return 0, fmt.Errorf("read the user of QEMU in the host's capabilities, %q: %w", label.Value, err)
			}
			return number, nil
		}
	}
	return on.User(ctx)
}

// virtType is the type of domains on this host: "kvm" if it has KVM for x86_64, else emulated.
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
		return "", errors.New(
			"libvirt finds no QEMU for x86_64; install it (on Debian: apt-get install qemu-system-x86)")
	}
	return found, nil
}

// Lookup implements Hypervisor.
func (h *Libvirt) Lookup(ctx context.Context, name string) (Domain, State, error) {
	return h.lookup(ctx, fmt.Sprintf("look up domain %q", name),
		func(l *libvirt.Libvirt) (ours, error) { return find(l, name) })
}

// LookupUUID implements Hypervisor.
func (h *Libvirt) LookupUUID(ctx context.Context, text string) (Domain, State, error) {
	if !canonicalUUID.MatchString(text) {
		return Domain{}, 0, fmt.Errorf("look up a domain by its UUID: %q is not a UUID in canonical lower case form",
			text)
	}
	var uuid libvirt.UUID
	if _, err := hex.Decode(uuid[:], []byte(strings.ReplaceAll(text, "-", ""))); err != nil {
		return Domain{}, 0, fmt.Errorf("look up a domain by its UUID: %w", err)
	}
	return h.lookup(ctx, "look up the domain with UUID "+text, func(l *libvirt.Libvirt) (ours, error) {
		handle, err := l.DomainLookupByUUID(uuid)
		if err != nil {
			return ours{}, err
		}
		return inspect(l, handle)
	})
}

func (h *Libvirt) lookup(ctx context.Context, what string,
	find func(*libvirt.Libvirt) (ours, error)) (Domain, State, error) {
	var found ours
	err := h.call(ctx, what, func(l *libvirt.Libvirt) error {
		var err error
		found, err = find(l)
		return err
	})
	var domain Domain
	if err == nil {
		domain, err = decode(found.defined)
	}
	if found.defined != nil && (errors.Is(err, ErrForeign) || errors.Is(err, ErrDamaged)) {
		domain = Domain{Name: found.defined.Name, UUID: found.defined.UUID}
	}
	return domain, found.state, err
}

// Broke implements Hypervisor.
func (h *Libvirt) Broke(ctx context.Context, name string) (broke bool, err error) {
	err = h.call(ctx, fmt.Sprintf("ask why domain %q does not run", name), func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		state, reason, err := l.DomainGetState(found.Domain, 0)
		if err != nil {
			return err
		}
		off := libvirt.DomainState(state) == libvirt.DomainShutoff
		broke = off && libvirt.DomainShutoffReason(reason) == libvirt.DomainShutoffCrashed
		return nil
	})
	return broke, err
}

// SetMetadata implements Hypervisor.
func (h *Libvirt) SetMetadata(ctx context.Context, name string, metadata Metadata) error {
	what := fmt.Sprintf("record metadata of domain %q", name)
	text, err := encodeMetadata(metadata)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return h.setMetadata(ctx, what, name, libvirt.DomainMetadataElement,
		libvirt.OptString{text}, libvirt.OptString{metadataPrefix}, libvirt.OptString{metadataSpace})
}

// setMetadata replaces one part of what libvirt counts as metadata, in the definition and in the running domain.
func (h *Libvirt) setMetadata(ctx context.Context, what, name string, part libvirt.DomainMetadataType, text, prefix,
	space libvirt.OptString) error {
	return h.call(ctx, what, func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		impact := libvirt.DomainAffectConfig
		if found.state.alive() {
			impact |= libvirt.DomainAffectLive
		}
		return l.DomainSetMetadata(found.Domain, int32(part), text, prefix, space, impact)
	})
}

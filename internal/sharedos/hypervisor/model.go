package hypervisor

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Limits of a domain.
const (
	// MaxLayers is how many layers a domain can have attached at once, hot-plugged ones included.
	MaxLayers = 24
	// MaxBootConfig is the size of a BootConfig in bytes that fits into an SMBIOS table with room to spare.
	MaxBootConfig = 32 << 10
	// maxMetadata bounds what is read back from a domain's definition.
	maxMetadata = 1 << 20
)

// ErrNotRunning means that the domain would have to run for what was asked.
var ErrNotRunning = errors.New("the domain does not run")

var (
	domainName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$`)
	interfaceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)
	hostName      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)
	canonicalUUID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// LayerSerial is the disk serial by which the guest finds a layer: the first 20 hexadecimal digits of its id.
func LayerSerial(id tree.Digest) string { return id.Hex()[:20] }

// MAC returns the address that an interface without one of its own gets: the same for the same UUID and name,
// under QEMU's prefix 52:54:00.
func MAC(uuid, name string) string {
	sum := sha256.Sum256([]byte(uuid + "\n" + name))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
}

// Check tells everything that is wrong with the domain in one error.
func (d Domain) Check() error {
	var wrong []error
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }

	if !domainName.MatchString(d.Name) {
		bad("name %q: use 1 to 100 letters, digits and ._+-, first a letter or digit", d.Name)
	}
	if !canonicalUUID.MatchString(d.UUID) {
		bad("UUID %q is not in canonical lower case form", d.UUID)
	}
	if d.VCPUs < 1 || d.VCPUs > 255 {
		bad("%d vcpus: use 1 to 255", d.VCPUs)
	}
	if d.Memory < 1<<20 || d.Memory%(1<<20) != 0 {
		bad("memory of %d bytes: use whole MiB, 1 or more", d.Memory)
	}
	for what, path := range map[string]string{
		"kernel": d.Kernel, "initramfs": d.Initramfs, "private disk": d.PrivateDisk, "console log": d.ConsoleLog,
	} {
		if err := checkPath(path); err != nil {
			bad("%s: %w", what, err)
		}
	}
	for _, arg := range d.KernelArgs {
		if arg == "" || strings.ContainsFunc(arg, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			bad("kernel argument %q is empty or has spaces or control characters", arg)
		}
	}
	wrong = append(wrong, checkLayers(d.Layers)...)
	for name, i := range d.Interfaces {
		if err := i.check(); err != nil {
			bad("interface %q: %w", name, err)
		}
		if !interfaceName.MatchString(name) {
			bad("interface name %q: use 1 to 32 letters, digits, _ and -, first a letter or digit", name)
		}
	}
	if len(d.BootConfig) > MaxBootConfig {
		bad("the boot configuration has %d bytes, and %d fit; give fewer or shorter SSH keys", len(d.BootConfig), MaxBootConfig)
	}
	if len(d.BootConfig) > 0 && !json.Valid(d.BootConfig) {
		bad("the boot configuration is not JSON")
	}
	if len(wrong) > 0 {
		slices.SortFunc(wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return fmt.Errorf("domain %q cannot be defined: %w", d.Name, errors.Join(wrong...))
	}
	return nil
}

func checkPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' }) {
		return fmt.Errorf("%q is not a clean absolute path", path)
	}
	return nil
}

func checkLayers(layers []LayerDevice) []error {
	var wrong []error
	if len(layers) > MaxLayers {
		wrong = append(wrong, fmt.Errorf("%d layers: at most %d can be attached", len(layers), MaxLayers))
	}
	serials := map[string]tree.Digest{}
	for _, layer := range layers {
		if err := layer.check(); err != nil {
			wrong = append(wrong, err)
		}
		if other, twice := serials[LayerSerial(layer.ID)]; twice {
			wrong = append(wrong, fmt.Errorf("layers %s and %s have the same serial %s", other, layer.ID, LayerSerial(layer.ID)))
		}
		serials[LayerSerial(layer.ID)] = layer.ID
	}
	return wrong
}

func (l LayerDevice) check() error {
	if l.ID.IsZero() {
		return fmt.Errorf("layer at %q has no id", l.Path)
	}
	if err := checkPath(l.Path); err != nil {
		return fmt.Errorf("layer %s: %w", l.ID, err)
	}
	return nil
}

func (i Interface) check() error {
	kinds := 0
	if i.User != nil {
		kinds++
		for host, guest := range i.User.Forwards {
			if host == 0 || guest == 0 {
				return fmt.Errorf("forward from port %d to %d: ports start at 1", host, guest)
			}
		}
	}
	for _, name := range []string{i.Bridge, i.Network} {
		if name == "" {
			continue
		}
		kinds++
		if !hostName.MatchString(name) {
			return fmt.Errorf("%q cannot name a bridge or network", name)
		}
	}
	if kinds != 1 {
		return errors.New("set exactly one of user, bridge and network")
	}
	if i.MAC != "" {
		if mac, err := net.ParseMAC(i.MAC); err != nil || len(mac) != 6 || mac.String() != i.MAC || mac[0]&1 != 0 {
			return fmt.Errorf("%q is not a unicast MAC address in the form 52:54:00:aa:bb:cc, lower case", i.MAC)
		}
	}
	return nil
}

package hypervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Limits of a domain.
const (
	// MaxBootConfig is the maximum size of a BootConfig in bytes. It leaves room in the SMBIOS table.
	MaxBootConfig = 32 << 10
	// maxMetadata bounds what is read back from a domain's definition.
	maxMetadata = 1 << 20
)

// Domain is the model of a VM's definition. Definitions are written from the model alone, and read back into it.
type Domain struct {
	Name string
	// UUID in the canonical text form. It is the guest's machine-id too.
	UUID  string
	VCPUs int
	// Memory in bytes.
	Memory int64
	// MaxVCPUs and MaxMemory are how many processors and how many bytes of memory the running
	// domain can get (SetVCPUs, SetMemory). They are 0 if it cannot get others than it starts with.
	// A MaxMemory that Memory equals is read back as 0.
	MaxVCPUs  int
	MaxMemory int64
	// Kernel and Initramfs are paths on the host.
	Kernel, Initramfs string
	// Emulated is true if the host has no KVM for the domain. Define sets it in the definition;
	// Lookup and List report it.
	Emulated bool
	// KernelArgs are appended to those that this package sets.
	KernelArgs []string
	Layers     []LayerDevice
	// PrivateDisk is the volume's path on the host. It is empty in the first definition of a VM,
	// which is made before the volume, so that no volume is ever without a domain that names it.
	PrivateDisk string
	// Disks are further disks, by the names that the user gave them. ForeignDisks are those that
	// others have added, as XML.
	Disks        map[string]Disk
	ForeignDisks []string
	// Interfaces by the names that the user gave them. ForeignInterfaces are those that others have added, as XML.
	Interfaces        map[string]Interface
	ForeignInterfaces []string
	// ForeignDevices are further devices that others have added, as XML of a domain: channels,
	// sound cards, shared memory, directories by 9p and mediated devices among them.
	ForeignDevices string
	// BootConfig is agentapi.BootConfig as JSON.
	BootConfig []byte
	// ConsoleLog is the file on the host that the serial console is written to.
	ConsoleLog string
	Metadata   Metadata
	// Hardware is everything else that the domain has. Give sets it and its record.
	Hardware Hardware
	// LostPatches are the patches of the record, counted from 0, that somebody has taken from the
	// definition. Define does not read it.
	LostPatches []int
	// Title and Description are for people who look with virsh; empty if there is none. Foreign are
	// the elements in the metadata that others have put there, as XML. Whoever defines the domain
	// again passes on what it has of these, ForeignDisks, ForeignInterfaces and ForeignDevices.
	Title, Description string
	Foreign            []string
}

var (
	domainName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$`)
	canonicalUUID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// Check returns everything that is wrong with the domain in one error.
func (d Domain) Check() error {
	var wrong []error
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }

	if !domainName.MatchString(d.Name) {
		bad("name %q: use 1 to 100 letters, digits and ._+-, starting with a letter or digit", d.Name)
	}
	if !canonicalUUID.MatchString(d.UUID) {
		bad("UUID %q is not in canonical lower case form", d.UUID)
	}
	if d.VCPUs < 1 || d.VCPUs > MaxVCPUs {
		bad("%d vcpus: use 1 to %d", d.VCPUs, MaxVCPUs)
	}
	if d.Memory < 1<<20 || d.Memory%(1<<20) != 0 {
		bad("memory of %d bytes: use whole MiB, 1 or more", d.Memory)
	}
	if d.MaxVCPUs != 0 && (d.MaxVCPUs < d.VCPUs || d.MaxVCPUs > MaxVCPUs) {
		bad("at most %d vcpus: use 0, or %d to %d", d.MaxVCPUs, d.VCPUs, MaxVCPUs)
	}
	if d.MaxMemory != 0 && (d.MaxMemory < d.Memory || d.MaxMemory%(1<<20) != 0) {
		bad("at most %d bytes of memory: use 0, or whole MiB, as much as the memory or more", d.MaxMemory)
	}
	for what, path := range map[string]string{
		"kernel": d.Kernel, "initramfs": d.Initramfs, "private disk": d.PrivateDisk, "console log": d.ConsoleLog,
	} {
		if what == "private disk" && path == "" && d.Metadata.BeingMade() {
			continue
		}
		if err := checkPath(path); err != nil {
			bad("%s: %w", what, err)
		}
	}
	for _, arg := range d.KernelArgs {
		if arg == "" || strings.ContainsFunc(arg, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			bad("kernel argument %q is empty or contains spaces or control characters", arg)
		}
	}
	wrong = append(wrong, checkLayers(d.Layers)...)
	wrong = append(wrong, checkDisks(d.Disks)...)
	if strings.Contains(d.Title, "\n") {
		bad("the title has more than one line")
	}
	for name, i := range d.Interfaces {
		if err := errors.Join(i.Check(), i.CheckQueues(max(d.VCPUs, d.MaxVCPUs))); err != nil {
			bad("interface %q: %w", name, err)
		}
		if !interfaceName.MatchString(name) {
			bad("interface name %q: use 1 to 32 letters, digits, _ and -, starting with a letter or digit", name)
		}
	}
	d.Hardware.check(max(d.VCPUs, d.MaxVCPUs), bad)
	if err := checkAddresses(d.UUID, d.Interfaces); err != nil {
		wrong = append(wrong, err)
	}
	if len(d.BootConfig) > MaxBootConfig {
		bad("the boot configuration has %d bytes, and at most %d fit; use fewer or shorter SSH keys",
			len(d.BootConfig), MaxBootConfig)
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

// CheckPath returns why a text is not the path of a file on the host.
func CheckPath(path string) error { return checkPath(path) }

func checkPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path ||
		strings.ContainsFunc(path, func(r rune) bool { return r < ' ' }) {
		return fmt.Errorf("%q is not a clean absolute path", path)
	}
	return nil
}

package vm

import (
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// Reason says why a VM is not refreshed at once and live, in words for the user.
type Reason string

// The reasons of moves.
const (
	ReasonProcessors     Reason = "the number of processors changes only through a power-off"
	ReasonMaxProcessors  Reason = "the maximum of processors changes only through a power-off"
	ReasonMemory         Reason = "the memory changes only through a power-off"
	ReasonMaxMemory      Reason = "the maximum of memory changes only through a power-off"
	ReasonInterfaces     Reason = "the interfaces on user-mode networks change only through a power-off"
	ReasonMachine        Reason = "the machine type changes only through a power-off"
	ReasonCPU            Reason = "the model, topology and pinning of the processor change only through a power-off"
	ReasonMemoryBacking  Reason = "huge pages and NUMA nodes change only through a power-off"
	ReasonTPM            Reason = "the TPM changes only through a power-off"
	ReasonGraphics       Reason = "the graphics change only through a power-off"
	ReasonWatchdog       Reason = "the action of the watchdog changes only through a power-off"
	ReasonRNG            Reason = "the random number generator changes only through a power-off"
	ReasonDirectories    Reason = "the directories of the host change only through a power-off"
	ReasonDevices        Reason = "the devices of the host change only through a power-off"
	ReasonPatches        Reason = "what xml_patch says changes only through a power-off"
	ReasonShares         Reason = "the CPU shares change while the VM runs"
	ReasonHardwareLater  Reason = "the strategy is next_boot: the hardware takes effect at the next start"
	ReasonLiveProcessors Reason = "the number of processors changes while the VM runs"
	ReasonLiveMemory     Reason = "the memory changes while the VM runs"
	ReasonLinks          Reason = "the link of an interface changes while the VM runs"
	// ReasonNetworks is about bridges and networks, ReasonInterfacesLive about interfaces that come
	// or go, and ReasonCards about those that get another card.
	ReasonNetworks       Reason = "an interface moves to another bridge or network while the VM runs"
	ReasonInterfacesLive Reason = "interfaces are attached or detached while the VM runs"
	ReasonCards          Reason = "an interface is detached and attached again while the VM runs: its connections break"
	ReasonNextBoot       Reason = "the strategy is next_boot: the new stack takes effect at the next start"
	ReasonDiskGrows      Reason = "the private disk grows while the VM runs"
	ReasonDisks          Reason = "the cache, discard, serial and read_only of a disk change only through a power-off"
	ReasonDisksLive      Reason = "disks are attached, detached, grown or mounted while the VM runs"
	ReasonIdentity       Reason = "the host name and root's keys change while the VM runs"
	// ReasonConfiguration is about files, units, users and settings.
	ReasonConfiguration Reason = "the configuration of the guest changes while the VM runs"
	ReasonKernelArgs    Reason = "the kernel arguments take effect at the next power-off and start"
)

// Reasons are all reasons of moves. An agent gives reasons of its own.
var Reasons = []Reason{
	ReasonProcessors, ReasonMaxProcessors, ReasonMemory, ReasonMaxMemory, ReasonInterfaces,
	ReasonLiveProcessors, ReasonLiveMemory,
	ReasonMachine, ReasonCPU, ReasonMemoryBacking, ReasonTPM, ReasonGraphics, ReasonWatchdog, ReasonRNG,
	ReasonDirectories, ReasonDevices, ReasonPatches, ReasonShares,
	ReasonHardwareLater, ReasonLinks, ReasonNetworks, ReasonInterfacesLive, ReasonCards, ReasonNextBoot,
	ReasonDiskGrows, ReasonIdentity, ReasonConfiguration, ReasonDisks, ReasonDisksLive,
	ReasonKernelArgs,
}

// GuestMove says whether and when a running guest gets another stack.
type GuestMove int

// What happens to a running guest.
const (
	// GuestNone: the VM does not run, or it is powered off in any case.
	GuestNone GuestMove = iota
	// GuestRefresh: the agent refreshes the guest to the new stack, unless the guest runs that already.
	GuestRefresh
	// GuestDeferred: the guest keeps its stack until its next power-off and start.
	GuestDeferred
	// GuestKept: the guest keeps its stack, since a rollout moves it.
	GuestKept
)

// Move lists what an update does to a VM. A VM that keeps running is changed live, by its agent and by libvirt. Changes
// that this does not reach take a power-off.
type Move struct {
	Guest GuestMove
	// GrowDisk: the private disk and its file system grow while the VM runs.
	GrowDisk bool
	// VCPUs and Memory: the number of processors and the memory change while the VM runs.
	VCPUs, Memory bool
	// Shares: the CPU shares change while the VM runs.
	Shares bool
	// Identify: the guest takes on its host name and root's keys while it runs.
	Identify bool
	// Configure: the guest takes on its configuration while it runs.
	Configure bool
	// Interfaces are those that change while the VM runs.
	Interfaces InterfaceMoves
	// Disks are the further disks that change while the VM runs.
	Disks DiskMoves
	// PowerOff: the VM is powered off. Start: it is started afterwards, or it was off before.
	PowerOff, Start bool
	// Level is the impact of the move without the refresh. The agent assesses the impact of the refresh.
	Level agentapi.Level
	// Reasons explain all of the move but a refresh.
	Reasons []Reason
}

// PowerCycle reports whether a running VM is powered off and started.
func (m Move) PowerCycle() bool { return m.PowerOff && m.Start }

// Impact describes Level and Reasons for a plan. It is nil if there are no reasons.
func (m Move) Impact() *agentapi.Impact {
	if len(m.Reasons) == 0 {
		return nil
	}
	impact := &agentapi.Impact{Level: m.Level}
	for _, reason := range m.Reasons {
		impact.Reasons = append(impact.Reasons, string(reason))
	}
	return impact
}

// Plan decides what changes a VM from have to want. newStack says whether want has another stack. An update carries the
// move out; an assessment and the provider's plan report it. The error is store.ErrShrink if no move is possible.
func Plan(have, want Spec, newStack bool) (Move, error) {
	if want.DiskSize < have.DiskSize {
		return Move{}, fmt.Errorf("%w: it has %d bytes and is to have %d", store.ErrShrink,
			have.DiskSize, want.DiskSize)
	}
	disks, powerOff, err := planDisks(have.Disks, want.Disks)
	if err != nil {
		return Move{}, err
	}
	switch {
	case !have.Running:
		return Move{Start: want.Running}, nil
	case !want.Running:
		return Move{PowerOff: true}, nil
	}
	reasons := compute(have, want)
	interfaces, atStart := PlanInterfaces(want.UUID, have.Interfaces, want.Interfaces)
	if atStart {
		reasons = append(reasons, ReasonInterfaces)
	}
	if powerOff {
		reasons = append(reasons, ReasonDisks)
	}
	changes := HardwareChanges(have.Hardware, want.Hardware)
	later := len(changes) > 0 && len(reasons) == 0 && want.Refresh.Strategy == NextBoot
	if !later {
		reasons = append(reasons, changes...)
	}
	if len(reasons) > 0 {
		return Move{PowerOff: true, Start: true, Level: agentapi.Level_REBOOT, Reasons: reasons}, nil
	}
	move := Move{Guest: GuestRefresh, GrowDisk: want.DiskSize > have.DiskSize, Disks: disks, Level: agentapi.Level_NONE}
	move.Identify = have.Hostname != want.Hostname || !slices.Equal(have.AuthorizedKeys, want.AuthorizedKeys)
	has, err := have.configured()
	if err != nil {
		return Move{}, err
	}
	wanted, err := want.configured()
	if err != nil {
		return Move{}, err
	}
	move.Configure = has != wanted || len(want.Overwrite) > 0
	switch {
	case want.Refresh.ByRollout && !want.Refresh.moving:
		move.Guest = GuestKept
	case want.Refresh.Strategy == NextBoot:
		move.Guest = GuestDeferred
	}
	move.Interfaces = interfaces
	move.Reasons = append(move.Reasons, interfaces.reasons(have.Interfaces, want.Interfaces)...)
	if move.VCPUs = have.VCPUs != want.VCPUs; move.VCPUs {
		move.Reasons = append(move.Reasons, ReasonLiveProcessors)
	}
	if move.Memory = have.Memory != want.Memory; move.Memory {
		move.Reasons = append(move.Reasons, ReasonLiveMemory)
	}
	if move.Shares = have.Hardware.CPU.Shares != want.Hardware.CPU.Shares; move.Shares {
		move.Reasons = append(move.Reasons, ReasonShares)
	}
	if later {
		move.Reasons = append(append(move.Reasons, changes...), ReasonHardwareLater)
	}
	if move.GrowDisk {
		move.Reasons = append(move.Reasons, ReasonDiskGrows)
	}
	if disks.Any() {
		move.Reasons = append(move.Reasons, ReasonDisksLive)
	}
	if move.Identify {
		move.Reasons = append(move.Reasons, ReasonIdentity)
	}
	if move.Configure {
		move.Reasons = append(move.Reasons, ReasonConfiguration)
	}
	if !slices.Equal(have.KernelArgs, want.KernelArgs) {
		move.Reasons = append(move.Reasons, ReasonKernelArgs)
	}
	if move.Guest == GuestDeferred && newStack {
		move.Reasons = append(move.Reasons, ReasonNextBoot)
	}
	return move, nil
}

// ChangesLive reports whether a running domain can take on the processors and the memory of want.
func ChangesLive(have, want Spec) bool { return len(compute(have, want)) == 0 }

// compute lists the differences in processors and memory that a running domain cannot take on.
func compute(have, want Spec) []Reason {
	var reasons []Reason
	switch {
	case have.MaxVCPUs != want.MaxVCPUs:
		reasons = append(reasons, ReasonMaxProcessors)
	case have.VCPUs != want.VCPUs && have.MaxVCPUs == 0:
		reasons = append(reasons, ReasonProcessors)
	}
	switch {
	case have.MaxMemory == 0 && want.MaxMemory == 0:
		if have.Memory != want.Memory {
			reasons = append(reasons, ReasonMemory)
		}
	case max(have.Memory, have.MaxMemory) != max(want.Memory, want.MaxMemory):
		reasons = append(reasons, ReasonMaxMemory)
	}
	return reasons
}

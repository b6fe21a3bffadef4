// Package vm carries a VM through its life: create, start, wait for its agent, refresh, read, delete.
//
// It joins store, hypervisor and agent, and knows no Terraform. Every method can be cut off anywhere and called
// again: what is done is recognised and what is missing is done.
package vm

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrNotFound means that libvirt itself said that there is no such VM.
	ErrNotFound = hypervisor.ErrNotFound
	// ErrExists means that a VM of this name exists that is not in this Terraform state.
	ErrExists = errors.New("a VM of this name exists already")
	// ErrOther means that the name belongs to another VM than expected.
	ErrOther = errors.New("the VM of this name is another one")
	// ErrNotOurs means that a volume is not the private disk of the VM that it was to be used for.
	ErrNotOurs = errors.New("the volume is not the private disk of this VM")
	// ErrDiskGone means that the private disk of a VM is not in the storage pool.
	ErrDiskGone = errors.New("its private disk is gone from the storage pool")
	// ErrCreating means that another process makes the VM.
	ErrCreating = errors.New("another process makes this VM")
	// ErrLeft means that a VM is deleted, and that a volume which may not be its own was left alone.
	ErrLeft = errors.New("a volume was left alone")
	// ErrNoAnswer means that the agent could not be asked: what the VM runs is unknown, not gone.
	ErrNoAnswer = errors.New("the agent does not answer")
	// ErrOperator means that the operator key is none that the VM was made with, so that its agent refuses it.
	ErrOperator = errors.New("the operator key is not one that the VM was made with")
	// ErrImpact means that a refresh would interrupt more than the user allows.
	ErrImpact = errors.New("the impact is larger than max_impact allows")
	// ErrRefused means that the agent refused a refresh before anything changed: the target does not verify.
	ErrRefused = errors.New("the VM refused the refresh and runs what it ran before")
	// ErrChecks means that the agent refused a refresh before anything changed, because a health
	// check failed and all are required.
	ErrChecks = errors.New("health checks fail before the refresh")
	// ErrNotLive means that a running VM cannot be moved to the release, whatever it may interrupt: it is of another
	// base, or earlier than the one that runs. The next start can run it.
	ErrNotLive = errors.New("a running VM cannot be moved to this release")
	// ErrOldAgent means that the agent in a VM is of an earlier version than this program can move to another stack. An
	// update replaces it first, and if that fails the next start of the VM does.
	ErrOldAgent = errors.New("the agent in the VM is of an earlier version")
	// ErrNotCollected means that unreferenced volumes could not be deleted; the next collection deletes them.
	ErrNotCollected = errors.New("unreferenced volumes are still in the storage pool")
	// ErrNotReady means that a VM was started and is not ready within the time that it has for that.
	ErrNotReady = errors.New("the VM is not ready")
	// ErrRolledBack means that a refresh failed and the VM runs what it ran before.
	ErrRolledBack = errors.New("the refresh failed and was rolled back")
)

// Progress reports what is being done to the VM, in words for the user.
type Progress func(step string)

// Spec is a VM as the user wants it.
type Spec struct {
	Name string
	// UUID is chosen by the caller before Create, so that a Create after an interruption finds its own domain again.
	UUID       string
	Base       tree.Digest
	Components []tree.Digest
	// Prefer is sorted by path. It says which component a path is of that several have with different content.
	Prefer []release.Preference
	// OnDemand are components that the VM attaches by itself when they are used. Attached are the names of
	// those that are attached: as the agent says if it can be asked, and otherwise as they are given here.
	OnDemand []tree.Digest
	Attached []string
	// DetachUsed detaches what was attached by use.
	DetachUsed bool
	VCPUs      int
	// MaxVCPUs and MaxMemory are how many processors and bytes of memory the VM can have while it
	// runs; 0 if it has the same until it is powered off.
	MaxVCPUs  int
	MaxMemory int64
	// Memory and DiskSize in bytes.
	Memory, DiskSize int64
	Hostname         string
	AuthorizedKeys   []string
	// KernelArgs are arguments for the kernel, after those of package hypervisor.
	KernelArgs []string
	Interfaces map[string]hypervisor.Interface
	// Hardware is everything else that the VM has.
	Hardware hypervisor.Hardware `json:",omitzero"`
	// Disks are further disks by the names that the user gave them. If it is nil, an update leaves
	// them as they are: data is lost only where it was said that a disk is to go. leaveDisks is
	// true if it was nil: a disk that is not in Disks stays, too.
	Disks      map[string]Disk
	leaveDisks bool
	// leaveInterfaces is true if Interfaces are those of the definition, and an update changes none in the running VM.
	leaveInterfaces bool

	Running   bool
	LifeCycle LifeCycle
	// Configuration is what is configured of the guest; nil if it is not known, in what was read
	// from a VM. Given is the id of what the guest was given last, for a Spec without Configuration.
	Configuration *guestconfig.Document
	Given         string `json:",omitempty"`
	// Secrets are the contents of the secret files of Configuration. Only an apply has them.
	Secrets guestconfig.Secrets `json:"-"`
	// Overwrite names what somebody has changed in the guest (VM.Drift) and an update may overwrite.
	Overwrite []string `json:",omitempty"`
	// Refresh is not known in what was read from a VM, unless the VM takes part in rollouts.
	Refresh RefreshPolicy
	Ready   Readiness
}

// Readiness is what a start of a VM waits for after its services have started.
type Readiness struct {
	// Checks must be good, and if Address is true, the VM must have an address.
	Checks  []*agentapi.HealthCheck
	Address bool
	// Limit bounds the wait.
	Limit time.Duration
}

// Strategies of a refresh: the rungs from the lowest to the highest, and NextBoot, which uses none.
const (
	Live       = "live"
	SoftReboot = "soft_reboot"
	Kexec      = "kexec"
	Reboot     = "reboot"
	NextBoot   = "next_boot"
)

// RefreshPolicy is how a VM may be moved to another stack.
type RefreshPolicy struct {
	// Strategy is the highest rung that may be used, or NextBoot.
	Strategy     string
	MaxImpact    agentapi.Level
	HealthChecks []*agentapi.HealthCheck
	// RequireChecks refuses a refresh before which a health check fails.
	RequireChecks bool
	Settle        time.Duration
	// RestartTimeout is how long one unit may take to stop and start again; 0 leaves that to the unit.
	RestartTimeout time.Duration
	// KeepFiles are patterns of absolute paths below /etc that a refresh leaves as the VM has them.
	KeepFiles []string
	// Purge removes what components that leave the VM brought and nobody has changed.
	Purge bool
	// Units is what may be done with units that are affected; nil restarts them.
	Units *agentapi.UnitPolicy
	// ByRollout: rollouts move the VM to other stacks (Interface.Move), and Update leaves its stack as it is.
	ByRollout bool

	// moving is true while a rollout moves the VM, and back if it may move it to an earlier release.
	moving, back bool
	// recorded is what the definition records instead of this policy; nil if it records this one.
	recorded *RefreshPolicy
}

// Once returns the policy for one move of a VM that somebody asks for. How the VM takes part in
// rollouts stays as it is.
func (p RefreshPolicy) Once(now *Participation) RefreshPolicy {
	p.ByRollout = false
	if now != nil {
		recorded := now.Policy
		p.ByRollout, p.moving, p.recorded = true, true, &recorded
	}
	return p
}

// VM is a VM as it is.
type VM struct {
	Spec Spec
	// State of the domain.
	State hypervisor.State
	// Stack that the VM runs as the agent says, or, when it does not answer, as the domain records.
	Stack release.Stack
	// Configured is the stack in the domain's definition: what the VM runs from its next power-off and start on.
	Configured release.Stack
	// Answered is false when the agent could not be asked. NoAnswer says why, if the VM runs.
	Answered bool
	NoAnswer error
	Agent    *agentapi.StatusResponse
	// Unreachable is true if the VM has a network interface, and its agent says that it has no address.
	Unreachable bool
	// Addresses are those of each interface, as the agent says; nil while it is not known which the
	// VM has. A VM that is off has interfaces without addresses.
	Addresses map[string][]netip.Addr
	// Pool is the storage pool of the private disk.
	Pool string
	// ConsoleLog is the file on the host that the serial console is written to.
	ConsoleLog string
	// Drift is what somebody has changed of the configuration of the guest, by path or unit, as the agent says.
	Drift map[string]string
	// Faults are what the VM should have and does not have.
	Faults []Fault
	// Surplus are the layers that are attached and that neither the running nor the configured stack has.
	Surplus []SurplusLayer
	// AwaitsPowerCycle is true while an update has left the VM with the stack that it runs: it runs the configured one
	// from its next power-off and start on. If it is false and the stacks differ, the next update moves the VM.
	AwaitsPowerCycle bool
	// NotCollected is why volumes that Update has left unreferenced were not deleted; nil if they were. It matches
	// ErrNotCollected.
	NotCollected error
	// OtherAgent says why Update has not replaced the agent in the VM by this program's; "" if it is this program's.
	OtherAgent string
	// ReadySeconds is the time from the domain's start to the agent's first answer; 0 if the VM was not started.
	ReadySeconds float64
	// Unrecorded is true if the VM was made, and nobody has said yet that it is in Terraform's
	// state (Interface.Recorded).
	Unrecorded bool
	// Rollout says how the VM takes part in rollouts; nil if it does not.
	Rollout *Participation
	// DiskAllocated is what the private disk takes on the host in bytes.
	DiskAllocated int64

	// diskGone is true if the pool has no private disk.
	diskGone bool
}

// Checked is the stack that the releases of a Spec make.
type Checked struct {
	Stack release.Stack
	// Unused are the preferences that settle nothing, since no two components differ there.
	Unused []release.Preference
}

// Interface is what the provider uses of a Fleet.
type Interface interface {
	// Create makes the VM, and starts it and waits for its agent if it is to run. ErrExists if a VM of the name
	// exists under another UUID.
	Create(ctx context.Context, spec Spec, progress Progress) (*VM, error)
	// Interrupted returns the UUID of a VM of the name whose creation was interrupted because its
	// process was killed, so that Create can continue it; "" if there is none. A VM that was made,
	// but may not have got into Terraform's state, counts only if it was made from the same
	// workspace (store.ThisWorkspace). ErrCreating if the process still runs.
	Interrupted(ctx context.Context, name string) (uuid string, err error)
	// Recorded says that a VM that was made is in Terraform's state. From then on, Interrupted does not return
	// it. It does nothing to a VM that does not await that (VM.Unrecorded), and to one that does not exist.
	Recorded(ctx context.Context, uuid string) error
	// Find returns the present name of the VM with a UUID: somebody may have renamed it.
	// ErrNotFound only if libvirt said that neither the UUID nor the name exists; ErrOther if the
	// name belongs to another domain. If the UUID is "", the name counts.
	Find(ctx context.Context, name, uuid string) (string, error)
	// Check composes the stack of spec and changes nothing. The error matches compose.ErrStack if
	// its releases do not make one, and store.ErrNotFound if one of them is not published yet.
	// If a joining layer has to be built first and build is false, it matches publish.ErrNotCached.
	Check(ctx context.Context, spec Spec, build bool) (Checked, error)
	// Preflight returns why a VM cannot be made or changed as wanted, as far as the host shows it
	// now. It changes nothing.
	Preflight(ctx context.Context, question Question) ([]Problem, error)
	// Read returns the VM as it is; ErrNotFound only if libvirt said so. An agent that does not answer is no
	// error: Answered is false.
	Read(ctx context.Context, name string) (*VM, error)
	// List reads all VMs of the pool at once, sorted by name. libvirt is asked for its domains
	// once. An agent that does not answer delays no other one.
	List(ctx context.Context) ([]Listed, error)
	// Dial connects to a port of a running VM's vsock. hypervisor.ErrNotRunning if the VM is off.
	Dial(ctx context.Context, uuid string, port uint32) (net.Conn, error)
	// Reboot powers a running VM off and starts it, with the stack, the kernel and the hardware in
	// its definition. hypervisor.ErrNotRunning if the VM does not run. If the stack does not come
	// up, the VM runs the one from before. ErrNotReady if the VM is not ready in time.
	Reboot(ctx context.Context, uuid string, ready Readiness, progress Progress) (*VM, error)
	// Update makes the VM as spec says. If that moves it to another stack and it runs, it is refreshed, and the
	// report says what was interrupted; ErrImpact and ErrRolledBack say that it runs what it ran. What lies above the
	// strategy is left to the next start. ErrOther if the UUID is another.
	Update(ctx context.Context, spec Spec, progress Progress) (*VM, *agentapi.Report, error)
	// Assess tells what a refresh to the stack of spec would interrupt; nil if nothing changes or the VM is off.
	// ErrNotLive if no live refresh can lead to it.
	Assess(ctx context.Context, spec Spec) (*agentapi.Impact, error)
	// Move moves a VM that takes part in rollouts to another stack, by the policy that its
	// definition records, as Update does. With back the stack can be an earlier one, and a health
	// check that fails before does not prevent it. ErrNoPart if the VM does not take part.
	Move(ctx context.Context, name string, to Target, back bool, progress Progress) (*VM, *agentapi.Report, error)
	// AssessMove tells what Move would interrupt, as Assess does. A policy other than the recorded one can be given.
	AssessMove(ctx context.Context, name string, to Target, policy *RefreshPolicy) (*agentapi.Impact, error)
	// Passed records that the last move of a VM by a rollout is final: it is not taken back any more.
	Passed(ctx context.Context, name string) error
	// Health makes the health checks of a VM that takes part in rollouts once, and returns those that
	// fail. Those that failed before its last move are left out until that has passed. That it runs
	// another stack than its definition says counts as one. ErrNoAnswer if its agent does not answer.
	Health(ctx context.Context, name string) ([]*agentapi.FailedCheck, error)
	// SetLifeCycle changes the life cycle of a VM and nothing else. Its guest is not asked. ErrOther if the UUID is
	// another.
	SetLifeCycle(ctx context.Context, name, uuid string, want LifeCycle) error
	// Delete ends and removes the VM, its private disk and its console log, and what nothing else needs of what
	// it ran. One that is gone already is no error; ErrProtected if the VM is protected, and ErrOther if the name
	// belongs to a VM of another UUID, in which cases nothing is touched; ErrNotCollected if the VM is deleted,
	// and volumes that it used are not; ErrLeft if a volume that may be somebody else's was not deleted with it.
	Delete(ctx context.Context, name, uuid string, progress Progress) error
	// InUse names the VMs, running or not, by the releases that they refer to.
	InUse(ctx context.Context) (map[tree.Digest][]string, error)
}

// Package crashtest kills the agent, and cuts the power, at every point of a refresh, with the
// kernel of the host. It needs no guest: a machine of this package is a process in a mount and pid
// namespace of its own, which boots in a tenth of a second.
//
// A machine runs the agent's engine, boot, mounts, etcmerge and records on real mounts: EROFS
// images, overlays, an ext4 file system on a loop device as the private disk, and a /usr that
// move_mount(2) swaps. Three things are replaced, behind the interfaces that the engine has for
// them. A layer is mounted from its file and verified by package layer, not by dm-verity. Process 1
// of the machine starts and restarts its services, not systemd. A health check reads a file.
//
// The model of a VM in package refresh makes every operation of the engine fail. This package finds
// what a model cannot show: a mount that stays beneath another one, a record that a boot reads in
// another way than the engine wrote it, a file below /etc that belongs to neither release. Package
// testbed/faults tries less in a real guest, which has the kernel of a release, systemd and dm-verity.
package crashtest

import (
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// Machine describes what a machine boots from.
type Machine struct {
	// Disk is the image file of the private disk.
	Disk string
	// Layers are the attached layers.
	Layers []Image
	// Config is the configuration that the host passes to a VM when it starts it.
	Config agentapi.BootConfig
	// Kernel is the release of the kernel that the machine pretends to run; "" for that of the host.
	Kernel string
	// Trial is the key of the stack that a kernel which kexec has started may boot (boot.TrialKey); "" for none.
	Trial string
}

// Image is the file of a layer.
type Image struct {
	Layer release.Layer
	Path  string
}

// Order is one thing that a test orders a machine to do. The machine sends one Answer to each order.
type Order struct {
	// Write lists files to write, with their content by path.
	Write map[string]string `json:",omitempty"`
	// Modes lists modes to set, by path.
	Modes map[string]uint32 `json:",omitempty"`
	// Remove lists files that are removed once the agent has ended.
	Remove []string `json:",omitempty"`
	// Arm lists failpoints, each "<action> <n> <name>".
	Arm []string `json:",omitempty"`
	// Request is an encoded agentapi.RefreshRequest. Without it the agent starts and continues what
	// it finds in its journal.
	Request []byte `json:",omitempty"`
	// Assess is an encoded agentapi.AssessRequest. The agent answers it and changes nothing.
	Assess []byte `json:",omitempty"`
	// Blobs are the contents lists that the request names, by the hexadecimal digits of their digests.
	Blobs map[string][]byte `json:",omitempty"`
	// Continue ends the pause of an agent that a failpoint has paused. Such an order has no other fields.
	Continue bool `json:",omitempty"`
	// Sync flushes all file systems in the end.
	Sync bool `json:",omitempty"`
}

// Answer reports how an order ended.
type Answer struct {
	// Error says why the machine could not carry the order out. All other fields are unset then.
	Error string `json:",omitempty"`
	// Paused is the failpoint that has paused the agent. The order is not finished yet: the machine
	// waits for one with Continue.
	Paused string `json:",omitempty"`
	// Result is the report of the last agent.
	Result Result
	// Reached lists the failpoints that were reached, and Triggered those that have triggered.
	Reached, Triggered []string
	// Look describes everything in the machine that a refresh changes.
	Look string
	// Units are the running units by name.
	Units map[string]Running
}

// Running is a running unit.
type Running struct {
	// PID is its process, and Runs the digest of the program that the process runs.
	PID  int
	Runs string
	// Present is the digest of the program in /usr; "" if /usr has none.
	Present string
}

// Result is what an agent reports when no refresh is in flight.
type Result struct {
	// Stack is the stack that runs, and State the state of the journal.
	Stack release.Stack
	State string
	// Committed and Error are those of the last refresh.
	Committed bool
	Error     string
	// Pending is what the agent says is not in effect, and Remaining the processes that it says run old code.
	Pending, Remaining []string
	// Report is the encoded agentapi.Report of the last refresh, and Impact the encoded
	// agentapi.Impact of an assessment.
	Report, Impact []byte
}

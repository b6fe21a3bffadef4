// Package crashtest ends the agent, and the power, at every point of a refresh, on the host's own kernel: a machine is a
// process in a mount and pid namespace of its own, which boots within milliseconds.
//
// A machine runs the agent's own engine, boot, mounts, etcmerge and records on real mounts: EROFS images, overlays, an
// ext4 on a loop device as the private disk, a /usr that is swapped by move_mount(2). Three things stand behind the seams
// that the engine has for them: dm-verity (a layer is mounted from its file and verified by package layer), systemd
// (process 1 of the machine, which restarts services), and health checks.
//
// The model of a VM in package refresh has every operation of the engine fail. This package finds what a model cannot: a
// mount that stays beneath another one, a record that a boot reads otherwise than the engine wrote it, a file below /etc
// that two releases mix. A real guest, in package testbed/faults, has the kernel of a release, systemd and dm-verity.
package crashtest

import (
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// Machine is what a machine boots from.
type Machine struct {
	// Disk is the file of the private disk.
	Disk string
	// Layers are those that are attached.
	Layers []Image
	// Config is what the host tells a VM when it starts it.
	Config agentapi.BootConfig
}

// Image is the file of a layer.
type Image struct {
	Layer release.Layer
	Path  string
}

// Order is what a test has a machine do. A machine answers each order with one Answer.
type Order struct {
	// Write has files written, by path: what somebody changes in this VM.
	Write map[string]string `json:",omitempty"`
	// Arm lists points of package failpoint, each "<action> <n> <name>".
	Arm []string `json:",omitempty"`
	// Request is an agentapi.RefreshRequest to begin with, and Blobs has the contents lists that it names, by their
	// digest's hexadecimal digits. Without a request the agent starts and goes on with what it finds.
	Request []byte            `json:",omitempty"`
	Blobs   map[string][]byte `json:",omitempty"`
	// Continue lets an agent go on that a point holds; the order has nothing else.
	Continue bool `json:",omitempty"`
	// Sync has all that was written brought to the disk.
	Sync bool `json:",omitempty"`
}

// Answer is how an order ended.
type Answer struct {
	// Error says why the order could not be carried out. All else is unset then.
	Error string `json:",omitempty"`
	// Held is the point that holds the agent. The order is not carried out to its end yet.
	Held string `json:",omitempty"`
	// Result is the agent's last word, and Lives how many agents there were.
	Result Result
	Lives  int
	// Passed lists the points that were reached, Struck those that have struck.
	Passed, Struck []string
	// Look describes all of the machine that a refresh changes.
	Look string
}

// Result is what an agent tells when nothing is in flight.
type Result struct {
	// Stack that runs.
	Stack release.Stack
	State string
	// Of the last report.
	Committed, Refused bool
	Error              string
}

// Package report describes a storage pool and the VMs of a host at one moment, for people and for programs.
//
// Gather asks the pool and the VMs. It changes nothing, and an agent that does not answer delays
// the report by a bounded time. WritePage writes the result as one HTML file that needs no network,
// and WriteJSON writes the same for programs.
//
// What a guest says is hostile until checked: every text is one line of visible characters without
// secrets, texts and lists have a limit, and a page shows texts by html/template alone.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Format is the version of the JSON form of a Report. It changes when a field goes or changes its
// meaning, not when one is added.
const Format = 1

// Report describes a pool and its VMs. All sizes are in bytes. Lists are never null.
type Report struct {
	Format int `json:"format"`
	// Made is when the report was made, UTC.
	Made time.Time `json:"made"`
	// Version of the provider that made it.
	Version string `json:"provider_version"`
	// Host is the URI of libvirt, and Pool the name of the storage pool.
	Host  string `json:"host"`
	Pool  string `json:"pool"`
	Space Space  `json:"space"`
	// Layers, those of bases first, each base's by the release that brought them.
	Layers []Layer `json:"layers"`
	// Releases that the pool lists, by kind and name, newest first.
	Releases []Release `json:"releases"`
	// VMs of the pool, sorted by name.
	VMs []VM `json:"vms"`
	// Incomplete says what could not be read, so that the report lacks it.
	Incomplete []string `json:"incomplete"`
}

// Space is as in the data source sharedos_pool_usage.
type Space struct {
	// Known is false if it could not be measured. The numbers are 0 then.
	Known bool `json:"known"`
	// Stored is what all volumes of the pool take, and Full what full copies would take.
	Stored int64 `json:"stored_bytes"`
	Full   int64 `json:"full_bytes"`
	// Saved is Full minus Stored. It is negative where copies would be smaller.
	Saved int64 `json:"saved_bytes"`
}

// Ref refers to a release.
type Ref struct {
	// Kind is that of the release: "base", "component", "joining", "standin" or "offer"; "" if the
	// pool has no such release.
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Sequence uint64 `json:"sequence"`
	// Release is its id, "sha256:<64 hex>".
	Release string `json:"release"`
}

// Layer is a layer of the pool, or one that a VM refers to and the pool lacks.
type Layer struct {
	ID string `json:"id"`
	// Kind is "full" or "delta", and "unknown" if no release in the pool has the layer.
	Kind string `json:"kind"`
	// Of is the oldest release in the pool that has it.
	Of Ref `json:"of"`
	// Releases is how many releases in the pool have it.
	Releases int `json:"releases"`
	// InPool is false if a VM or a release refers to the layer and its volume is gone.
	InPool bool `json:"in_pool"`
	// Bytes that its volume takes.
	Bytes int64 `json:"bytes"`
	// VMs that run it or have it in their definition, or have it attached for a component on demand, sorted.
	VMs []string `json:"vms"`
	// Saved is what copies would take in addition: Bytes for each VM but the first.
	Saved int64 `json:"saved_bytes"`
	// HeldBy are VMs that have it attached although they need it no more.
	HeldBy []Hold `json:"held_by"`
}

// Hold is a layer that a VM has attached although neither its definition nor what it runs has it.
type Hold struct {
	VM    string `json:"vm"`
	Layer string `json:"layer"`
	// By says what in the guest still uses it. If it is empty, the next apply detaches the layer.
	By []string `json:"by"`
}

// Release is a release that the pool lists.
type Release struct {
	Ref
	// Newest is true for the newest release of its kind and name.
	Newest bool `json:"newest"`
	// Published is when it became the newest; zero if that is unknown.
	Published time.Time `json:"published,omitzero"`
	OS        string    `json:"os"`
	// Kernel release of a base; "" for all others.
	Kernel string `json:"kernel"`
	// Layers are the ids of its layers, bottom to top. A component's are those above its base.
	Layers []string `json:"layers"`
	// VMs that run it, sorted. Those that do not answer count as running what their definition says.
	VMs []string `json:"vms"`
}

// The values of VM.Agent.
const (
	// Answers: the agent was asked and has answered.
	Answers = "answers"
	// Silent: the VM runs, and its agent could not be asked.
	Silent = "silent"
	// NotAsked: the VM does not run.
	NotAsked = "not asked"
)

// VM is one VM.
type VM struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	UUID  string `json:"uuid"`
	// State is "running", "off", "paused", "crashed" or "unknown".
	State string `json:"state"`
	// Agent is Answers, Silent or NotAsked, and Silence says why it could not be asked.
	Agent   string `json:"agent"`
	Silence string `json:"silence"`
	// Base and Components are what the VM runs. What its definition says stands for a VM that is off or silent.
	Base       Ref   `json:"base"`
	Components []Ref `json:"components"`
	// Layers of what it runs, bottom to top.
	Layers []string `json:"layers"`
	// Kernel is the running one, and System the state of systemd. Both are "" if the agent was not asked.
	Kernel string `json:"kernel"`
	System string `json:"system_state"`
	VCPUs  int    `json:"vcpus"`
	Memory int64  `json:"memory_bytes"`
	// DiskSize is the size of the private disk, and DiskBytes what it takes on the host.
	DiskSize  int64  `json:"disk_size_bytes"`
	DiskBytes int64  `json:"disk_bytes"`
	Waits     []Wait `json:"waits"`
	// LastRefresh is nil if there was none since the VM was booted, or if the agent was not asked.
	LastRefresh *Refresh `json:"last_refresh"`
	Held        []Hold   `json:"held_layers"`
	// Faults are what the VM should have and does not have.
	Faults []string `json:"faults"`
}

// The values of Wait.For.
const (
	// ForStart: the VM has to be powered off and started.
	ForStart = "power-off and start"
	// ForApply: terraform apply changes it.
	ForApply = "apply"
	// ForRefresh: a refresh is in flight.
	ForRefresh = "refresh in flight"
	// ForRestart: processes have to be restarted.
	ForRestart = "restart of processes"
)

// Wait is a change that has not reached a VM, or not all of it.
type Wait struct {
	// For is what has to happen, What is the change, and Why is why it has not happened.
	For  string `json:"for"`
	What string `json:"what"`
	Why  string `json:"why"`
}

// Refresh is the last refresh of a VM, as its agent tells it.
type Refresh struct {
	From Ref `json:"from"`
	To   Ref `json:"to"`
	// Result is "committed", "rolled back", "refused" or "in flight".
	Result string `json:"result"`
	Error  string `json:"error"`
	// Level is the name of its impact, such as "restart", and Strategy that of the rung that it used.
	Level    string `json:"level"`
	Strategy string `json:"strategy"`
	// Interrupted are the units that were reloaded or restarted.
	Interrupted []Interruption `json:"interrupted"`
	// Longest is the longest interruption of a unit in milliseconds.
	Longest float64 `json:"longest_interruption_ms"`
	// Milliseconds is how long the refresh took in all.
	Milliseconds float64    `json:"took_ms"`
	Timings      []Timing   `json:"timings"`
	Conflicts    []Conflict `json:"conflicts"`
	// Pinned units keep the old /usr, and Left are those that the policy left alone.
	Pinned []string `json:"pinned"`
	Left   []string `json:"left"`
	// Unchecked are health checks that failed before the refresh and did not count.
	Unchecked []string `json:"unchecked"`
}

// Interruption is a unit that a refresh interrupted.
type Interruption struct {
	Unit  string `json:"unit"`
	Level string `json:"level"`
	// Milliseconds until the unit was active again.
	Milliseconds float64 `json:"ms"`
	Error        string  `json:"error"`
}

// Timing is how long a step of a refresh took.
type Timing struct {
	Step         string  `json:"step"`
	Milliseconds float64 `json:"ms"`
}

// Conflict is a path of the VM's own files that is not as in the release.
type Conflict struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
	// Advice is what an administrator of the VM can do.
	Advice string `json:"advice"`
}

// WriteJSON writes a report as indented JSON.
func WriteJSON(to io.Writer, r *Report) error {
	encoder := json.NewEncoder(to)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		return fmt.Errorf("write the report as JSON: %w", err)
	}
	return nil
}

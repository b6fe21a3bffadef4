// Package mounts assembles what a VM sees: layers over dm-verity, the root overlay, the /usr mount and its swap.
package mounts

// Places in a running guest. /run survives from the initramfs into the system, and through a soft-reboot.
const (
	// RunDir holds all that lasts until the next boot.
	RunDir = "/run/sharedos"
	// LayersDir has one EROFS mount per layer, named by the 64 hexadecimal digits of its id.
	LayersDir = RunDir + "/layers"
	// AgentBinary is the agent as the initramfs brought it.
	AgentBinary = RunDir + "/bin/agent"
	// BootRecord is what init assembled, as JSON: see package boot.
	BootRecord = RunDir + "/boot.json"
	// NextRecord is what a soft-reboot was to start, in the form of BootRecord, and NextRoot where systemd looks for it
	// (systemd-soft-reboot.service(8)).
	NextRecord = RunDir + "/next.json"
	NextRoot   = "/run/nextroot"
	// UsrRecord remembers which /usr were swapped since the root was assembled.
	UsrRecord = RunDir + "/usr.json"
	// BlobsDir holds contents lists while a refresh needs them.
	BlobsDir = RunDir + "/blobs"
	// PrivateDir is the private disk's file system: root/upper, root/work, var, home, root-home, srv and sharedos.
	PrivateDir = RunDir + "/private"
	// StateDir is the agent's own part of the private disk, mode 0700.
	StateDir = PrivateDir + "/sharedos"
	// AgentKey is the agent's Ed25519 private key, PKCS#8 PEM, mode 0600, made on first boot.
	AgentKey = StateDir + "/agent.key"
	// Journal is the state machine's journal, JSON kept by package slots, and Committed the newest committed stack, a
	// file of JSON.
	Journal   = StateDir + "/journal"
	Committed = StateDir + "/committed.json"
)

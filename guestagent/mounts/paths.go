// Package mounts assembles the file systems of a VM: layers on dm-verity, the root overlay, and the /usr mount with its
// swap. A layer is found (layerdevice.go), verified (verity.go) and mounted (layer.go) in three separate steps.
package mounts

// Paths in a running guest. /run is kept from the initramfs into the system, and through a soft-reboot.
const (
	// RunDir is for everything that lasts until the next boot.
	RunDir = "/run/sharedos"
	// LayersDir has one EROFS mount per layer, named by the 64 hexadecimal digits of its id.
	LayersDir = RunDir + "/layers"
	// AgentBinary is the agent, copied from the initramfs.
	AgentBinary = RunDir + "/bin/agent"
	// BootRecord describes what init assembled, as JSON: see package boot.
	BootRecord = RunDir + "/boot.json"
	// NextRecord describes the stack that a soft-reboot starts, in the form of BootRecord. NextRoot is where systemd
	// looks for its root (systemd-soft-reboot.service(8)).
	NextRecord = RunDir + "/next.json"
	NextRoot   = "/run/nextroot"
	// UsrRecord lists the swaps of /usr since the root was assembled.
	UsrRecord = RunDir + "/usr.json"
	// NetworkRecord is what a refresh keeps of the network.
	NetworkRecord = RunDir + "/network.json"
	// BlobsDir is for the blobs that the host uploads, such as contents lists, while a refresh needs them.
	BlobsDir = RunDir + "/blobs"
	// OfferDir is where the offer of components on demand is mounted while it is read, OnDemandSocket where the agent
	// answers stand-ins.
	OfferDir       = RunDir + "/offer"
	OnDemandSocket = RunDir + "/on-demand.sock"
	// LocalCommands is where this VM's own commands for root are (hier(7)).
	LocalCommands = "/usr/local/sbin"
	// PrivateDir is the private disk's file system: root/upper, root/work, var, home, root-home, srv and sharedos.
	PrivateDir = RunDir + "/private"
	// StateDir is the agent's own directory on the private disk, mode 0700.
	StateDir = PrivateDir + "/sharedos"
	// AgentKey is the agent's Ed25519 private key, PKCS#8 PEM, mode 0600, created on first boot.
	AgentKey = StateDir + "/agent.key"
	// Journal is the journal of refreshes, JSON in a file of package slots. Committed is the newest committed stack,
	// JSON.
	Journal   = StateDir + "/journal"
	Committed = StateDir + "/committed.json"
)

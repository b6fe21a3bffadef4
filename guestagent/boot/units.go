package boot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/configure"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

// Directories of units and network files that last until the next boot; see systemd.unit(5), systemd.network(5).
const (
	runUnits   = "/run/systemd/system"
	runNetwork = "/run/systemd/network"
	// AgentUnit is the name of the agent's service.
	AgentUnit = "sharedos-agent.service"
)

// agentService starts as early as possible: everything that it needs is mounted, and it talks to systemd over systemd's
// own socket. It is not sandboxed, since it changes the mounts of the whole system.
const agentService = `[Unit]
Description=Shared OS agent
DefaultDependencies=no
StartLimitIntervalSec=0
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=notify
ExecStart=` + mounts.AgentBinary + ` serve
Restart=always
RestartSec=1
TimeoutStartSec=60
TimeoutStopSec=10
OOMScoreAdjust=-900
`

// nextRootUnit is the unit that runs NextRoot, as the last step of a soft-reboot in the old root. nextRootService is
// its content.
const (
	nextRootUnit    = "sharedos-next-root.service"
	nextRootService = `[Unit]
Description=Assemble the root that a soft-reboot switches to
DefaultDependencies=no
After=shutdown.target umount.target final.target
Before=systemd-soft-reboot.service

[Service]
Type=oneshot
ExecStart=` + mounts.AgentBinary + ` next-root
TimeoutStartSec=90
StandardOutput=kmsg
StandardError=kmsg
`
)

// layerDropIn keeps systemd from unmounting the layers at shutdown or at a soft-reboot, since everything runs from
// them. systemd-shutdown unmounts them at the end. The names of its directories are prefixes, so it applies to all
// layers, and to the modules of a kernel that is not the stack's.
const layerDropIn = `[Unit]
DefaultDependencies=no
`

// mountUnit does the same for a mount that other units depend on. It is a complete unit, because systemd may look for
// the unit of such a dependency, and find none, before it sees the mount. Then it reads no drop-ins for it.
func mountUnit(description, what, where, kind, options string) string {
	return `[Unit]
Description=` + description + `
DefaultDependencies=no

[Mount]
What=` + what + `
Where=` + where + `
Type=` + kind + `
Options=` + options + `
`
}

// hostKeysService generates the SSH host keys, which must not be part of a shared OS.
const hostKeysService = `[Unit]
Description=Make this VM's SSH host keys
DefaultDependencies=no
ConditionFileNotEmpty=!/etc/ssh/ssh_host_ed25519_key
Conflicts=shutdown.target
Before=shutdown.target ssh.service ssh.socket sshd.service sshd.socket

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/ssh-keygen -A
`

// wiredNetwork enables DHCP on every physical Ethernet interface that no earlier file matches.
const wiredNetwork = `[Match]
Type=ether
Kind=!*

[Network]
DHCP=yes
`

// installService copies the agent to /run, and writes its unit and the units of the private disk's mounts.
func installService(executable, privateNode string) error {
	if err := copyExecutable(executable, mounts.AgentBinary); err != nil {
		return fmt.Errorf("install agent: %w", err)
	}
	files := map[string]string{
		AgentUnit:    agentService,
		nextRootUnit: nextRootService,
		"run-sharedos-layers-.mount.d/50-sharedos.conf": layerDropIn,
		"usr-lib-modules-.mount.d/50-sharedos.conf":     layerDropIn,
		"run-sharedos-private.mount": mountUnit("Private disk", privateNode,
			mounts.PrivateDir, "ext4", privateOptions),
	}
	for _, tree := range mounts.PrivateTrees {
		files[tree.Path+".mount"] = mountUnit("Private disk at /"+tree.Path,
			filepath.Join(mounts.PrivateDir, tree.Name),
			"/"+tree.Path, "none", "bind")
	}
	for name, content := range files {
		if err := writeRunFile(filepath.Join(runUnits, name), content); err != nil {
			return fmt.Errorf("install agent: %w", err)
		}
	}
	for target, unit := range map[string]string{"sysinit.target": AgentUnit, "soft-reboot.target": nextRootUnit} {
		if err := want(target, unit, filepath.Join("..", unit)); err != nil {
			return fmt.Errorf("install agent: %w", err)
		}
	}
	return nil
}

// installHostKeys installs the unit that generates SSH host keys, if the system at root has an SSH server.
func installHostKeys(root string) error {
	const unit = "sharedos-ssh-host-keys.service"
	if !present(root, "usr/sbin/sshd") || !present(root, "usr/bin/ssh-keygen") {
		return nil
	}
	if err := writeRunFile(filepath.Join(runUnits, unit), hostKeysService); err != nil {
		return fmt.Errorf("install SSH host keys: %w", err)
	}
	if err := want("sysinit.target", unit, filepath.Join("..", unit)); err != nil {
		return fmt.Errorf("install SSH host keys: %w", err)
	}
	return nil
}

// networkTimeout bounds the wait of network-online.target for an address, in seconds.
const networkTimeout = 60

// onlineDropIn makes network-online.target wait for an address of one interface, and for the name servers. With more
// than one interface, some may never get an address.
func onlineDropIn(resolver string) string {
	text := fmt.Sprintf(
		"[Service]\nExecStart=\nExecStart=/usr/lib/systemd/systemd-networkd-wait-online --any --timeout=%d\n",
		networkTimeout)
	if resolver != "" {
		text += "ExecStartPost=" + mounts.AgentBinary + " resolver " + resolver + "\n"
	}
	return text
}

// installNetwork enables systemd-networkd with DHCP, unless the system at root configures its network in another way or
// has no networkd.
func installNetwork(root string) error {
	units, links, err := network(root, hasInterface("/sys/bus/pci/devices"))
	if err != nil {
		return fmt.Errorf("install network: %w", err)
	}
	for path, content := range units {
		if err := writeRunFile(path, content); err != nil {
			return fmt.Errorf("install network: %w", err)
		}
	}
	for _, link := range links {
		if err := want(link.target, link.unit, filepath.Join(link.directory, link.unit)); err != nil {
			return fmt.Errorf("install network: %w", err)
		}
	}
	return nil
}

// wanted says that a target wants a unit of a directory.
type wanted struct{ target, unit, directory string }

// network returns the files and links with which the system at root gets its network: none if something else configures
// it. interfaces is true if the VM has a network interface.
func network(root string, interfaces bool) (files map[string]string, links []wanted, err error) {
	const system = "/usr/lib/systemd/system"
	if !present(root, "usr/lib/systemd/systemd-networkd") {
		return nil, nil, nil
	}
	if other := otherNetwork(root); other != "" {
		say("network: left to %s", other)
		return nil, nil, nil
	}
	files = map[string]string{filepath.Join(runNetwork, "80-sharedos.network"): wiredNetwork}
	links = []wanted{{"multi-user.target", "systemd-networkd.service", system}}
	if present(root, "usr/lib/systemd/systemd-resolved") {
		links = append(links, wanted{"multi-user.target", "systemd-resolved.service", system})
	}
	resolver, err := linkResolver(root)
	if err != nil {
		return nil, nil, fmt.Errorf("link resolv.conf: %w", err)
	}
	if resolver != "" {
		files[filepath.Join(runUnits, resolverUnit)] = resolverService(resolver)
		files[filepath.Join(runUnits, resolverTrigger)] = resolverPath
		links = append(links, wanted{"systemd-networkd.service", resolverTrigger, ".."})
	}
	// Without an interface it would wait in vain.
	const online = "systemd-networkd-wait-online"
	if interfaces && present(root, "usr/lib/systemd/"+online) {
		files[filepath.Join(runUnits, online+".service.d", "50-sharedos.conf")] = onlineDropIn(resolver)
		links = append(links, wanted{"network-online.target", online + ".service", system})
	}
	return files, links, nil
}

// hasInterface reports whether the machine has a network interface among its PCI devices: one of class 02 (pci.ids,
// "Network controller"). The module of its driver need not be loaded.
func hasInterface(devices string) bool {
	classes, err := filepath.Glob(filepath.Join(devices, "*", "class"))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(classes, func(path string) bool {
		class, err := fileio.Read(path, 64)
		return err == nil && strings.HasPrefix(string(class), "0x02")
	})
}

// otherNetwork returns what configures the network of the system at root instead of systemd-networkd, "" if nothing
// does.
func otherNetwork(root string) string {
	if present(root, "usr/sbin/NetworkManager") {
		return "NetworkManager"
	}
	for directory, name := range map[string]string{"etc/netplan": "netplan", "etc/network/interfaces.d": "ifupdown"} {
		if entries, err := os.ReadDir(filepath.Join(root, directory)); err == nil && len(entries) > 0 {
			return name
		}
	}
	if data, err := fileio.Read(filepath.Join(root, "etc/network/interfaces"), 1<<20); err == nil {
		for line := range strings.Lines(string(data)) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "iface" && fields[1] != "lo" {
				return "ifupdown"
			}
		}
	}
	return ""
}

// NetworkManagerOf returns the manager whose files of networks the system at root reads. If that is none
// that the agent can write files for, instead says what configures the network, "" if nothing does.
func NetworkManagerOf(root string) (manager guestconfig.Manager, instead string) {
	other := otherNetwork(root)
	if other == "netplan" { // it has one of the two carry its files out
		other = ""
	}
	for _, one := range guestconfig.Managers {
		if present(root, one.Program) && (other == "" || other == string(one.Manager)) {
			return one.Manager, ""
		}
	}
	return guestconfig.NoManager, other
}

// installNetworks writes files of networks for the manager of the system at root, which last until the next boot,
// below run. They count until the system takes on its configuration for the first time: then the files are below /etc.
func installNetworks(root, run, stateDirectory string, networks map[string]guestconfig.Network) error {
	if len(networks) == 0 {
		return nil
	}
	configured, err := configure.Configured(stateDirectory)
	if err != nil || configured {
		return err
	}
	for name, network := range networks {
		if network.MAC == "" { // networkd would take it for every interface
			return fmt.Errorf("the network %q has no MAC address", name)
		}
	}
	document := &guestconfig.Document{Version: guestconfig.Version, Networks: networks}
	if problems := document.Check(); len(problems) > 0 {
		return problems[0]
	}
	manager, _ := NetworkManagerOf(root)
	for _, item := range document.NetworkItems(manager) {
		file := filepath.Join(run, strings.TrimPrefix(manager.BootNetworkFile(item.Network), "/run/"))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, item.Content, fs.FileMode(item.Mode)); err != nil {
			return err
		}
	}
	return nil
}

// present reports whether the system at root has a file.
func present(root, path string) bool {
	_, err := os.Lstat(filepath.Join(root, path))
	return err == nil
}

// want makes a target start a unit.
func want(target, unit, link string) error {
	directory := filepath.Join(runUnits, target+".wants")
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	err := os.Symlink(link, filepath.Join(directory, unit))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func writeRunFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

// copyExecutable copies a program to /run, where it remains after the initramfs was removed.
func copyExecutable(source, target string) (err error) {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}

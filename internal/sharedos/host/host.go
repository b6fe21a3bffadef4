// Package host opens one virtualization host: the connection to its libvirt and its machine, the
// store and the hypervisor that share them, and the publisher and the fleet that work on these. It
// connects these parts and decides nothing itself.
package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/bootimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// Config says which host, and where things are on this machine. Every field has a default.
type Config struct {
	// URI of libvirt; "" is the local system's.
	URI string
	// Pool is the storage pool's name; "" is "sharedos".
	Pool string
	// PoolPath is the directory of the pool if it has to be made; "" is "pool" in StateDir.
	PoolPath string
	// OperatorKey is the file of the operator's Ed25519 key, made on first use; "" is "operator.key" in the
	// user's configuration directory.
	OperatorKey string
	// Cache is a directory for what can be made again; "" is "sharedos" in the user's cache directory.
	Cache string
	// StateDir is a directory for what lasts as long as the VMs do: console logs, sockets and pids of
	// vsock daemons, and the kernels and initramfs that stand in for those of pools of devices; "" is
	// $SHAREDOS_STATE_DIR, or /var/lib/sharedos for root and the user's own state directory else.
	StateDir string
	// ReadOnly: opening the host makes no operator key and no storage pool, and deletes nothing that
	// an interrupted deletion has left. The error matches release.ErrKey if there is no operator key.
	ReadOnly bool
	// MaxLayers and MaxDeltaPercent say when a full layer is written instead of a delta (publish.Publisher).
	MaxLayers, MaxDeltaPercent int

	Log *slog.Logger
}

// Host is an open virtualization host.
type Host struct {
	Publisher *publish.Publisher
	Fleet     *vm.Fleet
	Store     store.Store

	client *libvirtconn.Client
	config Config
	on     machine.Machine
	pool   *store.Libvirt
}

// Open connects to the host, which is this machine. It starts libvirt if the URI is that of the
// system's libvirt and none runs.
func Open(ctx context.Context, config Config) (_ *Host, err error) {
	if config, err = config.withDefaults(); err != nil {
		return nil, err
	}
	known, err := release.HasKey(config.OperatorKey)
	if err != nil {
		return nil, err
	}
	if config.ReadOnly && !known {
		return nil, fmt.Errorf("%w: there is no file %s", release.ErrKey, config.OperatorKey)
	}
	var on machine.Machine = machine.Local{}
	client, err := libvirtconn.Open(ctx, config.URI, on)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, client.Close())
		}
	}()
	volumes, err := store.New(client, store.Config{Pool: config.Pool, CreatePath: config.PoolPath})
	if err != nil {
		return nil, err
	}
	if !known {
		if err := nothingSigned(ctx, volumes, config); err != nil {
			return nil, err
		}
	}
	key, err := release.LoadOrCreateKey(config.OperatorKey)
	if err != nil {
		return nil, err
	}
	domains, err := hypervisor.New(ctx, client, on, config.StateDir)
	if err != nil {
		return nil, err
	}
	consoles := filepath.Join(config.StateDir, "console")
	if err := on.MakeDir(ctx, consoles, 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("create the directory of console logs: %w", err), domains.Close())
	}
	publisher := &publish.Publisher{
		Cache: config.Cache, Key: key, Log: config.Log, Modules: bootimage.Modules,
		MaxChain: config.MaxLayers, MaxDelta: config.MaxDeltaPercent,
	}
	fleet := &vm.Fleet{
		Hypervisor: domains, Machine: on, Store: volumes, Key: key, Pool: config.Pool,
		Cache: config.Cache, ConsoleDir: consoles,
		BootDir:     filepath.Join(config.StateDir, "boot", config.Pool),
		AgentBinary: bootimage.Agent, Initramfs: bootimage.Initramfs, Offer: publisher.Offer, Log: config.Log,
	}
	publisher.Store, fleet.Deriver = withBootFiles{volumes, fleet}, publisher
	fleet.Collect = func(ctx context.Context) error { return publisher.Collect(ctx, fleet.InUse) }
	// What a process that was killed has left takes up space and nothing else, so this fails nothing.
	if !config.ReadOnly {
		if err := publisher.Resume(ctx, fleet.InUse); err != nil {
			publisher.Log.WarnContext(ctx,
				"what an interrupted deletion has left is still in the storage pool", "error", err)
		}
	}
	return &Host{Publisher: publisher, Fleet: fleet, Store: volumes, client: client, config: config,
		on: on, pool: volumes}, nil
}

// nothingSigned returns release.ErrKeyLost if the pool holds releases. A new operator key would make all of them, and
// the VMs that run them, somebody else's, so it is made only where there are none.
func nothingSigned(ctx context.Context, objects store.Objects, config Config) error {
	volumes, err := objects.ListObjects(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for releases in storage pool %q, before an operator key is made: %w", config.Pool, err)
	}
	signed := 0
	for _, volume := range volumes {
		if name, ok := store.ParseVolumeName(volume.Name); ok && name.Kind == store.ReleaseVolume {
			signed++
		}
	}
	if signed == 0 {
		return nil
	}
	return fmt.Errorf(
		"%w: there is no file %s, and storage pool %q holds %d releases, which an operator key has signed",
		release.ErrKeyLost,
		config.OperatorKey, config.Pool, signed)
}

// CheckPool returns why the storage pool cannot be used or created. It creates nothing. store.ErrConfig means that
// another pool, or another directory for it, has to be chosen.
func (h *Host) CheckPool(ctx context.Context) error {
	missing, err := h.pool.CheckPool(ctx)
	if err != nil || !missing {
		return err
	}
	err = h.on.CheckMakeDir(ctx, h.config.PoolPath)
	if errors.Is(err, fs.ErrPermission) {
		// libvirt makes the directory, and the system's runs as root.
		if root, rootErr := h.on.IsRoot(ctx); rootErr != nil ||
			!root && !strings.Contains(h.client.URI(), "///session") {
			return rootErr
		}
	}
	if err != nil {
		return fmt.Errorf("%w: storage pool %q cannot be created in the directory %s: %w", store.ErrConfig,
			h.config.Pool, h.config.PoolPath, err)
	}
	return nil
}

// RequirePool returns store.ErrNoPool if libvirt has no storage pool of the name. It creates
// nothing, and starts a pool that is off.
func (h *Host) RequirePool(ctx context.Context) error {
	missing, err := h.pool.CheckPool(ctx)
	if err == nil && missing {
		err = fmt.Errorf("storage pool %q: %w", h.config.Pool, store.ErrNoPool)
	}
	return err
}

// URI is that of the libvirt that the host is opened at.
func (h *Host) URI() string { return h.client.URI() }

// withBootFiles is a store that sweeps the files which VMs boot from (vm.Fleet.BootDir) together with its objects.
type withBootFiles struct {
	store.Store
	fleet *vm.Fleet
}

// Sweep implements store.Objects.
func (s withBootFiles) Sweep(ctx context.Context, keep map[tree.Digest]bool) ([]store.Volume, error) {
	volumes, err := s.Store.Sweep(ctx, keep)
	return volumes, errors.Join(err, s.fleet.SweepBootFiles(ctx))
}

// Close ends the connection to libvirt. VMs keep running.
func (h *Host) Close() error {
	return errors.Join(h.Fleet.Hypervisor.Close(), h.Store.Close(), h.client.Close())
}

func (c Config) withDefaults() (Config, error) {
	c.Pool = cmp.Or(c.Pool, "sharedos")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Cache == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return c, fmt.Errorf("find the user's cache directory (set cache in the provider block): %w", err)
		}
		c.Cache = filepath.Join(cache, "sharedos")
	}
	if c.OperatorKey == "" {
		configuration, err := os.UserConfigDir()
		if err != nil {
			return c, fmt.Errorf("find the user's configuration directory (set operator_key in the provider block): %w",
				err)
		}
		c.OperatorKey = filepath.Join(configuration, "sharedos", "operator.key")
	}
	if c.StateDir == "" {
		state, err := stateDir()
		if err != nil {
			return c, err
		}
		c.StateDir = state
	}
	c.PoolPath = cmp.Or(c.PoolPath, filepath.Join(c.StateDir, "pool"))
	return c, nil
}

func stateDir() (string, error) {
	if own := os.Getenv("SHAREDOS_STATE_DIR"); own != "" {
		return own, nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/sharedos", nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home directory for the state (set SHAREDOS_STATE_DIR): %w", err)
	}
	return filepath.Join(cmp.Or(os.Getenv("XDG_STATE_HOME"), filepath.Join(home, ".local", "state")), "sharedos"), nil
}

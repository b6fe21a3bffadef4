package bootimage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
	"github.com/xi2/xz"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// wanted are the modules that a VM needs, in the order in which they are loaded, without their dependencies.
var wanted = []wantedModule{
	{name: "virtio_pci"},
	{name: "virtio_blk"},
	// These accelerate hashing. They cannot be loaded if the processor lacks the instructions.
	{name: "sha256_ssse3", use: Optional},
	{name: "crc32c_intel", use: Optional},
	{name: "dm_mod"},
	{name: "dm_verity"},
	{name: "erofs"},
	{name: "overlay"},
	{name: "ext4"},
	{name: "vmw_vsock_virtio_transport"},
	{name: "virtio_net", use: Device},
	{name: "virtio_rng", use: Device, absent: true},
	{name: "virtio_balloon", use: Device, absent: true},
	{name: "virtio_pmem", use: Device, absent: true},
	{name: "nd_pmem", use: Device, absent: true},
}

// Use says whether and when init loads a module. The list in a modules archive has one module per line: its file,
// followed by its use unless that is Boot.
type Use string

// The uses of a module, the strictest first.
const (
	// Boot modules are loaded by init, which fails without them.
	Boot Use = ""
	// Optional modules are loaded by init if the machine supports them.
	Optional Use = "optional"
	// Device modules are left to udev, since loading each takes time. Init loads them only if the stack has no modules
	// for the running kernel, which can be the case after a refresh to another kernel release.
	Device Use = "device"
)

type wantedModule struct {
	name string
	use  Use
	// absent means that a kernel may lack the module. Optional modules may always be absent.
	absent bool
}

// binds ranks the uses: the largest is the strictest.
var binds = map[Use]int{Boot: 2, Optional: 1, Device: 0}

// ErrKernel means that a tree's kernel cannot boot a VM. The error lists everything that is missing.
var ErrKernel = errors.New("the kernel cannot boot a VM")

const (
	// modulesDir and loadOrder are the paths in the initramfs that package guestagent/boot reads.
	modulesDir = "modules"
	loadOrder  = modulesDir + "/load-order"
	// maxModule and maxIndex bound files of the tree in bytes.
	maxModule = 64 << 20
	maxIndex  = 16 << 20
)

// Modules returns an uncompressed cpio archive of the modules that a VM needs to boot the kernel release of a tree:
// decompressed, with their dependencies and a list of the order in which to load them. Modules that are built into the
// kernel are left out. The error is ErrKernel if something is missing.
func Modules(t *tree.Tree, kernelRelease string) ([]byte, error) {
	index, err := readIndex(t, kernelRelease)
	if err != nil {
		return nil, err
	}
	loads, missing := index.closure(wanted)
	lacking, err := missingOptions(t, kernelRelease)
	if err != nil {
		return nil, err
	}
	if missing = append(missing, lacking...); len(missing) > 0 {
		return nil, fmt.Errorf("%w: kernel %s lacks %s", ErrKernel, kernelRelease, strings.Join(missing, ", "))
	}

	records := []cpio.Record{directory(modulesDir, 0o755)}
	var order strings.Builder
	for _, load := range loads {
		data, err := readModule(t, path.Join(index.directory, load.path))
		if err != nil {
			return nil, err
		}
		name := load.name + ".ko"
		order.WriteString(name)
		if load.use != Boot {
			order.WriteString(" " + string(load.use))
		}
		order.WriteByte('\n')
		records = append(records, file(path.Join(modulesDir, name), data, 0o644))
	}
	records = append(records, file(loadOrder, []byte(order.String()), 0o644))
	var archive bytes.Buffer
	if err := writeArchive(&archive, records); err != nil {
		return nil, fmt.Errorf("write modules of kernel %s: %w", kernelRelease, err)
	}
	return archive.Bytes(), nil
}

// missingOptions returns the required kernel options that no module can provide and that the kernel's configuration
// lacks. It returns none if the tree has no configuration.
func missingOptions(t *tree.Tree, kernelRelease string) ([]string, error) {
	config, found, err := readFile(t, "boot/config-"+kernelRelease, maxIndex)
	if err != nil || !found {
		return nil, err
	}
	var missing []string
	for _, option := range []string{"CONFIG_RD_ZSTD", "CONFIG_DEVTMPFS"} {
		if !bytes.Contains(config, []byte("\n"+option+"=y\n")) {
			missing = append(missing, option+"=y")
		}
	}
	return missing, nil
}

// readModule reads and decompresses a module. The initramfs is compressed as a whole.
func readModule(t *tree.Tree, name string) ([]byte, error) {
	packed, found, err := readFile(t, name, maxModule)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("%w: modules.dep names %s, which is not in the tree: run depmod on it", ErrKernel, name)
	}
	var plain io.Reader = bytes.NewReader(packed)
	switch path.Ext(name) {
	case ".ko":
	case ".xz":
		plain, err = xz.NewReader(plain, maxModule)
	case ".gz":
		plain, err = gzip.NewReader(plain)
	case ".zst":
		var decoder *zstd.Decoder
		if decoder, err = zstd.NewReader(plain, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(maxModule)); err == nil {
			defer decoder.Close()
			plain = decoder
		}
	default:
		return nil, fmt.Errorf("module %s: compression %q is not supported", name, path.Ext(name))
	}
	if err != nil {
		return nil, fmt.Errorf("decompress module %s: %w", name, err)
	}
	data, err := io.ReadAll(io.LimitReader(plain, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("decompress module %s: %w", name, err)
	}
	if len(data) > maxModule {
		return nil, fmt.Errorf("decompress module %s: more than %d bytes", name, maxModule)
	}
	return data, nil
}

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

// wanted are the modules that a guest needs, in load order; their dependencies come before them.
var wanted = []wantedModule{
	{name: "virtio_pci"},
	{name: "virtio_blk"},
	// Hashing without these is slower on real hardware; a processor without the instructions refuses them.
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

// Use is when and whether init loads a module. The list of a modules archive has one module a line: its file,
// then its use unless that is Boot.
type Use string

// The uses of a module, from the one that binds most.
const (
	// Boot modules are loaded by init, which does not go on without them.
	Boot Use = ""
	// Optional modules are loaded by init if the machine takes them.
	Optional Use = "optional"
	// Device modules are left to udev, since each takes time, unless the stack has none for the running kernel: after
	// a refresh to another kernel release they may be found nowhere but here.
	Device Use = "device"
)

type wantedModule struct {
	name string
	use  Use
	// absent: a kernel without it boots all the same. Optional modules may always be absent.
	absent bool
}

// binds is the order of uses.
var binds = map[Use]int{Boot: 2, Optional: 1, Device: 0}

// ErrKernel means that a tree's kernel cannot boot a VM. The error names all that is missing.
var ErrKernel = errors.New("the kernel cannot boot a VM")

const (
	// modulesDir and loadOrder are where package guestagent/boot looks in the initramfs.
	modulesDir = "modules"
	loadOrder  = modulesDir + "/load-order"
	// maxModule and maxIndex bound what is read of a tree, in bytes.
	maxModule = 64 << 20
	maxIndex  = 16 << 20
)

// Modules returns an uncompressed cpio archive of the modules that a guest needs to boot the kernel release of a
// tree, decompressed, with their dependencies and a list of the order in which to load them. Modules that are
// built into the kernel are left out. ErrKernel names everything that is missing.
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

// missingOptions names what the kernel's own configuration, if the tree has it, says is not there and no module
// can bring: the initramfs is packed with zstd.
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

// readModule reads a module and decompresses it, so that the initramfs is compressed once and as a whole.
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
		if decoder, err = zstd.NewReader(plain, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule)); err == nil {
			defer decoder.Close()
			plain = decoder
		}
	default:
		return nil, fmt.Errorf("module %s: compression %q is not known", name, path.Ext(name))
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

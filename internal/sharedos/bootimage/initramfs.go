package bootimage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

// maxArchive bounds a modules archive in bytes.
const maxArchive = 256 << 20

// Initramfs returns a zstd-compressed initramfs that consists of the agent as /init and the modules of an archive made
// by Modules.
func Initramfs(agent, modules []byte) ([]byte, error) {
	if len(agent) == 0 {
		return nil, fmt.Errorf("write initramfs: %w", ErrNoAgent)
	}
	records := []cpio.Record{
		directory("dev", 0o755),
		// The kernel opens the console for init before init mounts anything.
		cpio.CharDev("dev/console", 0o600, 5, 1),
		directory("proc", 0o755),
		directory("sys", 0o755),
		directory("run", 0o755),
		file("init", agent, 0o755),
	}
	loaded, err := readModules(modules)
	if err != nil {
		return nil, fmt.Errorf("write initramfs: %w", err)
	}
	var packed bytes.Buffer
	// With more than one encoder goroutine, the output would depend on the machine. The best level
	// takes ten times as long, for a twelfth fewer bytes.
	encoder, err := zstd.NewWriter(&packed, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(zstdWindow))
	if err != nil {
		return nil, fmt.Errorf("write initramfs: %w", err)
	}
	if err := writeArchive(encoder, append(records, loaded...)); err != nil {
		return nil, fmt.Errorf("write initramfs: %w", errors.Join(err, encoder.Close()))
	}
	if err := encoder.Close(); err != nil {
		return nil, fmt.Errorf("write initramfs: %w", err)
	}
	return packed.Bytes(), nil
}

// zstdWindow is in bytes. The kernel allocates that much; it supports up to 128 MiB.
const zstdWindow = 16 << 20

// readModules reads an archive made by Modules. It refuses files that would be elsewhere in the initramfs.
func readModules(archive []byte) ([]cpio.Record, error) {
	if len(archive) > maxArchive {
		return nil, fmt.Errorf("modules archive of %d bytes: at most %d are read", len(archive), maxArchive)
	}
	var records []cpio.Record
	for reader := cpio.Newc.Reader(bytes.NewReader(archive)); ; {
		record, err := reader.ReadRecord()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read modules archive: %w", err)
		}
		kind := record.Mode & cpio.S_IFMT
		inside := record.Name == modulesDir && kind == cpio.S_IFDIR ||
			path.Dir(record.Name) == modulesDir && kind == cpio.S_IFREG
		if !inside {
			return nil, fmt.Errorf("read modules archive: %q does not belong in it", record.Name)
		}
		if int64(record.FileSize) > int64(len(archive))-record.FilePos {
			return nil, fmt.Errorf("read modules archive: %q ends after the archive", record.Name)
		}
		records = append(records, record)
	}
	if len(records) == 0 {
		return nil, errors.New("read modules archive: it is empty")
	}
	return records, nil
}

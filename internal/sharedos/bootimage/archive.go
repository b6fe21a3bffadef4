package bootimage

import (
	"io"

	"github.com/u-root/u-root/pkg/cpio"
)

// Records carry no owner but root and no time, so that equal content gives equal archives.

func directory(name string, mode uint64) cpio.Record { return cpio.Directory(name, mode) }

func file(name string, data []byte, mode uint64) cpio.Record {
	return cpio.StaticFile(name, string(data), mode)
}

// writeArchive writes a cpio archive in the "newc" form; see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst.
func writeArchive(w io.Writer, records []cpio.Record) error {
	writer := cpio.Newc.Writer(w)
	for i, record := range records {
		// The kernel takes files of several links with equal inode numbers for one file.
		record.Ino = uint64(i + 1)
		record.NLink = 1
		if err := writer.WriteRecord(record); err != nil {
			return err
		}
	}
	return cpio.WriteTrailer(writer)
}

package bootimage

import (
	"io"

	"github.com/u-root/u-root/pkg/cpio"
)

// Records have the owner root and no time, so equal contents yield equal archives.

func directory(name string, mode uint64) cpio.Record { return cpio.Directory(name, mode) }

func file(name string, data []byte, mode uint64) cpio.Record {
	return cpio.StaticFile(name, string(data), mode)
}

// writeArchive writes a cpio archive in the "newc" format; see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst.
func writeArchive(w io.Writer, records []cpio.Record) error {
	writer := cpio.Newc.Writer(w)
	for i, record := range records {
		// Records with the same inode number and several links would be hard links.
		record.Ino = uint64(i + 1)
		record.NLink = 1
		if err := writer.WriteRecord(record); err != nil {
			return err
		}
	}
	return cpio.WriteTrailer(writer)
}

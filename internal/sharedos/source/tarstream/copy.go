package tarstream

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
)

// Copy copies the entries of a stream to another, which it does not end, but for those that keep
// leaves out. keep gets the path of each entry with its header, and its error ends the copying.
func Copy(out *tar.Writer, from *Scanner, keep func(path string, header *tar.Header) (bool, error)) error {
	buffer := make([]byte, CopyBuffer)
	for {
		header, err := from.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		at, err := Path(header)
		if err != nil {
			return err
		}
		if kept, err := keep(at, header); err != nil || !kept {
			if err != nil {
				return err
			}
			continue
		}
		if header.Typeflag == tar.TypeGNUSparse {
			header.Typeflag = tar.TypeReg // its holes are read as zeros
		}
		header.Format = tar.FormatPAX
		if err := out.WriteHeader(header); err != nil {
			return fmt.Errorf("%q: %w", header.Name, err)
		}
		if _, err := io.CopyBuffer(out, from, buffer); err != nil {
			return fmt.Errorf("%q: %w", header.Name, err)
		}
	}
}

package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
)

// growTar writes an archive with at least the given number of bytes of content: an existing archive, and copies of
// it below /usr/copy-N whose files differ from all others in their first bytes.
func growTar(from string, content int64, w io.Writer) error {
	to := tar.NewWriter(w)
	for copies := 0; content > 0; copies++ {
		var err error
		if content, err = copyTar(from, copies, content, to); err != nil {
			return fmt.Errorf("grow %s: %w", from, err)
		}
	}
	return to.Close()
}

// copyTar writes one copy, the first one completely, and returns how many bytes of content are still missing.
func copyTar(from string, number int, left int64, to *tar.Writer) (_ int64, err error) {
	file, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	for r := tar.NewReader(file); number == 0 || left > 0; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		mark := ""
		if number > 0 {
			below := fmt.Sprintf("usr/copy-%d", number)
			mark = fmt.Sprintf("%08d", number)
			header.Name = path.Join(below, header.Name)
			if header.Typeflag == tar.TypeLink {
				header.Linkname = path.Join(below, header.Linkname)
			}
		}
		mark = mark[:min(int64(len(mark)), header.Size)]
		if err := to.WriteHeader(header); err != nil {
			return 0, err
		}
		if _, err := io.CopyN(io.Discard, r, int64(len(mark))); err != nil {
			return 0, err
		}
		if _, err := io.WriteString(to, mark); err != nil {
			return 0, err
		}
		if _, err := io.Copy(to, r); err != nil {
			return 0, err
		}
		left -= header.Size
	}
	return left, nil
}

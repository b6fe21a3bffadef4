package fileio

import (
	"bytes"
	"os"
)

// hole is the least that is left out, in bytes: a block of the usual file systems.
const hole = 4096

var zeros [hole]byte

// Sparse writes a new file from its start to its end, and leaves out blocks of zeros, which become
// holes. End completes the file.
type Sparse struct {
	file *os.File
	at   int64
}

// NewSparse returns a writer for an empty file.
func NewSparse(file *os.File) *Sparse { return &Sparse{file: file} }

// Write implements io.Writer.
func (s *Sparse) Write(p []byte) (written int, err error) {
	for written < len(p) {
		part := p[written:]
		data := 0 // how much of it has to be written
		for data < len(part) {
			block := part[data:min(len(part), data+int(hole-(s.at+int64(data))%hole))]
			if len(block) == hole && bytes.Equal(block, zeros[:]) {
				break
			}
			data += len(block)
		}
		if data == 0 {
			data = hole
		} else if _, err := s.file.WriteAt(part[:data], s.at); err != nil {
			return written, err
		}
		s.at += int64(data)
		written += data
	}
	return written, nil
}

// End gives the file its length, which a hole at its end does not do.
func (s *Sparse) End() error { return s.file.Truncate(s.at) }

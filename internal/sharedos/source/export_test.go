package source

import (
	"bufio"
	"io"
	"testing"
	"time"
)

// ErrSilent is what ends a connection on which nothing comes.
var ErrSilent = errSilent

// SetSilence sets, for one test, how many milliseconds the other side of a connection may send nothing.
func SetSilence(t *testing.T, milliseconds int) {
	t.Helper()
	before := silence
	silence = time.Duration(milliseconds) * time.Millisecond
	t.Cleanup(func() { silence = before })
}

// Unpack unpacks what may be an archive.
func Unpack(file io.Reader) (io.Reader, func(), error) { return unpack(bufio.NewReader(file)) }

package fetch

import (
	"testing"
	"time"
)

// ErrSilent is the error of a connection on which nothing arrives.
var ErrSilent = errSilent

// SetSilence sets, for one test, how many milliseconds a server may send nothing.
func SetSilence(t *testing.T, milliseconds int) {
	t.Helper()
	before := silence
	silence = time.Duration(milliseconds) * time.Millisecond
	t.Cleanup(func() { silence = before })
}

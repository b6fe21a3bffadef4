// Package source reads an operating system in the form that its owner has it and yields a normalised tree.
//
// Each kind of source yields one tar stream; everything after that is the same for all of them.
package source

import (
	"context"
	"io"
)

// Progress is told what is being done, and how far it is when that is known (total 0: unknown).
// It may be called often and must return at once.
type Progress func(step string, done, total int64)

// Source is one way to get a root file system.
type Source interface {
	// Fingerprint names the input: equal fingerprints mean equal trees. It is cheap next to Open: a file is
	// identified by path, size, modification time and inode and hashed only once per identity.
	Fingerprint(ctx context.Context) (string, error)
	// ReadableAtPlan reports whether Open takes seconds and changes nothing, so that a plan may call it.
	ReadableAtPlan() bool
	// Open yields an uncompressed tar stream of the root file system. Close reports what ended the stream early.
	Open(ctx context.Context, progress Progress) (io.ReadCloser, error)
}

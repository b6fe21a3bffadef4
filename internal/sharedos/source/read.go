package source

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Read is an operating system as read from a source. Close frees the spool that the trees' contents lie in.
type Read struct {
	// Tree is normalised: it is what a release shares.
	Tree *tree.Tree
	// Full is the tree as the source had it, with /boot. The kernel image and its modules are read from it.
	Full   *tree.Tree
	Kernel KernelInfo
	// Architecture is Debian's name of it: "amd64".
	Architecture string
	// OS is the PRETTY_NAME of os-release.
	OS string
	// Packages are sorted by name.
	Packages []release.Package
	// Users and Groups map account names to numbers.
	Users, Groups map[string]uint32

	spool io.Closer
}

// OpenKernel opens the kernel image.
func (r *Read) OpenKernel() (io.ReadCloser, error) { return r.Open(r.Kernel.ImagePath) }

// Open opens a regular file of the full tree, for instance a module below Kernel.ModulesDir.
func (r *Read) Open(path string) (io.ReadCloser, error) {
	file, _, err := r.Full.OpenFile(path)
	return file, err
}

// Close frees the spool. Neither tree's content can be opened after it.
func (r *Read) Close() error { return r.spool.Close() }

// ReadTree opens a source and yields all that a release needs of it. The contents lie in a file in spoolDir that
// has no name and goes with Close or with the process. A tree that cannot boot is refused with all that it lacks.
//
// A source can change between Fingerprint and ReadTree: who keys something by the fingerprint asks for it once more
// afterwards and compares.
func ReadTree(ctx context.Context, src Source, spoolDir string, progress Progress) (_ *Read, err error) {
	stream, err := src.Open(ctx, progress)
	if err != nil {
		return nil, err
	}
	var limits Limits
	if l, ok := src.(interface{ TarLimits() Limits }); ok {
		limits = l.TarLimits()
	}
	full, spool, err := ReadTar(ctx, stream, spoolDir, limits)
	// What ended the stream explains a tar that is cut off, so it comes first.
	if closeErr := stream.Close(); closeErr != nil {
		err = errors.Join(closeErr, err)
	}
	if err != nil {
		if spool != nil {
			err = errors.Join(err, spool.Close())
		}
		return nil, named(src, err)
	}
	r := &Read{Full: full, spool: spool}
	if err := r.describe(); err != nil {
		return nil, named(src, errors.Join(err, spool.Close()))
	}
	return r, nil
}

// sourceError names the source that a failure is about.
type sourceError struct {
	source fmt.Stringer
	err    error
}

func (e *sourceError) Error() string { return fmt.Sprintf("read %s: %s", e.source, e.err) }
func (e *sourceError) Unwrap() error { return e.err }

// named makes an error name its source, if it does not and the source can tell.
func named(src Source, err error) error {
	s, ok := src.(fmt.Stringer)
	if done := (*sourceError)(nil); !ok || errors.As(err, &done) {
		return err
	}
	return &sourceError{source: s, err: err}
}

// describe fills in all that follows from the full tree.
func (r *Read) describe() (err error) {
	if r.Kernel, err = CheckBootable(r.Full); err != nil {
		return err
	}
	if r.Architecture, err = Architecture(r.Full); err != nil {
		return err
	}
	if r.OS, err = OSRelease(r.Full); err != nil {
		return err
	}
	if r.Packages, err = Packages(r.Full); err != nil {
		return err
	}
	if r.Users, r.Groups, err = Accounts(r.Full); err != nil {
		return err
	}
	if r.Tree, err = Normalise(r.Full); err != nil {
		return fmt.Errorf("normalise: %w", err)
	}
	return nil
}

// Package rootfs reads the root file system of an operating system from a source, verifies that a VM can boot from it,
// describes it, and normalises it into the tree that a release shares.
//
// What rpm records is read by package rpmdb, which is ours; see there.
package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// System is an operating system as it was read from a source. Its trees can be read until Close.
type System struct {
	// Tree is the normalised tree, which a release shares.
	Tree *tree.Tree
	// Full is the tree as the source has it, except for what Notes say, including /boot. The kernel
	// image and its modules are read from it.
	Full   *tree.Tree
	Kernel KernelInfo
	// Architecture has Debian's name: "amd64".
	Architecture string
	// OS is the PRETTY_NAME of os-release(5).
	OS string
	// Packages are sorted by name.
	Packages []release.Package
	// Users and Groups map account names to numbers.
	Users, Groups map[string]uint32
	// Secrets are the files that the build has made and that Tree does not have, sorted by path.
	Secrets []Secret
	// Notes say what was corrected in both trees, since a VM would be unsafe or broken with it, or cannot have it: the
	// first path, and what was corrected.
	Notes []string
	// Needs is what files of an addition need and the tree does not have.
	Needs []release.Need

	spool io.Closer
}

// OpenKernel opens the kernel image.
func (s *System) OpenKernel() (io.ReadCloser, error) { return s.Open(s.Kernel.ImagePath) }

// Open opens a regular file of the full tree, for example a module below Kernel.ModulesDir.
func (s *System) Open(path string) (io.ReadCloser, error) {
	file, _, err := s.Full.OpenFile(path)
	return file, err
}

// Close frees the contents of both trees.
func (s *System) Close() error {
	if s.spool == nil { // it was not read from a source
		return nil
	}
	return s.spool.Close()
}

// Read reads an operating system from a source. The contents of its files are stored in an unnamed file in spoolDir,
// which disappears with Close or with the process. If the tree cannot boot, the error is a *MissingError.
//
// sharedSecrets are absolute paths of files that look like secrets of one machine and are to be shared nevertheless.
//
// A source can change between Fingerprint and Read. A caller that stores the result under the fingerprint must compute
// the fingerprint again afterwards and compare.
func Read(ctx context.Context, src source.Source, spoolDir string, progress source.Progress,
	sharedSecrets ...string) (*System, error) {
	return readSystem(ctx, src, spoolDir, progress,
		func(s *System, given []string) error { return s.describe(sharedSecrets, given) })
}

func readSystem(ctx context.Context, src source.Source, spoolDir string, progress source.Progress,
	describe func(*System, []string) error) (*System, error) {
	stream, err := src.Open(ctx, progress)
	if err != nil {
		return nil, err
	}
	var limits source.Limits
	if l, ok := src.(interface{ TarLimits() source.Limits }); ok {
		limits = l.TarLimits()
	}
	full, spool, err := tarstream.Read(ctx, stream, spoolDir, limits)
	// The cause for which the stream ended early explains a truncated tar, so it comes first.
	if closeErr := stream.Close(); closeErr != nil {
		if err == nil {
			err = spool.Close()
		}
		if errors.Is(err, closeErr) {
			err = closeErr // the reader got the same
		} else {
			err = errors.Join(closeErr, err)
		}
	}
	if err != nil {
		return nil, wrap(src, err)
	}
	s := &System{Full: full, spool: spool}
	var given []string
	if g, ok := src.(interface{ Given() []string }); ok {
		given = g.Given()
	}
	if err := describe(s, given); err != nil {
		return nil, wrap(src, errors.Join(err, spool.Close()))
	}
	return s, nil
}

// ReadAddition is Read for the whole tree of a base with an addition, from Addition.On. It has no kernel, and Secrets
// and Notes are only those of what was added. base is the base's normalised tree.
func ReadAddition(ctx context.Context, src source.Source, base *tree.Tree, spoolDir string, progress source.Progress,
	sharedSecrets ...string) (*System, error) {
	return readSystem(ctx, src, spoolDir, progress, func(s *System, given []string) error {
		return s.describeAddition(base, sharedSecrets, given)
	})
}

// wrap names the source in an error if the source has a name.
func wrap(src source.Source, err error) error {
	if named, ok := src.(fmt.Stringer); ok {
		return source.Wrap(named, err)
	}
	return err
}

// isImage reports whether a tree is an image as container engines save it, in the OCI image layout
// or in Docker's format.
func isImage(t *tree.Tree) bool {
	_, layout := t.Lookup("oci-layout")
	_, saved := t.Lookup("manifest.json")
	_, usr := t.Lookup("usr")
	return (layout || saved) && !usr
}

// describe derives all other fields from the full tree.
func (s *System) describe(sharedSecrets, given []string) (err error) {
	if isImage(s.Full) {
		return fmt.Errorf(
			"%w: it is not a root file system but a file with a container image: use oci = { layout = PATH } with it",
			ErrNotBootable)
	}
	if s.Kernel, err = CheckBootable(s.Full); err != nil {
		return err
	}
	return s.describeSystem(sharedSecrets, given)
}

// describeAddition is describe for the tree of a base with an addition.
func (s *System) describeAddition(base *tree.Tree, sharedSecrets, given []string) error {
	if err := sameKernels(base, s.Full); err != nil {
		return err
	}
	// What looks like a secret in the base is one that the base shares on purpose.
	for _, e := range base.Entries {
		if is, ok := s.Full.Lookup(e.Path); ok && e.Type == tree.Regular && tree.Equal(*is, e) {
			sharedSecrets = append(sharedSecrets, "/"+e.Path)
		}
	}
	if err := s.describeSystem(sharedSecrets, given); err != nil {
		return err
	}
	notes, lacking, err := needs(base, s.Full, s.Architecture)
	s.Notes, s.Needs = append(s.Notes, notes...), lacking
	return err
}

// sameKernels returns an error if an addition brings a kernel: a VM boots that of the base.
func sameKernels(base, full *tree.Tree) error {
	for _, e := range full.Entries {
		release, ok := strings.CutPrefix(e.Path, modulesDir+"/")
		if !ok || e.Type != tree.Directory || strings.Contains(release, "/") {
			continue
		}
		if _, known := base.Lookup(e.Path); !known {
			return fmt.Errorf(
				"it brings kernel %s, and a VM boots the kernel of its base: %w; add the kernel's package to the base",
				release, source.ErrRefused)
		}
	}
	return nil
}

// describeSystem derives the fields that a base and an addition have.
func (s *System) describeSystem(sharedSecrets, given []string) (err error) {
	if s.Architecture, err = Architecture(s.Full); err != nil {
		return err
	}
	if s.OS, err = OSRelease(s.Full); err != nil {
		return err
	}
	if s.Packages, err = Packages(s.Full); err != nil {
		return err
	}
	if s.Users, s.Groups, err = Accounts(s.Full); err != nil {
		return err
	}
	if s.Notes, err = mend(s.Full, s.Users, s.Groups); err != nil {
		return err
	}
	if s.Secrets, err = findSecrets(s.Full, sharedSecrets); err != nil {
		return err
	}
	public, err := leaveOut(s.Full, s.Secrets, s.Users, s.Groups)
	if err != nil {
		return fmt.Errorf("leave out secrets: %w", err)
	}
	if s.Tree, err = Normalise(public, given...); err != nil {
		return fmt.Errorf("normalise: %w", err)
	}
	return nil
}

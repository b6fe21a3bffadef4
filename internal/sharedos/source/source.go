// Package source defines how an operating system is read from where its owner keeps it.
//
// Each kind of input has a package of its own that implements Source: debian (an archive of Debian packages), archive
// (a tar file), oci (a container image), directory (a directory of this machine) and diskimage (the image of a disk).
// Each yields one tar stream. Package rootfs turns that stream into the tree and the facts that a release is made of,
// in the same way for all kinds. The kinds share packages tarstream (tar streams as trees) and cache (files that are
// kept between runs).
//
// Imports point one way: the kinds and rootfs import tarstream and cache, and those import this package.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Progress receives the current step of a long operation, and how many bytes of it are done. A total of 0 means that
// the total is not known. It may be called often and must return at once.
type Progress func(step string, done, total int64)

// Counter returns a function that adds to the bytes done of a step, and reports them once per MiB and at the end. A
// total of 0 is unknown. The Progress may be nil.
func (p Progress) Counter(step string, total int64) func(more int64) {
	var done, reported int64
	return func(more int64) {
		done += more
		if p == nil || done-reported < 1<<20 && (total == 0 || done != total) {
			return
		}
		reported = done
		if total > 0 {
			p(step, min(done, total), total)
		} else {
			p(step, done, 0)
		}
	}
}

// Source is one way to get a root file system.
type Source interface {
	// Fingerprint identifies the input: equal fingerprints mean equal trees. It is cheap compared to Open: a file is
	// hashed once, and afterwards recognised by its inode, size and times.
	Fingerprint(ctx context.Context) (string, error)
	// Open returns the root file system as an uncompressed tar stream. It downloads and makes what it needs into the
	// cache of this machine and changes nothing else, so that a plan may call it. If the stream ends early, Close
	// returns the cause.
	Open(ctx context.Context, progress Progress) (io.ReadCloser, error)
}

// Addition is what a component adds to an operating system.
type Addition interface {
	// On returns the source of the whole tree: the base's, with the addition. Its fingerprint identifies the addition
	// only. It reads little of the base's content. The source can be used as long as the base.
	On(ctx context.Context, base Base) (Source, error)
}

// Base is the operating system that an Addition is for.
type Base struct {
	// Name of the base, for messages.
	Name string
	// Tree is the normalised tree of a release.
	Tree *tree.Tree
}

var (
	// ErrCorrupt means that an input is damaged, truncated, or does not match its digest.
	ErrCorrupt = errors.New("damaged or cut off")
	// ErrRefused means that an input contains something that no tree may contain, or needs more memory to decompress
	// than is allowed.
	ErrRefused = errors.New("refused")
	// ErrLimit means that an input exceeds its Limits.
	ErrLimit = errors.New("over the limit")
	// ErrMalformed means that a file does not have the format that its name promises.
	ErrMalformed = errors.New("malformed")
	// ErrChanged means that a file was modified while it was read.
	ErrChanged = errors.New("it changed while it was read: try again when nothing writes to it")
	// ErrRequirement means that this machine lacks a program, a device or a privilege that the source needs.
	ErrRequirement = errors.New("a requirement is missing")
)

// The default limits.
const (
	DefaultContentLimit  = 16 << 30
	DefaultEntriesLimit  = 1_000_000
	DefaultMetadataLimit = 1 << 30
)

// Limits bound what a root file system may contain. Zero means the default.
type Limits struct {
	// Content is the size in bytes of all regular files together, duplicates included; default 16 GiB.
	Content int64
	// Entries is the number of files and directories; default 1,000,000.
	Entries int
	// Metadata is the size in bytes of paths, link targets and extended attributes together; default 1 GiB.
	Metadata int64
}

// OrDefault returns the limits with defaults in place of zeros.
func (l Limits) OrDefault() Limits {
	if l.Content == 0 {
		l.Content = DefaultContentLimit
	}
	if l.Entries == 0 {
		l.Entries = DefaultEntriesLimit
	}
	if l.Metadata == 0 {
		l.Metadata = DefaultMetadataLimit
	}
	return l
}

// CheckContent returns ErrLimit, with what to do about it, if a content of a size in bytes is over the limit.
func (l Limits) CheckContent(size int64) error {
	if size <= l.Content {
		return nil
	}
	return fmt.Errorf("more than %d bytes of content: %w; raise the limit if this is meant to be one operating system",
		l.Content, ErrLimit)
}

// Error is a failure to read a source. It names the source.
type Error struct {
	source fmt.Stringer
	err    error
}

// Wrap returns an *Error that names the source, or err itself if it is nil or names a source already.
func Wrap(source fmt.Stringer, err error) error {
	if named := (*Error)(nil); err == nil || errors.As(err, &named) {
		return err
	}
	return &Error{source: source, err: err}
}

func (e *Error) Error() string { return fmt.Sprintf("read %s: %s", e.source, e.err) }

func (e *Error) Unwrap() error { return e.err }

// Shorten cuts a text of foreign origin to a length that an error message can hold.
func Shorten(text string) string {
	const most = 80
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}

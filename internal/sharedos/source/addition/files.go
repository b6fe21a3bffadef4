// Package addition lays the files of a source over an operating system: that is what a component adds to a base.
package addition

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Files is an addition that consists of the files of a source, such as an archive or a directory, which need not be an
// operating system. They replace those of the base with the same path. Directories that the base has keep the owner and
// the mode that they have there.
type Files struct{ Source source.Source }

// On implements source.Addition.
func (f Files) On(_ context.Context, base source.Base) (source.Source, error) {
	return &overlaid{f.Source, base}, nil
}

// overlaid is a source over a base.
type overlaid struct {
	source.Source
	base source.Base
}

// String names the source for a user.
func (o *overlaid) String() string {
	if named, ok := o.Source.(fmt.Stringer); ok {
		return named.String()
	}
	return "the files of a component"
}

// TarLimits returns the limits of the stream that Open returns.
func (o *overlaid) TarLimits() source.Limits {
	if limited, ok := o.Source.(interface{ TarLimits() source.Limits }); ok {
		return limited.TarLimits()
	}
	return source.Limits{}
}

// Inputs describes the parts of the input that can change by themselves.
func (o *overlaid) Inputs(ctx context.Context) (map[string]string, error) {
	if described, ok := o.Source.(interface {
		Inputs(ctx context.Context) (map[string]string, error)
	}); ok {
		return described.Inputs(ctx)
	}
	return nil, nil
}

// Open implements source.Source: the base's entries come first, and of two entries of one path the later one counts.
func (o *overlaid) Open(ctx context.Context, progress source.Progress) (io.ReadCloser, error) {
	stream, err := o.Source.Open(ctx, progress)
	if err != nil {
		return nil, err
	}
	return tarstream.Pipe(ctx, o, func(ctx context.Context, out *tar.Writer) (err error) {
		defer func() { err = errors.Join(err, stream.Close()) }()
		if err := tarstream.WriteTree(ctx, out, o.base.Tree); err != nil {
			return fmt.Errorf("read base %q: %w", o.base.Name, err)
		}
		return o.lay(ctx, out, stream)
	}), nil
}

// lay copies the entries of the source.
func (o *overlaid) lay(ctx context.Context, out *tar.Writer, from io.Reader) error {
	scan := tarstream.NewScanner(ctx, from, o.TarLimits(), tarstream.Usage{})
	return tarstream.Copy(out, scan, o.takes)
}

// takes reports whether an entry of the source is taken; a directory is not if the base has it. It returns an error if
// the entry would hide what the base needs.
func (o *overlaid) takes(at string, header *tar.Header) (bool, error) {
	below, there := o.base.Tree.Lookup(at)
	if !there {
		return true, nil
	}
	directory := header.Typeflag == tar.TypeDir
	switch {
	case below.Type == tree.Directory && directory:
		return false, nil
	case below.Type == tree.Directory:
		return false, fmt.Errorf(
			"/%s is a directory in base %q, and the component has a file there, which would hide all that is in it: "+
				"%w; give the file another path", at, o.base.Name, source.ErrRefused)
	case below.Type == tree.Symlink && directory:
		return false, fmt.Errorf(
			"/%s is a link to %q in base %q, and the component has a directory there, which would hide what the link "+
				"leads to: %w; move its files to /%s", at, below.Link, o.base.Name, source.ErrRefused,
			strings.TrimPrefix(below.Link, "/"))
	case below.Type == tree.Symlink && tree.Parent(at) == tree.Root:
		return false, fmt.Errorf(
			"/%s is a link to %q in base %q, which the OS needs: %w; leave it out of the component",
			at, below.Link, o.base.Name, source.ErrRefused)
	}
	return true, nil
}

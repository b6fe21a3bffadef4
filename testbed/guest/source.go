package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/addition"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// edited is an archive with edits, as a source. The edited archive is never stored.
type edited struct {
	path  string
	edits []Edit
}

var _ source.Source = (*edited)(nil)

// Fingerprint implements source.Source. The archives of DebianTar are named by what they are made from.
func (e *edited) Fingerprint(context.Context) (string, error) {
	lines := make([]string, len(e.edits))
	for i, edit := range e.edits {
		lines[i] = edit.String()
	}
	return "edited:" + e.path + ":" + tree.Sum([]byte(strings.Join(lines, "\n"))).String(), nil
}

// String names the source.
func (e *edited) String() string { return fmt.Sprintf("%s with %d edits", e.path, len(e.edits)) }

// Open implements source.Source.
func (e *edited) Open(context.Context, source.Progress) (io.ReadCloser, error) {
	file, err := os.Open(e.path)
	if err != nil {
		return nil, fmt.Errorf("open the archive to edit: %w", err)
	}
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := Apply(file, writer, e.edits)
		done <- errors.Join(err, writer.CloseWithError(err), file.Close())
	}()
	return &editedStream{reader, done}, nil
}

type editedStream struct {
	*io.PipeReader
	done chan error
}

// Close ends the stream and waits for its writer.
func (s *editedStream) Close() error {
	err := errors.Join(s.PipeReader.Close(), <-s.done)
	if errors.Is(err, io.ErrClosedPipe) {
		return nil // the reader stopped early, on purpose
	}
	return err
}

// Files are files that a component adds, made by edits.
func Files(edits ...Edit) source.Addition { return addition.Files{Source: &files{edits}} }

// files is a source of nothing but edits.
type files struct{ edits []Edit }

// Fingerprint implements source.Source.
func (f *files) Fingerprint(context.Context) (string, error) {
	lines := make([]string, len(f.edits))
	for i, edit := range f.edits {
		lines[i] = edit.String()
	}
	return "files:" + tree.Sum([]byte(strings.Join(lines, "\n"))).String(), nil
}

// Open implements source.Source.
func (f *files) Open(context.Context, source.Progress) (io.ReadCloser, error) {
	var made bytes.Buffer
	if err := Apply(strings.NewReader(""), &made, f.edits); err != nil {
		return nil, err
	}
	return io.NopCloser(&made), nil
}

package tarstream

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// WriteTree writes all entries of a tree to a stream, which it does not end.
func WriteTree(ctx context.Context, out *tar.Writer, t *tree.Tree) error {
	buffer := make([]byte, CopyBuffer)
	for i := range t.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := writeEntry(out, t, &t.Entries[i], buffer); err != nil {
			return fmt.Errorf("%q: %w", t.Entries[i].Path, err)
		}
	}
	return nil
}

func writeEntry(out *tar.Writer, t *tree.Tree, e *tree.Entry, buffer []byte) (err error) {
	if err := out.WriteHeader(Header(*e)); err != nil || e.Type != tree.Regular || e.Size == 0 {
		return err
	}
	file, err := t.Content.Open(e.Digest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = io.CopyBuffer(out, file, buffer)
	return err
}

package source_test

import (
	"context"
	"errors"
	"os"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func must(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// readSource reads a source's stream as a tree, which need not boot. What it returns last frees it.
func readSource(t fataler, src source.Source) (*tree.Tree, func() error, error) {
	t.Helper()
	ctx := context.Background()
	stream, err := src.Open(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "spool-")
	must(t, err)
	tr, closer, err := source.ReadTar(ctx, stream, dir, source.Limits{})
	if err = errors.Join(stream.Close(), err, os.Remove(dir)); err != nil {
		return nil, nil, err
	}
	return tr, closer.Close, nil
}

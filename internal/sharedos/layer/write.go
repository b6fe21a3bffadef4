package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/erofs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Write writes t as a layer to out, which must be an empty file open for reading and writing, and returns its
// description. Delta is set if t contains a mark of overlayfs; for a delta that only adds entries, the caller
// sets it. The caller syncs and closes out, and removes it after an error. The memory that it needs grows with
// the tree by about 50 bytes for each entry. Errors match erofs.ErrXattr for attributes that would be lost.
func Write(ctx context.Context, t *tree.Tree, out *os.File) (release.Layer, error) {
	layer, err := write(ctx, t, out)
	if err != nil {
		return release.Layer{}, fmt.Errorf("write layer: %w", err)
	}
	return layer, nil
}

func write(ctx context.Context, t *tree.Tree, out *os.File) (release.Layer, error) {
	if info, err := out.Stat(); err != nil || info.Size() != 0 {
		return release.Layer{}, errors.Join(err, fmt.Errorf("%s is not an empty file", out.Name()))
	}
	size, err := erofs.Write(ctx, t, out)
	if err != nil {
		return release.Layer{}, err
	}
	layer := release.Layer{DataSize: size, Delta: slices.ContainsFunc(t.Entries, marked)}
	if layer.ID, err = appendHashTree(out, layer.DataSize); err != nil {
		return release.Layer{}, err
	}
	if layer.Size, err = padToBlock(out); err != nil {
		return release.Layer{}, err
	}
	return layer, ctx.Err()
}

// marked reports whether an entry is a mark of overlayfs or has one as an extended attribute.
func marked(e tree.Entry) bool {
	if IsWhiteout(&e) {
		return true
	}
	for name := range e.Xattrs {
		if strings.HasPrefix(name, overlayPrefix) {
			return true
		}
	}
	return false
}

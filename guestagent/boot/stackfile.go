package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// maxStackFile bounds a file of a stack that is read, in bytes.
const maxStackFile = 16 << 20

// ReadFromStack returns the content of a regular file as a stack has it. The layers of the stack are mounted.
func ReadFromStack(ctx context.Context, stack release.Stack, name string) (content []byte, err error) {
	err = withTree(ctx, stack, func(tree string) (err error) {
		root, err := os.OpenRoot(tree)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, root.Close()) }()
		file, err := root.Open(name)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		content, err = io.ReadAll(io.LimitReader(file, maxStackFile+1))
		if err == nil && len(content) > maxStackFile {
			err = fmt.Errorf("it is longer than %d bytes", maxStackFile)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read /%s from the stack: %w", name, err)
	}
	return content, nil
}

// MergeAuthorizedKeys replaces the managed block of an authorized_keys file, and keeps the rest byte by byte.
func MergeAuthorizedKeys(existing []byte, keys []string) []byte {
	return mergeAuthorizedKeys(existing, keys)
}

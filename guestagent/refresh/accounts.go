package refresh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrAccounts means that files of the target's /usr would belong to an account that this VM has made itself.
var ErrAccounts = errors.New("files of the release would belong to an account of this VM")

// checkAccounts returns an error that matches ErrAccounts if the target has an account whose number another account of
// this VM has, and has files with that owner in /usr. All VMs share /usr, so the owner of its files cannot be another
// here. Without such files, the account gets a free number (etcmerge.MergeAccounts).
func (t *target) checkAccounts(ctx context.Context, etc Etc, blobs Blobs) error {
	here, err := etc.Accounts()
	if err != nil {
		return err
	}
	manifest := t.to.manifest
	taken := append(etcmerge.TakenNumbers(false, manifest.Users, here["etc/passwd"]),
		etcmerge.TakenNumbers(true, manifest.Groups, here["etc/group"])...)
	if len(taken) == 0 {
		return nil
	}
	files, err := t.ownedBy(ctx, blobs, taken)
	if err != nil {
		return err
	}
	var found []string
	for i, one := range taken {
		if files[i] != "" {
			found = append(found, fmt.Sprintf(
				"the release has %s, and /%s of that owner; give the account of this VM another number (%s) and apply again",
				one, files[i], one.Remedy()))
		}
	}
	if len(found) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrAccounts, strings.Join(found, "; "))
}

// ownedBy returns for each account a path of the target that all VMs share and that the account owns, "" if there is
// none.
func (t *target) ownedBy(ctx context.Context, blobs Blobs, accounts []etcmerge.Taken) (_ []string, err error) {
	file, err := blobs.Open(t.to.manifest.Contents.Digest)
	if err != nil {
		return nil, fmt.Errorf("open contents list %s: %w", t.to.manifest.Contents.Digest, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	paths := make([]string, len(accounts))
	list := release.NewContentsReader(file)
	for {
		entry, err := list.Next()
		if errors.Is(err, io.EOF) {
			return paths, nil
		}
		if err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if tree.OwnerOf(entry.Path) != tree.OwnedByOS {
			continue
		}
		for i, account := range accounts {
			owner := entry.UID
			if account.Group {
				owner = entry.GID
			}
			if owner == account.Number && paths[i] == "" {
				paths[i] = entry.Path
			}
		}
	}
}

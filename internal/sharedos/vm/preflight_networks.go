package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// networks checks that the releases of the VM have a network manager, if its networks are
// configured. Of releases that are not known yet, nothing is known.
func (p *preflight) networks(ctx context.Context) error {
	want := p.Want.Configuration
	if want == nil || len(want.Networks) == 0 || p.Want.Base.IsZero() {
		return nil
	}
	if p.Have != nil && p.Have.Base == p.Want.Base && slices.Equal(p.Have.Components, p.Want.Components) &&
		p.Have.Configuration != nil && len(p.Have.Configuration.Networks) > 0 {
		return nil
	}
	for _, id := range append([]tree.Digest{p.Want.Base}, p.Want.Components...) {
		has, err := p.fleet.hasNetworkManager(ctx, id)
		if errors.Is(err, store.ErrNotFound) || has {
			return nil
		}
		if err != nil {
			return err
		}
	}
	p.refuse(
		"Use a base with one of them, such as Debian's package systemd or network-manager, or leave networks out and configure the network by files.",
		errors.New("its base has neither systemd-networkd nor NetworkManager, which configure networks"), "networks")
	return nil
}

// hasNetworkManager reports whether a release has the program of a network manager. The answer is
// kept: releases do not change.
func (f *Fleet) hasNetworkManager(ctx context.Context, id tree.Digest) (bool, error) {
	if known, ok := f.managed.Load(id); ok {
		return known == true, nil
	}
	one, err := f.release(ctx, id)
	if err != nil {
		return false, err
	}
	list, err := f.contents(ctx, one)
	if err != nil {
		return false, err
	}
	has := false
	for reader := release.NewContentsReader(release.Verified(bytes.NewReader(list), one.manifest.Contents)); ; {
		entry, err := reader.Next()
		if errors.Is(err, io.EOF) && !errors.Is(err, release.ErrContents) {
			break
		}
		if err != nil {
			return false, fmt.Errorf("read the contents list of release %s: %w", id, err)
		}
		for _, one := range guestconfig.Managers {
			has = has || entry.Path == one.Program && entry.Type != tree.Directory
		}
	}
	f.managed.Store(id, has)
	return has, nil
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// askLimit bounds a question to an agent.
const askLimit = 60 * time.Second

// mapped asks the agent of a VM which processes map files whose paths end in suffix.
func (d *demo) mapped(ctx context.Context, name, suffix string) (_ []*agentapi.MappedFile, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	agent, err := d.host.Fleet.Agent(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, agent.Close()) }()
	answer, err := agent.Mapped(ctx, &agentapi.MappedRequest{Suffix: suffix})
	if err != nil {
		return nil, fmt.Errorf("ask its agent who maps %s: %w", suffix, err)
	}
	return answer.GetFiles(), nil
}

// digest returns the digest of the one regular file of that name in a release, by its contents list.
func (d *demo) digest(ctx context.Context, id tree.Digest, name string) (tree.Digest, error) {
	manifest, err := d.host.Publisher.Get(ctx, id)
	if err != nil {
		return tree.Digest{}, err
	}
	contents, err := d.host.Store.GetBlob(ctx, manifest.Contents)
	if err != nil {
		return tree.Digest{}, err
	}
	var found []tree.Entry
	reader := release.NewContentsReader(bytes.NewReader(contents))
	for {
		entry, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return tree.Digest{}, err
		}
		if entry.Type == tree.Regular && path.Base(entry.Path) == name {
			found = append(found, entry)
		}
	}
	if len(found) != 1 {
		return tree.Digest{}, fmt.Errorf("release %s has %d files of the name %s, not one", id, len(found), name)
	}
	return found[0].Digest, nil
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
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

// changedCode returns the programs and shared libraries of a release that differ from those of an earlier one.
func (d *demo) changedCode(ctx context.Context, before, after tree.Digest) ([]tree.Entry, error) {
	changed, err := d.changedFiles(ctx, before, after)
	return slices.DeleteFunc(changed, func(e tree.Entry) bool { return !isCode(e) }), err
}

// isCode reports whether processes map a file of /usr to run it.
func isCode(e tree.Entry) bool {
	return strings.Contains(path.Base(e.Path), ".so") || strings.Contains(e.Path, "/bin/") ||
		strings.Contains(e.Path, "/sbin/")
}

func (d *demo) contents(ctx context.Context, id tree.Digest) (io.Reader, error) {
	manifest, err := d.host.Publisher.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	list, err := d.host.Store.GetBlob(ctx, manifest.Contents)
	return bytes.NewReader(list), err
}

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing/fstest"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/workspace"
)

// manyFiles is the number of files in the directory.
const manyFiles = 300_000

// directoryPlan measures a plan for a base that is read from a large directory in which nothing changed. The
// yardstick is find, which looks at every file.
func (b *bench) directoryPlan(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "sharedos-")
	if err != nil {
		return fmt.Errorf("make a directory to work in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	world, err := providertest.New(dir)
	if err != nil {
		return err
	}
	defer world.Off()
	rootfs := filepath.Join(dir, "rootfs")
	b.tell(fmt.Sprintf("making a directory of %d files", manyFiles))
	if err := layOutMany(rootfs); err != nil {
		return fmt.Errorf("make a large directory: %w", err)
	}
	reattach, stop, err := serve(ctx, world)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	const text = `
terraform {
  required_providers { sharedos = { source = "sharedos/sharedos" } }
}

resource "sharedos_base" "large" {
  name      = "large"
  directory = { path = %q }
}
`
	work, err := workspace.New(workspace.Config{
		Terraform: b.terraform, Provider: b.provider, Dir: filepath.Join(dir, "tf"), Tell: func(string) {},
		Configuration: fstest.MapFS{"main.tf": {Data: fmt.Appendf(nil, text, rootfs)}},
		Env: []string{"TF_REATTACH_PROVIDERS=" + reattach, "SHAREDOS_CACHE=" + dir,
			"SHAREDOS_OPERATOR_KEY=" + filepath.Join(dir, "none")},
	})
	if err != nil {
		return err
	}
	b.tell("making a base of it on a pretended host")
	plan, err := work.Plan(ctx)
	if err != nil {
		return err
	}
	if err := work.Apply(ctx, plan); err != nil {
		return err
	}
	var find, planned []time.Duration
	for range turns {
		took, err := lookAtAll(ctx, rootfs)
		if err != nil {
			return err
		}
		find = append(find, took)
		if plan, err = work.Plan(ctx); err != nil {
			return err
		}
		for _, change := range plan.Changes {
			if !change.Is("no-op") {
				return fmt.Errorf("with nothing changed, a plan wants to %v %s", change.Change.Actions, change.Address)
			}
		}
		planned = append(planned, plan.Took)
	}
	b.results.add("plan of a directory of 300,000 files, unchanged", median(planned).Seconds(), "s",
		median(find).Seconds(), 2)
	return nil
}

// layOutMany writes a small system with many further files.
func layOutMany(dir string) error {
	system, err := sourcetest.NewSystem("6.12.1").Tar()
	if err != nil {
		return err
	}
	for in := tar.NewReader(bytes.NewReader(system)); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		at := filepath.Join(dir, header.Name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if header.Typeflag == tar.TypeSymlink {
			if err := os.Symlink(header.Linkname, at); err != nil {
				return err
			}
			continue
		}
		content, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		if err := os.WriteFile(at, content, 0o755); err != nil {
			return err
		}
	}
	const each = 500
	for i := range manyFiles / each {
		at := filepath.Join(dir, "usr", "share", fmt.Sprint(i%20), fmt.Sprint(i))
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		for j := range each {
			if err := os.WriteFile(filepath.Join(at, fmt.Sprintf("a file of its own %d", j)),
				fmt.Appendf(nil, "%d %d", i, j), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// lookAtAll returns how long find takes to look at every file of a directory.
func lookAtAll(ctx context.Context, dir string) (time.Duration, error) {
	began := time.Now()
	if err := exec.CommandContext(ctx, "find", dir, "-printf", "%i %s %T@ %C@\n").Run(); err != nil {
		return 0, fmt.Errorf("look at all files with find: %w", err)
	}
	return time.Since(began), nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// inWorld calls measure with a libvirt of its own, whose guests are real, and with a directory to work in. Both are gone
// afterwards.
func (b *bench) inWorld(ctx context.Context, measure func(ctx context.Context, world *guest.World, dir string) error) (err error) {
	dir, err := testbed.MakeDir("")
	if err != nil {
		return fmt.Errorf("make a directory to work in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bed, err := testbed.Start(ctx, filepath.Join(dir, "bed"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	world, err := guest.Open(ctx, bed, b.tell)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, world.Close()) }()
	return measure(ctx, world, dir)
}

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

// inWorld calls measure with a libvirt of its own, whose guests are real, and with a directory to
// work in. Both are gone afterwards.
func (b *bench) inWorld(ctx context.Context,
	measure func(ctx context.Context, world *guest.World, dir string) error) error {
	return inTestbed(ctx, func(bed *testbed.Testbed, dir string) (err error) {
		world, err := guest.Open(ctx, bed, b.tell)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, world.Close()) }()
		return measure(ctx, world, dir)
	})
}

// inTestbed calls measure with a libvirt of its own, and with a directory to work in. Both are gone afterwards.
func inTestbed(ctx context.Context, measure func(bed *testbed.Testbed, dir string) error) (err error) {
	// The path must be short: the paths of unix sockets below it may have 108 bytes.
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
	return measure(bed, dir)
}

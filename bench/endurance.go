package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// enduranceCount is how often one guest is refreshed in a row.
const enduranceCount = 100

// enduranceLimit bounds the whole measurement. A refresh of an emulated guest takes seconds.
const enduranceLimit = 30 * time.Minute

// endurance refreshes one guest to and fro between two releases, and measures its agent before and after.
func (b *bench) endurance(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, enduranceLimit)
	defer cancel()
	return b.inWorld(ctx, b.endure)
}

func (b *bench) endure(ctx context.Context, world *guest.World, _ string) error {
	ids, err := world.Releases(ctx, "debian", guest.Plain,
		[]guest.Edit{guest.Write("usr/share/mark", 0o644, "one")},
		[]guest.Edit{guest.Write("usr/share/mark", 0o644, "two")})
	if err != nil {
		return err
	}
	vm, err := world.Create(ctx, "endurance", ids[0], nil)
	if err != nil {
		return err
	}
	swing := func(i int) error {
		to := ids[(i+1)%2]
		report, err := vm.Swing(ctx, to)
		if err == nil && !report.GetCommitted() {
			err = errors.New(report.GetError())
		}
		if err != nil {
			return fmt.Errorf("refresh %d to release %s: %w", i+1, to, err)
		}
		return nil
	}
	// After the first refreshes in both directions, nothing further needs to be created.
	for i := range 2 {
		if err := swing(i); err != nil {
			return err
		}
	}
	before, err := vm.Weigh(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	for i := range enduranceCount {
		if i%10 == 0 {
			b.tell(fmt.Sprintf("refreshed %d times", i))
		}
		if err := swing(i); err != nil {
			return err
		}
	}
	took := time.Since(began)
	after, err := vm.Weigh(ctx)
	if err != nil {
		return err
	}
	b.results.add(fmt.Sprintf("agent at rest after %d refreshes", enduranceCount), float64(after.ResidentBytes),
		"bytes", float64(before.ResidentBytes), 10*mebibyte)
	for _, one := range []struct {
		what          string
		before, after int64
	}{
		{"open files of the agent", before.OpenFiles, after.OpenFiles},
		{"goroutines of the agent", before.Goroutines, after.Goroutines},
		{"mounts", before.Mounts, after.Mounts}, {"mapped devices", before.Mapped, after.Mapped},
		{"loop devices", before.Loops, after.Loops},
	} {
		b.results.add(fmt.Sprintf("%s more after %d refreshes", one.what, enduranceCount),
			float64(one.after-one.before), "", 0, 0)
	}
	b.results.add("a small refresh, whole, with its calls", took.Seconds()/enduranceCount, "s", 0, 30)
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing/fstest"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// plannedVMs have the same three components, and so do sharingVMs.
const (
	plannedVMs = 20
	sharingVMs = 10
)

// threeComponents are the components of the VMs.
var threeComponents = []string{"database", "cache", "web"}

// joined measures what VMs with several components cost besides those without: plans, and room in the pool. libvirt and
// the guests are fakes in this process.
func (b *bench) joined(ctx context.Context) (err error) {
	without, err := b.pretend(ctx, plannedVMs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, without.stop()) }()
	with, err := b.pretendComponents(ctx, plannedVMs, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, with.stop()) }()
	var seconds [2][]float64
	for range 2*turns + 1 {
		for i, host := range []*pretended{without, with} {
			plan, err := host.work.Plan(ctx)
			if err != nil {
				return err
			}
			for _, change := range plan.Changes {
				if !change.Is("no-op") {
					return fmt.Errorf("the plan is not empty: it would %v %s", change.Change.Actions, change.Address)
				}
			}
			seconds[i] = append(seconds[i], plan.Took.Seconds())
		}
	}
	yardstick := median(seconds[0])
	b.results.add(fmt.Sprintf("plan with nothing to do, %d VMs, 3 components each", plannedVMs), median(seconds[1]),
		"seconds", yardstick, 1.2*yardstick)
	return b.sharedLayers(ctx)
}

// sharedLayers measures the room for the layers of VMs with the same components.
func (b *bench) sharedLayers(ctx context.Context) error {
	var bytes [2]float64
	for i, vms := range []int{1, sharingVMs} {
		host, err := b.pretendComponents(ctx, vms, true)
		if err != nil {
			return err
		}
		volumes, err := host.world.Volumes.Volumes(ctx)
		if err = errors.Join(err, host.stop()); err != nil {
			return err
		}
		layers := 0
		for _, volume := range volumes {
			if name, ok := store.ParseVolumeName(volume.Name); ok && name.Kind == store.LayerVolume {
				layers++
				bytes[i] += float64(volume.Capacity)
			}
		}
		if want := 1 + len(threeComponents) + 1; layers != want {
			return fmt.Errorf(
				"the pool of %d VMs has %d layers instead of %d: of the base, the components, and the joining layer",
				vms, layers, want)
		}
	}
	b.results.add(fmt.Sprintf("layers of %d VMs with 3 components", sharingVMs), bytes[1], "bytes", bytes[0], bytes[0])
	return nil
}

// pretendComponents makes a host with a number of VMs that all have the three components. If they are to be joined, all
// have one path with different content, which prefer settles: so the stack has a joining layer, as one of packages has.
func (b *bench) pretendComponents(ctx context.Context, vms int, joined bool) (*pretended, error) {
	return b.pretendWith(ctx, vms, func(archive string) (fs.FS, error) {
		var text, list strings.Builder
		for _, name := range threeComponents {
			files := sourcetest.System{"usr/bin/" + name: name,
				"usr/share/" + name + "/data": strings.Repeat(name, 10_000)}
			if joined {
				files["etc/common"] = name
			}
			part, err := files.Tar()
			if err != nil {
				return nil, err
			}
			at := filepath.Join(filepath.Dir(archive), name+".tar")
			if err := os.WriteFile(at, part, 0o600); err != nil {
				return nil, fmt.Errorf("write component %s: %w", name, err)
			}
			fmt.Fprintf(
				&text, "resource \"sharedos_component\" %q {\n  name = %q\n  base = sharedos_base.small.release\n  archive = { path = %q }\n}\n", name, name, at)
			fmt.Fprintf(&list, "sharedos_component.%s.release, ", name)
		}
		plain, err := fs.ReadFile(manyVMsOn(archive, vms), "main.tf")
		if err != nil {
			return nil, err
		}
		attributes := fmt.Sprintf("  components = [%s]\n", list.String())
		if joined {
			attributes += "  prefer = { \"/etc/common\" = \"cache\" }\n"
		}
		whole := strings.Replace(string(plain), "  memory = ", attributes+"  memory = ", 1)
		return fstest.MapFS{"main.tf": {Data: []byte(whole + text.String())}}, nil
	})
}

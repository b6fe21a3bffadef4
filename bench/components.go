package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/probe"
)

const (
	// attachCount is how often a component is attached to one guest and detached from it.
	attachCount = 50
	// componentsLimit bounds the whole measurement.
	componentsLimit = time.Hour
	// greeterPort is that of the service that no component affects.
	greeterPort = 8007
)

// attached is a VM that gets nginx as a component, compared with a plain VM that gets it from apt.
type attached struct {
	*bench
	vm        *guest.VM
	base, web tree.Digest
	// apt is how long apt-get took in the plain VM, and aptBytes what it wrote to the disk.
	apt      time.Duration
	aptBytes int64
}

// components measures how components come to running VMs and go.
func (b *bench) components(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, componentsLimit)
	defer cancel()
	return b.inWorld(ctx, b.componentsIn)
}

func (b *bench) componentsIn(ctx context.Context, world *guest.World, dir string) (err error) {
	a := &attached{bench: b}
	if err := a.byApt(ctx, dir); err != nil {
		return err
	}
	world.Debian, world.Expected = guest.Bare, componentsLimit
	if a.base, err = world.Publish(ctx, "debian", guest.Plain); err != nil {
		return err
	}
	packages, err := world.Packages(guest.Plain, "nginx-light")
	if err != nil {
		return err
	}
	if a.web, err = world.Component(ctx, "web", a.base, packages); err != nil {
		return err
	}
	if a.vm, err = world.Create(ctx, "attached", a.base, nil, 80, greeterPort, demandPort); err != nil {
		return err
	}
	if err := a.onDemand(ctx); err != nil {
		return err
	}
	if err := a.first(ctx); err != nil {
		return err
	}
	return a.again(ctx, filepath.Join(dir, "guest"))
}

// byApt installs nginx in a plain VM of the same packages, from a mirror on this machine.
func (a *attached) byApt(ctx context.Context, dir string) (err error) {
	archive, err := guest.Bare.Tar(ctx, guest.Plain)
	if err != nil {
		return err
	}
	a.tell("fetching nginx, for the plain VM")
	mirror, err := mirrorOf(ctx, dir, archive, archive, "--no-install-recommends", "install", "nginx-light")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mirror.close()) }()
	key, err := guest.NewKey()
	if err != nil {
		return err
	}
	slots, err := testbed.TakeSlots(ctx, 1, 15*time.Minute)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, slots.Release()) }()
	vm, err := bootPlain(ctx, dir, archive, key, mirror.source())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vm.end()) }()
	if _, err := vm.run(ctx, "apt-get -qq update && sync"); err != nil {
		return err
	}
	a.tell("installing nginx in the plain VM with apt-get")
	const written = "sync; awk '{ print $7 * 512 }' /sys/block/vda/stat"
	before, err := number(vm.run(ctx, written))
	if err != nil {
		return err
	}
	if a.apt, err = vm.apt(ctx, "--no-install-recommends install nginx-light"); err != nil {
		return err
	}
	after, err := number(vm.run(ctx, written))
	if err != nil {
		return err
	}
	a.aptBytes = after - before
	a.tell(fmt.Sprintf("apt-get install took %.1f s and wrote %.1f MB", a.apt.Seconds(), float64(a.aptBytes)/1e6))
	return nil
}

// number reads what a command prints.
func number(text string, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(text), 10, 64)
}

// written is what the guest has written to its private disk, in bytes.
func (a *attached) written(ctx context.Context) (int64, error) {
	return number(a.vm.Run(ctx, `sync; for disk in /sys/block/vd*; do
if [ "$(cat $disk/serial)" = sharedos-private ]; then awk '{ print $7 * 512 }' $disk/stat; fi; done`))
}

// move has the VM run the base with these components. asked is the moment of the refresh call.
func (a *attached) move(ctx context.Context,
	components ...tree.Digest) (report *agentapi.Report, asked time.Time, err error) {
	spec := a.vm.Spec
	spec.Components = components
	_, report, err = a.vm.World.Host.Fleet.Update(ctx, spec, func(step string) {
		if step == "refreshing" && asked.IsZero() {
			asked = time.Now()
		}
	})
	if err == nil && !report.GetCommitted() {
		err = fmt.Errorf("the refresh was not committed: %s", report.GetError())
	}
	if err != nil {
		return nil, asked, err
	}
	a.vm.Spec = spec
	return report, asked, nil
}

// firstPage returns the moment at which the web server has answered first.
func (a *attached) firstPage(ctx context.Context) (time.Time, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.vm.Address(80)+"/", nil)
		if err != nil {
			return time.Time{}, err
		}
		answer, err := client.Do(request)
		if err == nil {
			_, err = io.Copy(io.Discard, answer.Body)
			err = errors.Join(err, answer.Body.Close())
			if err == nil && answer.StatusCode == http.StatusOK {
				return time.Now(), nil
			}
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("wait for the first page: %w", errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// first attaches nginx and waits for its first page, in turns. In between it is detached.
func (a *attached) first(ctx context.Context) error {
	var took []float64
	var bytes int64
	for turn := range turns {
		before, err := a.written(ctx)
		if err != nil {
			return err
		}
		page, failed := make(chan time.Time, 1), make(chan error, 1)
		watching, cancel := context.WithTimeout(ctx, 10*time.Minute)
		go func() {
			at, err := a.firstPage(watching)
			page <- at
			failed <- err
		}()
		report, asked, err := a.move(ctx, a.web)
		if err != nil {
			cancel()
			<-page
			return errors.Join(err, <-failed)
		}
		at := <-page
		cancel()
		if err := <-failed; err != nil {
			return err
		}
		a.tell(fmt.Sprintf("nginx was attached in %.1f s: %s", at.Sub(asked).Seconds(), describe(report)))
		took = append(took, at.Sub(asked).Seconds())
		after, err := a.written(ctx)
		if err != nil {
			return err
		}
		if turn == 0 {
			bytes = after - before // the first time, its files below /etc and /var are new
		}
		if _, _, err := a.move(ctx); err != nil {
			return err
		}
	}
	a.results.add("nginx attached, from the call to the first page", median(took), "seconds",
		a.apt.Seconds(), a.apt.Seconds()/4)
	a.results.inform("written to the private disk for that", float64(bytes), "bytes", float64(a.aptBytes))
	return nil
}

// again attaches nginx and detaches it many times, while a client uses a service that this does not affect.
func (a *attached) again(ctx context.Context, tool string) error {
	if err := buildTool(ctx, tool); err != nil {
		return err
	}
	program, err := os.Open(tool)
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }() // it was only read
	if _, err := a.vm.RunWith(ctx,
		"mkdir -p "+guestDir+" && cat > "+guestTool+" && chmod 755 "+guestTool, program); err != nil {
		return err
	}
	if _, err := a.vm.Run(ctx,
		fmt.Sprintf("systemd-run --unit=bench-greeter %s serve %d", guestTool, greeterPort)); err != nil {
		return err
	}
	before, err := a.weigh(ctx)
	if err != nil {
		return err
	}
	watched, err := probe.TCP(ctx, a.vm.Address(greeterPort), 20*time.Millisecond)
	if err != nil {
		return err
	}
	defer watched.Stop()
	began := time.Now()
	for i := range attachCount {
		if i%10 == 0 {
			a.tell(fmt.Sprintf("attached and detached %d times", i))
		}
		for _, components := range [][]tree.Digest{{a.web}, nil} {
			if _, _, err := a.move(ctx, components...); err != nil {
				return fmt.Errorf("move %d: %w", i+1, err)
			}
		}
	}
	took := time.Since(began)
	seen := watched.Stop()
	a.results.add(fmt.Sprintf("failed requests, other service, %d × attached", attachCount),
		float64(seen.Failures), "requests", 0, 0)
	a.tell(fmt.Sprintf("%d requests, longest gap %s, first failure: %v", seen.Requests,
		seen.LongestGap, seen.FirstFailure))
	after, err := a.weigh(ctx)
	if err != nil {
		return err
	}
	for i, what := range weights {
		a.results.add(fmt.Sprintf("%s more after %d × attached", what, attachCount),
			float64(after[i]-before[i]), "", 0, 0)
	}
	a.results.inform("attach or detach, whole, with its calls", took.Seconds()/(2*attachCount), "seconds", 0)
	return nil
}

// weights are what must not grow, in the order of weigh.
var weights = []string{"open files of the agent", "mounts", "mapped devices", "attached layers", "PCI devices",
	"open files of the host's side"}

// weigh counts what components take, in the guest and on the host.
func (a *attached) weigh(ctx context.Context) ([]int64, error) {
	w, err := a.vm.Weigh(ctx)
	if err != nil {
		return nil, err
	}
	devices, err := number(a.vm.Run(ctx, "ls /sys/bus/pci/devices | wc -l"))
	if err != nil {
		return nil, err
	}
	domain, _, err := a.vm.World.Host.Fleet.Hypervisor.Lookup(ctx, a.vm.Spec.Name)
	if err != nil {
		return nil, err
	}
	own, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	return []int64{w.OpenFiles, w.Mounts, w.Mapped, int64(len(domain.Layers)), devices, int64(len(own))}, nil
}

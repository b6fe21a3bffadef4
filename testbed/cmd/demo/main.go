// Command demo shows what the project is for, with real parts: examples/quickstart through Terraform, on a libvirt
// of its own, with real guests and a real security patch.
//
// Everything that it prints comes from Terraform's state, from the store, from libvirt, or from the agents in the
// guests. Its exit code is not zero if anything that the project claims does not hold.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

func init() {
	// The kernel sends Pdeathsig when the thread ends that started the process. The main thread ends last.
	runtime.LockOSThread()
}

func main() {
	provider := flag.String("provider", "bin/terraform-provider-sharedos", "the provider that was built")
	terraform := flag.String("terraform", "terraform", "Terraform or OpenTofu")
	example := flag.String("example", "examples/quickstart", "the configuration to apply")
	count := flag.Int("vms", 2, "how many VMs to make")
	keep := flag.Bool("keep", false, "keep the directory with logs and consoles, even after success")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	if err := run(ctx, settings{*provider, *terraform, *example, *count, *keep}); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", printable(err.Error()))
		os.Exit(1)
	}
}

// settings are what the command line says.
type settings struct {
	provider, terraform, example string
	vms                          int
	keep                         bool
}

func run(ctx context.Context, s settings) (err error) {
	if s.vms < 1 || s.vms > 26 {
		return fmt.Errorf("-vms %d: the demo makes 1 to 26 VMs", s.vms)
	}
	if s.terraform == "" {
		return errors.New("neither terraform nor tofu is in PATH; install one of them")
	}
	out := newReport(os.Stdout)
	// The path must be short: the paths of unix sockets below it may have 108 bytes.
	dir, err := testbed.MakeDir("")
	if err != nil {
		return fmt.Errorf("make a directory to work in: %w", err)
	}
	defer func() { err = errors.Join(err, leave(ctx, dir, s.keep || err != nil, out)) }()

	out.title("A libvirt of the demo's own")
	out.step("starting virtlogd and libvirtd in " + dir)
	bed, err := testbed.Start(ctx, filepath.Join(dir, "bed"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.Close(), nothingRuns(dir)) }()
	out.step("it answers at " + bed.URI())
	if _, err := bed.TakeSlots(ctx, min(guests, s.vms), 0); err != nil {
		return err
	}

	d, err := newDemo(ctx, s, bed, dir, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	for _, stage := range []func(context.Context) error{d.create, d.patch, d.components, d.rest, d.destroy} {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	out.table(d.foretold, d.happened)
	return out.verdict()
}

// guests is how many VMs the demo runs at the same time.
const guests = 2

// leave removes the demo's directory. If the run is to be examined, it keeps logs, consoles and configuration. An
// interrupted demo leaves nothing.
func leave(ctx context.Context, dir string, keep bool, out *report) error {
	if ctx.Err() != nil || !keep {
		return os.RemoveAll(dir)
	}
	out.fact("logs and consoles are kept in", "%s", dir)
	return os.RemoveAll(filepath.Join(dir, "pool"))
}

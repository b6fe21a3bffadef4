package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/report"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/provider"
)

const reportUsage = `Usage: terraform-provider-sharedos report [options]

Writes one HTML file about a storage pool and its VMs: what they share, what they run, what they wait for, and what their last
refreshes interrupted. It changes nothing. A VM that does not answer is described by its definition.

Options (the defaults are those of an empty provider block, with the same environment variables):
`

// reportOptions are the options of the command "report".
type reportOptions struct {
	host   host.Config
	json   bool
	output string
	limit  time.Duration
}

// gatherer makes a report of a host. It calls progress at the beginning of each step.
type gatherer func(ctx context.Context, config host.Config, progress func(step string)) (*report.Report, error)

// patience is how long a step may take before its name is shown to the user.
const patience = 2 * time.Second

// slowSteps tells the steps that take long.
type slowSteps struct {
	to    io.Writer
	after time.Duration

	mu    sync.Mutex
	timer *time.Timer
	begun int
}

// begin ends the step before, and begins another one.
func (s *slowSteps) begin(step string) {
	s.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	this := s.begun
	s.timer = time.AfterFunc(s.after, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.begun == this {
			fmt.Fprintln(s.to, "report: "+step)
		}
	})
}

// end ends a step. Nothing is written after it.
func (s *slowSteps) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun++
	if s.timer != nil {
		s.timer.Stop()
	}
}

// reportCommand runs the command "report" and returns its exit code: 0, 1 if it failed, and 2 if
// its arguments are wrong.
func reportCommand(args []string, out, said io.Writer, gather gatherer) int {
	options, err := parseReport(args, said)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	steps := &slowSteps{to: said, after: patience}
	if err := writeReport(ctx, options, out, gather, steps); err != nil {
		fmt.Fprintf(said, "Unable to write the report on pool %q: %v\n", options.host.Pool, err)
		if next := reportNext(err); next != "" {
			fmt.Fprintln(said, next)
		}
		return 1
	}
	return 0
}

func parseReport(args []string, said io.Writer) (reportOptions, error) {
	defaults, err := provider.DefaultConfig()
	if err != nil {
		fmt.Fprintf(said, "report: %v\n", err)
		return reportOptions{}, err
	}
	options := reportOptions{host: host.Config{ReadOnly: true, PoolPath: defaults.PoolPath, Cache: defaults.Cache}}
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	flags.SetOutput(said)
	flags.Usage = func() {
		fmt.Fprint(said, reportUsage)
		flags.PrintDefaults()
	}
	flags.StringVar(&options.host.URI, "uri", defaults.URI, "URI of libvirt")
	flags.StringVar(&options.host.Pool, "pool", defaults.Pool, "name of the storage pool")
	flags.StringVar(&options.host.OperatorKey, "operator-key", defaults.OperatorKey,
		"`file` of the operator key, with which the VMs are asked")
	flags.BoolVar(&options.json, "json", false, "write JSON instead of HTML")
	flags.StringVar(&options.output, "output", "", "`file` to write; standard output if it is not given")
	flags.DurationVar(&options.limit, "timeout", 5*time.Minute,
		"when this time is up, VMs that were not asked yet are described by their definitions")
	if err := flags.Parse(args); err != nil {
		return options, err
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(said, "report: unexpected argument %q; options start with --\n", flags.Arg(0))
		return options, errors.New("unexpected argument")
	}
	return options, nil
}

// writeReport makes the report, and writes it only when it is complete.
func writeReport(ctx context.Context, options reportOptions, out io.Writer, gather gatherer,
	steps *slowSteps) (err error) {
	limited, cancel := context.WithTimeoutCause(ctx, options.limit, fmt.Errorf("the time of %s is up", options.limit))
	defer cancel()
	steps.begin("connecting to libvirt")
	made, err := gather(limited, options.host, steps.begin)
	steps.end()
	if err != nil {
		return err
	}
	write := report.WritePage
	if options.json {
		write = report.WriteJSON
	}
	if options.output == "" {
		return write(out, made)
	}
	if info, err := os.Stat(options.output); err == nil && !info.Mode().IsRegular() { // such as /dev/stdout
		file, err := os.OpenFile(options.output, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(file, made), file.Close())
	}
	file, err := renameio.NewPendingFile(options.output, renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Cleanup()) }()
	if err := write(file, made); err != nil {
		return err
	}
	return file.CloseAtomicallyReplace()
}

// reportNext says what to do about an error; "" if the error says it.
func reportNext(err error) string {
	switch {
	case errors.Is(err, store.ErrNoPool):
		return "Name the pool that the provider block names, with --pool. List the pools of the host with: virsh pool-list --all"
	case errors.Is(err, release.ErrKey):
		return "Name the file of the operator key that the provider uses, with --operator-key."
	default:
		return ""
	}
}

// gatherFrom opens a host and makes the report of it.
func gatherFrom(ctx context.Context, config host.Config, progress func(step string)) (_ *report.Report, err error) {
	opened, err := host.Open(ctx, config)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	if err := opened.RequirePool(ctx); err != nil {
		return nil, err
	}
	made, err := report.Gather(ctx, report.Sources{
		Pool: opened.Fleet.Pool, Store: opened.Store, Domains: opened.Fleet.Hypervisor, VMs: opened.Fleet,
		Publisher: opened.Publisher,
		Progress:  progress,
	})
	if err != nil {
		return nil, err
	}
	made.Version, made.Host = version, opened.URI()
	return made, nil
}

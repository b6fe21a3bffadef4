// Command bench measures what the project promises, on this machine, and fails if a limit is exceeded.
//
// It prints a line for each figure and writes all of them as JSON: a list of {name, value, unit, yardstick, ratio,
// limit, ok}. Both sides of a comparison are measured in the same run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/provider"
)

func init() {
	// The kernel sends Pdeathsig when the thread ends that started the process. The main thread ends last.
	runtime.LockOSThread()
}

func main() {
	binary := flag.String("provider", "bin/terraform-provider-sharedos", "the provider that was built")
	terraform := flag.String("terraform", "terraform", "Terraform or OpenTofu")
	out := flag.String("out", "bench/out/results.json", "the file for the results")
	only := flag.String("only", "",
		"names of measures, with commas between them: "+strings.Join(names(), ", ")+"; all of them if empty")
	flag.Parse()
	provider.TuneGarbageCollection() // this process is the provider of some measures
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	b := &bench{provider: *binary, terraform: *terraform, began: time.Now(), results: results{out: os.Stdout}}
	if err := b.run(ctx, *only, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	provider, terraform string
	began               time.Time
	results             results
}

// measure is a part of the benchmark that can run alone.
type measure struct {
	name string
	run  func(*bench, context.Context) error
}

// measures lists them in the order in which they run; those with guests come last.
var measures = []measure{
	{"plan", (*bench).emptyPlan},
	{"wide", (*bench).widePlan},
	{"directory", (*bench).directoryPlan},
	{"joined", (*bench).joined},
	{"agent", (*bench).agentSize},
	{"swap", (*bench).swap},
	{"scale", (*bench).scale},
	{"rollout", (*bench).rollout},
	{"layers", (*bench).layers},
	{"store", (*bench).store},
	{"assess", (*bench).assess},
	{"fleet", (*bench).fleet},
	{"patch", (*bench).patch},
	{"endurance", (*bench).endurance},
	{"components", (*bench).components},
}

func names() []string {
	var all []string
	for _, m := range measures {
		all = append(all, m.name)
	}
	return all
}

// chosen returns the measures with these names.
func chosen(only string) ([]measure, error) {
	if only == "" {
		return measures, nil
	}
	var some []measure
	for name := range strings.SplitSeq(only, ",") {
		i := slices.Index(names(), name)
		if i < 0 {
			return nil, fmt.Errorf("there is no measure %q; there are %s", name, strings.Join(names(), ", "))
		}
		some = append(some, measures[i])
	}
	return some, nil
}

func (b *bench) run(ctx context.Context, only, out string) error {
	if b.terraform == "" {
		return errors.New("neither terraform nor tofu is in PATH; install one of them")
	}
	wanted, err := chosen(only)
	if err != nil {
		return err
	}
	for _, m := range wanted {
		if err := m.run(b, ctx); err != nil {
			return fmt.Errorf("measure %s: %w", m.name, err)
		}
	}
	if err := b.results.write(out); err != nil {
		return err
	}
	if missed := b.results.missed(); len(missed) > 0 {
		return fmt.Errorf("limits are missed: %s", strings.Join(missed, ", "))
	}
	return nil
}

// tell prints the current step to standard error. Standard output has only the figures.
func (b *bench) tell(step string) {
	fmt.Fprintf(os.Stderr, "%5.0fs  %s\n", time.Since(b.began).Seconds(), strings.ReplaceAll(step, "\n", "\n        "))
}

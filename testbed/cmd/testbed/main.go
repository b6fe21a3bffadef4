// Command testbed runs a command against an isolated libvirt of its own.
//
//	testbed run --dir DIR -- COMMAND [ARGUMENT...]
//
// The command gets the URI of libvirt in SHAREDOS_URI. When it ends, libvirt and all domains in it end, too, and
// testbed exits with the command's exit code.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testbed:", err)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	flags := flag.NewFlagSet("testbed run", flag.ContinueOnError)
	dir := flags.String("dir", "", "directory of the testbed; a short path, sockets are made below it")
	if len(args) == 0 || args[0] != "run" {
		return 2, errors.New("usage: testbed run --dir DIR -- COMMAND [ARGUMENT...]")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return 2, err
	}
	if *dir == "" || flags.NArg() == 0 {
		return 2, errors.New("usage: testbed run --dir DIR -- COMMAND [ARGUMENT...]")
	}
	// A Ctrl-C on the terminal reaches the command, too, which may then end in its own way.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	bed, err := testbed.Start(ctx, *dir)
	if err != nil {
		return 1, err
	}
	code, err := command(ctx, bed, flags.Args())
	return code, errors.Join(err, bed.Close())
}

func command(ctx context.Context, bed *testbed.Testbed, args []string) (int, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "SHAREDOS_URI="+bed.URI(), "SHAREDOS_STATE_DIR="+bed.StateDir())
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, fmt.Errorf("run %s: %w", args[0], err)
	}
	return 0, nil
}

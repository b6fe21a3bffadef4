// Command agent is the guest's half of Shared OS: as /init of the initramfs it assembles the root, as a service
// it refreshes it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/disks"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/ondemand"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/service"
)

// version is set by the build (-X main.version=).
var version = "dev"

func main() {
	if os.Getpid() == 1 && os.Args[0] == "/init" {
		boot.Init()
	}
	if program := ondemand.Program(os.Args, os.Stdout); program != nil {
		if err := program(); err != nil {
			fmt.Fprintln(os.Stderr, "sharedos:", err)
			if errors.Is(err, ondemand.ErrUsage) {
				fmt.Fprintln(os.Stderr, ondemand.Usage)
				os.Exit(2)
			}
			os.Exit(1)
		}
		return
	}
	// When the journal ends, as in a soft-reboot, so does the stream that the agent logs to. By
	// default Go ends a program that writes to such a standard output or error. The signal is not
	// ignored instead, since all child processes would ignore it, too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	command := ""
	if disk := diskCommand(os.Args[1:]); disk != nil {
		if err := disk(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 2 || len(os.Args) == 3 && os.Args[1] == "resolver" {
		command = os.Args[1]
	}
	switch command {
	case "resolver":
		if err := boot.WriteResolver(os.Args[len(os.Args)-1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "serve":
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "next-root":
		if err := boot.NextRoot(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "version":
		fmt.Println(version)
	default:
		fmt.Fprintln(os.Stderr,
			"usage: agent serve | next-root | resolver FILE | make-disk SERIAL FILESYSTEM | grow-disk SERIAL | version")
		os.Exit(2)
	}
}

// diskCommand returns what the units of further disks run: "make-disk SERIAL FILESYSTEM" and
// "grow-disk SERIAL"; nil for other arguments.
func diskCommand(args []string) func(context.Context) error {
	switch {
	case len(args) == 3 && args[0] == "make-disk":
		return func(ctx context.Context) error { return disks.Make(ctx, args[1], args[2]) }
	case len(args) == 2 && args[0] == "grow-disk":
		return func(context.Context) error { return disks.GrowBySerial(args[1]) }
	}
	return nil
}

// serve serves until systemd ends the service.
func serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := service.Run(ctx, version); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

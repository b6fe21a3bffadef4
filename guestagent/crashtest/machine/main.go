//go:build faults

// Command machine is every program of a machine of package crashtest: it boots the machine, and is
// its process 1 and its agent. The build tag "faults" gives it failpoints.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
)

// limit bounds each wait. Usually a wait takes milliseconds.
const limit = 2 * time.Minute

var errUsage = errors.New("usage: machine boot FILE | refresh | resume | assess | next-root")

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "machine:", err)
		os.Exit(1)
	}
}

func run() error {
	if os.Args[0] == "/sbin/init" {
		return manage()
	}
	switch arguments := os.Args[1:]; {
	case len(arguments) == 2 && arguments[0] == "boot":
		return start(arguments[1])
	case len(arguments) == 1 && (arguments[0] == "refresh" || arguments[0] == "resume"):
		return runAgent(arguments[0] == "refresh")
	case len(arguments) == 1 && arguments[0] == "assess":
		return assess()
	case len(arguments) == 1 && arguments[0] == "next-root":
		return boot.NextRoot(context.Background())
	}
	return errUsage
}

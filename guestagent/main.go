// Command agent is the guest's half of Shared OS: as /init of the initramfs it assembles the root, as a service
// it refreshes it.
package main

import (
	"fmt"
	"os"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
)

// version is set by the build (-X main.version=).
var version = "dev"

func main() {
	if os.Getpid() == 1 && os.Args[0] == "/init" {
		boot.Init()
	}
	command := ""
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	switch command {
	case "version":
		fmt.Println(version)
	default:
		fmt.Fprintln(os.Stderr, "usage: agent version")
		os.Exit(2)
	}
}

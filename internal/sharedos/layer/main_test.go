package layer

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

const inNamespace = "LAYER_TEST_IN_MOUNT_NAMESPACE"

// TestMain runs the tests as root in a mount namespace of their own: whatever they mount goes with the process,
// however it ends.
func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) != "" {
		flag.Parse()
		if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
			// So many that every shape of a delta is met, in some 10 seconds.
			if err := checks.Value.Set("300"); err != nil {
				fmt.Fprintln(os.Stderr, "set the number of checks:", err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // Pdeathsig is tied to the thread
	child := exec.Command("/proc/self/exe", os.Args[1:]...)
	child.Args[0] = os.Args[0]
	child.Env = append(os.Environ(), inNamespace+"=1")
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	var exit *exec.ExitError
	switch err := child.Run(); {
	case errors.As(err, &exit):
		os.Exit(max(1, exit.ExitCode()))
	case err != nil:
		fmt.Fprintln(os.Stderr, "start tests in a mount namespace (root is needed):", err)
		os.Exit(1)
	}
	os.Exit(0)
}

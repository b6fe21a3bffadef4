//go:build race

package source_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// TestMain runs the tests of this package once more, built without the race detector, and reports the result. They
// process gigabytes and measure memory. With the race detector they would take six times as long and several times the
// memory.
func TestMain(*testing.M) {
	flag.Parse()
	args := []string{"test", "-count=1", "-vet=off", "-v"}
	for _, name := range []string{"run", "timeout"} {
		if value := flag.Lookup("test." + name).Value.String(); value != "" {
			args = append(args, "-"+name+"="+value)
		}
	}
	cmd := exec.Command("go", append(args, ".")...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed):
		os.Exit(failed.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

package main

import (
	"errors"
	"os"
	"os/exec"
	"testing"
)

// asAgent is an environment variable that makes this test binary the agent.
const asAgent = "SHAREDOS_TEST_AS_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A soft-reboot stops the journal before the agent has assembled the next root. A write to the log fails then, and must
// not end the agent.
func TestTheAgentOutlivesItsLog(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := read.Close(); err != nil {
		t.Fatal(err)
	}
	agent := exec.CommandContext(t.Context(), "/proc/self/exe", "unknown") // it writes its usage to the log
	agent.Env = append(os.Environ(), asAgent+"=1")
	agent.Stderr = write
	err = agent.Run()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("it ended with %v, want exit status 2", err)
	}
	if err := write.Close(); err != nil {
		t.Error(err)
	}
}

//go:build faults

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/crashtest"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
)

const (
	// managerSocket is the socket of process 1, and requestFile has the request of the refresh that the agent begins.
	managerSocket = "/run/manager.sock"
	requestFile   = "/run/request.pb"
	// maxAgents bounds the agents of one order. The engine gives up a refresh that has ended four agents.
	maxAgents = 8
	// pausedPoll is the time between two looks whether a failpoint has paused the agent.
	pausedPoll = 2 * time.Millisecond
)

// services are the units that every release has, each with its program. Most releases differ in two of the programs.
var services = map[string]string{"db.service": "/usr/bin/db", "idle.service": "/usr/bin/idle",
	"web.service": "/usr/bin/web"}

// manager is process 1 of a machine: it runs services and the agent in place of systemd.
type manager struct {
	mutex sync.Mutex
	units map[string]*unit
	agent *os.Process
	// target is the systemd target that the agent has requested, or "".
	target string

	orders  *json.Decoder
	answers *json.Encoder
}

// unit is a service.
type unit struct {
	process *exec.Cmd
	// configuration is the content that the configuration file had when the service started.
	configuration string
	// started and stopped are when it was last started and stopped, in microseconds of CLOCK_MONOTONIC.
	started, stopped uint64
}

// manage is process 1. It carries out orders until the test closes the pipe. The machine ends with it.
func manage() error {
	if err := shareAll(); err != nil {
		return err
	}
	m := &manager{units: map[string]*unit{}, orders: json.NewDecoder(os.Stdin), answers: json.NewEncoder(os.Stdout)}
	if err := m.startServices(); err != nil {
		return err
	}
	listener, err := net.Listen("unix", managerSocket)
	if err != nil {
		return err
	}
	go m.listen(listener)
	for {
		var order crashtest.Order
		err := m.orders.Decode(&order)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer, err := m.carryOut(order)
		if err != nil {
			answer = crashtest.Answer{Error: err.Error()}
		}
		if err := m.answers.Encode(answer); err != nil {
			return err
		}
	}
}

func (m *manager) carryOut(order crashtest.Order) (answer crashtest.Answer, err error) {
	for path, content := range order.Write {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return answer, err
		}
	}
	for path, mode := range order.Modes {
		if err := os.Chmod(path, os.FileMode(mode)); err != nil {
			return answer, err
		}
	}
	if err := arm(order.Arm); err != nil {
		return answer, err
	}
	mode := "resume"
	if order.Request != nil {
		mode = "refresh"
		if err := store(order); err != nil {
			return answer, err
		}
	}
	if order.Assess != nil {
		mode, order.Request = "assess", order.Assess
		if err := store(order); err != nil {
			return answer, err
		}
	}
	pauses := slices.ContainsFunc(order.Arm,
		func(point string) bool { return strings.HasPrefix(point, failpoint.Pause+" ") })
	for agents := 1; ; agents++ {
		if agents > maxAgents {
			return answer, fmt.Errorf("%d agents were started", maxAgents)
		}
		result, err := m.runAgent(mode, pauses)
		if err != nil {
			return answer, err
		}
		if target := m.takeTarget(); target != "" {
			if target != "soft-reboot.target" {
				return answer, fmt.Errorf("the agent has requested %s", target)
			}
			if err := m.restartUserland(); err != nil {
				return answer, err
			}
		} else if result != nil {
			answer.Result = *result
			break
		}
		mode = "resume"
	}
	if answer.Reached, err = points(failpoint.Reached); err != nil {
		return answer, err
	}
	if answer.Triggered, err = points(failpoint.Triggered); err != nil {
		return answer, err
	}
	if answer.Look, err = m.look(); err != nil {
		return answer, err
	}
	m.mutex.Lock()
	answer.Units, err = m.running()
	m.mutex.Unlock()
	if err != nil {
		return answer, err
	}
	for _, path := range order.Remove {
		if err := os.RemoveAll(path); err != nil {
			return answer, err
		}
	}
	if order.Sync {
		err = syncDisk()
	}
	return answer, err
}

// arm arms failpoints, and begins new lists of those that are reached and that trigger.
func arm(points []string) error {
	if err := os.MkdirAll(failpoint.Directory, 0o700); err != nil {
		return err
	}
	for name, text := range map[string]string{failpoint.Armed: strings.Join(append(points, ""), "\n"),
		failpoint.Reached: ""} {
		if err := os.WriteFile(filepath.Join(failpoint.Directory, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return removeTriggered()
}

func removeTriggered() error {
	if err := os.Remove(filepath.Join(failpoint.Directory, failpoint.Triggered)); err != nil &&
		!errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// store stores what a host uploads where the agent looks for it.
func store(order crashtest.Order) error {
	if err := os.MkdirAll(mounts.BlobsDir, 0o700); err != nil {
		return err
	}
	for name, data := range order.Blobs {
		if err := os.WriteFile(filepath.Join(mounts.BlobsDir, name), data, 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(requestFile, order.Request, 0o600)
}

func syncDisk() (err error) {
	directory, err := os.Open(mounts.PrivateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, directory.Close()) }()
	return unix.Syncfs(int(directory.Fd()))
}

// runAgent runs one agent to its end, and returns nil if it was killed or stopped by a signal. If
// failpoints pause the agent, it reports each pause to the test.
func (m *manager) runAgent(mode string, pauses bool) (*crashtest.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var printed, complaint bytes.Buffer
	agent := exec.CommandContext(ctx, mounts.AgentBinary, mode)
	agent.Stdout, agent.Stderr = &printed, &complaint
	if err := agent.Start(); err != nil {
		return nil, err
	}
	m.mutex.Lock()
	m.agent = agent.Process
	m.mutex.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- agent.Wait() }()
	var poll <-chan time.Time
	if pauses {
		ticker := time.NewTicker(pausedPoll)
		defer ticker.Stop()
		poll = ticker.C
	}
	for {
		select {
		case err := <-ended:
			if ctx.Err() != nil {
				return nil, fmt.Errorf("agent, %s: it has not ended in %v: %s", mode, limit, complaint.String())
			}
			return lastWord(mode, err, printed.Bytes(), complaint.String())
		case <-poll:
			if err := m.reportPause(); err != nil {
				return nil, err
			}
		}
	}
}

// lastWord interprets the exit of an agent and what it printed.
func lastWord(mode string, err error, printed []byte, complaint string) (*crashtest.Result, error) {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == unix.SIGKILL {
			return nil, nil //nolint:nilnil // documented: it was killed
		}
	}
	if err != nil {
		return nil, fmt.Errorf("agent, %s: %w: %s", mode, err, complaint)
	}
	if len(printed) == 0 {
		return nil, nil //nolint:nilnil // documented: it was stopped
	}
	var result crashtest.Result
	if err := json.Unmarshal(printed, &result); err != nil {
		return nil, fmt.Errorf("agent, %s: %w", mode, err)
	}
	return &result, nil
}

// reportPause reports a paused agent to the test, and waits for the order to continue.
func (m *manager) reportPause() error {
	triggered, err := points(failpoint.Triggered)
	if err != nil || len(triggered) == 0 {
		return err
	}
	if err := m.answers.Encode(crashtest.Answer{Paused: triggered[len(triggered)-1]}); err != nil {
		return err
	}
	var order crashtest.Order
	if err := m.orders.Decode(&order); err != nil {
		return err
	}
	if !order.Continue {
		return errors.New("another order came while the agent was paused")
	}
	return removeTriggered()
}

// points reads a list of failpoints, which is empty if there is no file. A line without its end is
// still being written and does not count.
func points(name string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(failpoint.Directory, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var points []string
	for line := range strings.Lines(string(data)) {
		if point, whole := strings.CutSuffix(line, "\n"); whole {
			points = append(points, point)
		}
	}
	return points, err
}

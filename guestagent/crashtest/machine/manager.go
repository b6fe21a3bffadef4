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
	// managerSocket is where the agent reaches process 1, and requestFile the refresh that it is to begin.
	managerSocket = "/run/manager.sock"
	requestFile   = "/run/request.pb"
	// maxLives is how many agents one order may take: the engine gives up a refresh that has ended four of them.
	maxLives = 8
	// heldPause is how often process 1 looks whether a point holds the agent.
	heldPause = 2 * time.Millisecond
)

// services are the units of a machine, each with its program. A refresh changes the programs of two.
var services = map[string]string{"db.service": "/usr/bin/db", "idle.service": "/usr/bin/idle", "web.service": "/usr/bin/web"}

// manager is process 1 of a machine: it runs services and the agent in place of systemd.
type manager struct {
	mutex sync.Mutex
	units map[string]*unit
	agent *os.Process
	// begun is the target that the agent has asked for last, "" if it has not.
	begun string

	orders  *json.Decoder
	answers *json.Encoder
}

// unit is a service.
type unit struct {
	process *exec.Cmd
	// configuration is what there was when it started.
	configuration string
	// started and stopped are moments of refresh.System.
	started, stopped uint64
}

// manage is process 1. It carries out orders until there are no more, and ends the machine with that.
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
	if err := arm(order.Arm); err != nil {
		return answer, err
	}
	mode := "resume"
	if order.Request != nil {
		mode = "refresh"
		if err := handOver(order); err != nil {
			return answer, err
		}
	}
	holding := slices.ContainsFunc(order.Arm, func(point string) bool { return strings.HasPrefix(point, failpoint.Hold+" ") })
	for {
		if answer.Lives++; answer.Lives > maxLives {
			return answer, fmt.Errorf("%d agents have ended", maxLives)
		}
		result, err := m.runAgent(mode, holding)
		if err != nil {
			return answer, err
		}
		if target := m.asked(); target != "" {
			if target != "soft-reboot.target" {
				return answer, fmt.Errorf("the agent has asked for %s", target)
			}
			if err := m.restartUserland(); err != nil {
				return answer, err
			}
		} else if result != nil {
			answer.Result = *result
			break
		}
		mode = "resume" // the agent was killed, or the userland has begun anew
	}
	if order.Sync {
		unix.Sync()
	}
	if answer.Passed, err = pointsIn(failpoint.Passed); err != nil {
		return answer, err
	}
	if answer.Struck, err = pointsIn(failpoint.Struck); err != nil {
		return answer, err
	}
	answer.Look, err = m.look()
	return answer, err
}

// arm has points strike, and all points listed that are reached from now on.
func arm(points []string) error {
	if err := os.MkdirAll(failpoint.Directory, 0o700); err != nil {
		return err
	}
	for name, text := range map[string]string{
		failpoint.Armed: strings.Join(append(points, ""), "\n"), failpoint.Passed: "",
	} {
		if err := os.WriteFile(filepath.Join(failpoint.Directory, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return forgetStruck()
}

func forgetStruck() error {
	if err := os.Remove(filepath.Join(failpoint.Directory, failpoint.Struck)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// handOver puts what a host uploads where the agent finds it.
func handOver(order crashtest.Order) error {
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

// runAgent runs one agent to its end. It returns nil for one that was killed, or that was told to end. If the order has
// points hold the agent, each is the test's to continue.
func (m *manager) runAgent(mode string, holding bool) (*crashtest.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var said, complaint bytes.Buffer
	agent := exec.CommandContext(ctx, mounts.AgentBinary, mode)
	agent.Stdout, agent.Stderr = &said, &complaint
	if err := agent.Start(); err != nil {
		return nil, err
	}
	m.mutex.Lock()
	m.agent = agent.Process
	m.mutex.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- agent.Wait() }()
	var held <-chan time.Time
	if holding {
		ticker := time.NewTicker(heldPause)
		defer ticker.Stop()
		held = ticker.C
	}
	for {
		select {
		case err := <-ended:
			if ctx.Err() != nil {
				return nil, fmt.Errorf("agent, %s: it has not ended in %v: %s", mode, limit, complaint.String())
			}
			return lastWord(mode, err, said.Bytes(), complaint.String())
		case <-held:
			if err := m.reportHeld(); err != nil {
				return nil, err
			}
		}
	}
}

// lastWord is how an agent has ended.
func lastWord(mode string, err error, said []byte, complaint string) (*crashtest.Result, error) {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == unix.SIGKILL {
			return nil, nil //nolint:nilnil // the contract: it was killed
		}
	}
	if err != nil {
		return nil, fmt.Errorf("agent, %s: %w: %s", mode, err, complaint)
	}
	if len(said) == 0 {
		return nil, nil //nolint:nilnil // the contract: it was told to end
	}
	var result crashtest.Result
	if err := json.Unmarshal(said, &result); err != nil {
		return nil, fmt.Errorf("agent, %s: %w", mode, err)
	}
	return &result, nil
}

// reportHeld tells the test which point holds the agent, if one does, and waits until the agent may go on.
func (m *manager) reportHeld() error {
	struck, err := pointsIn(failpoint.Struck)
	if err != nil || len(struck) == 0 {
		return err
	}
	if err := m.answers.Encode(crashtest.Answer{Held: struck[len(struck)-1]}); err != nil {
		return err
	}
	var order crashtest.Order
	if err := m.orders.Decode(&order); err != nil {
		return err
	}
	if !order.Continue {
		return errors.New("another order came while a point held the agent")
	}
	return forgetStruck()
}

// pointsIn reads a list of points; one that is not there is empty. A line that is being written does not count.
func pointsIn(name string) ([]string, error) {
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

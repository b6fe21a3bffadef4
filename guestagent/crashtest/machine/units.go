//go:build faults

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
)

// call is a request of the agent to process 1, and reply the answer.
type call struct{ Method, Unit string }

type reply struct {
	Error string
	State string
	// Started and Stopped are those of the unit.
	Started, Stopped uint64
	// Processes has the process id of each unit.
	Processes map[string]int
}

// listen answers the calls of agents until the machine ends.
func (m *manager) listen(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "machine: listen:", err)
			return
		}
		go func() {
			defer func() { _ = conn.Close() }() // the answer was written, or the agent was killed
			var request call
			if err := json.NewDecoder(conn).Decode(&request); err != nil {
				return // the agent was killed
			}
			answer, err := m.reply(request)
			if err != nil {
				answer.Error = err.Error()
			}
			_ = json.NewEncoder(conn).Encode(answer) // fails if the agent was killed
		}()
	}
}

func (m *manager) reply(request call) (answer reply, err error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	switch request.Method {
	case "begin":
		m.target = request.Unit
		return answer, m.agent.Signal(unix.SIGTERM)
	case "processes":
		answer.Processes = map[string]int{}
		for name, u := range m.units {
			answer.Processes[name] = u.process.Process.Pid
		}
		return answer, nil
	}
	u := m.units[request.Unit]
	switch request.Method {
	case "restart":
		if u == nil {
			return answer, fmt.Errorf("%s does not run", request.Unit)
		}
		if err := u.stop(); err != nil {
			return answer, err
		}
		err = u.start(programOf(request.Unit))
	case "start":
		if u == nil {
			u = &unit{}
			if err = u.start(programOf(request.Unit)); err == nil {
				m.units[request.Unit] = u
			}
		}
	case "stop":
		if u != nil {
			err = u.stop()
			delete(m.units, request.Unit)
			u = nil
		}
	case "state":
	default:
		return answer, fmt.Errorf("there is no method %s", request.Method)
	}
	answer.State = "inactive"
	if u != nil {
		answer.State, answer.Started, answer.Stopped = "active", u.started, u.stopped
	}
	return answer, err
}

const (
	// startTarget is the target at which a start ends, and unitDirectory has the units of a
	// release. A link in the target's directory has a unit started.
	startTarget   = "multi-user.target"
	unitDirectory = "/usr/lib/systemd/system/"
)

// programOf returns the program of a unit.
func programOf(unit string) string {
	if program, always := services[unit]; always {
		return program
	}
	return "/usr/bin/" + strings.TrimSuffix(unit, ".service")
}

// enabledUnits returns the units that a start starts.
func enabledUnits() ([]string, error) {
	names := slices.Collect(maps.Keys(services))
	links, err := os.ReadDir(unitDirectory + startTarget + ".wants")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, link := range links {
		names = append(names, link.Name())
	}
	slices.Sort(names)
	return names, nil
}

// takeTarget returns the target that the agent has requested since the last call, or "".
func (m *manager) takeTarget() string {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	target := m.target
	m.target = ""
	return target
}

func (m *manager) startServices() error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	names, err := enabledUnits()
	if err != nil {
		return err
	}
	for _, name := range names {
		u := &unit{}
		if err := u.start(programOf(name)); err != nil {
			return err
		}
		m.units[name] = u
	}
	return nil
}

// restartUserland is a soft-reboot: it stops all services, has the agent's program assemble the
// next root, switches to it and starts all services.
func (m *manager) restartUserland() error {
	m.mutex.Lock()
	for name, u := range m.units {
		if err := u.stop(); err != nil {
			m.mutex.Unlock()
			return err
		}
		delete(m.units, name)
	}
	m.mutex.Unlock()
	// Failpoints are for the agent. No test here kills the program that assembles the next root, which systemd runs.
	aside := failpoint.Directory + ".aside"
	if err := os.Rename(failpoint.Directory, aside); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if out, err := exec.CommandContext(ctx, mounts.AgentBinary, "next-root").CombinedOutput(); err != nil {
		return fmt.Errorf("assemble the next root: %w: %s", err, out)
	}
	if err := os.Rename(aside, failpoint.Directory); err != nil {
		return err
	}
	if err := softReboot(); err != nil {
		return err
	}
	return m.startServices()
}

// start starts the process of a unit, and remembers the present configuration.
func (u *unit) start(program string) error {
	configuration, err := os.ReadFile("/etc/mark/changes.conf")
	if err != nil {
		return err
	}
	process := exec.Command(program, "infinity")
	process.Stderr = os.Stderr
	if err := process.Start(); err != nil {
		return err
	}
	u.process, u.configuration = process, string(configuration)
	u.started, err = moment()
	return err
}

// stop kills the process of a unit.
func (u *unit) stop() error {
	if err := u.process.Process.Kill(); err != nil {
		return err
	}
	var exit *exec.ExitError
	if err := u.process.Wait(); err != nil && !errors.As(err, &exit) {
		return err
	}
	var err error
	u.stopped, err = moment()
	return err
}

// moment is the present time of CLOCK_MONOTONIC in microseconds, as refresh.System counts it.
func moment() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, err
	}
	return uint64(now.Nano() / int64(time.Microsecond)), nil
}

//go:build faults

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
)

// call is what the agent asks of process 1, and reply what it answers.
type call struct{ Method, Unit string }

type reply struct {
	Error string
	State string
	// Since and Until are the moments at which the unit was last started and stopped.
	Since, Until uint64
	// Processes are those of all units, by unit.
	Processes map[string]int
}

// listen answers the agent until the machine ends.
func (m *manager) listen(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "machine: listen:", err)
			return
		}
		go func() {
			defer func() { _ = conn.Close() }() // the answer was written, or the agent is gone
			var asked call
			if err := json.NewDecoder(conn).Decode(&asked); err != nil {
				return // an agent that was killed
			}
			answer, err := m.reply(asked)
			if err != nil {
				answer.Error = err.Error()
			}
			_ = json.NewEncoder(conn).Encode(answer) // an agent that was killed hears nothing
		}()
	}
}

func (m *manager) reply(asked call) (answer reply, err error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	switch asked.Method {
	case "begin":
		m.begun = asked.Unit
		return answer, m.agent.Signal(unix.SIGTERM)
	case "processes":
		answer.Processes = map[string]int{}
		for name, u := range m.units {
			answer.Processes[name] = u.process.Process.Pid
		}
		return answer, nil
	}
	u := m.units[asked.Unit]
	if u == nil {
		return answer, fmt.Errorf("there is no unit %s", asked.Unit)
	}
	switch asked.Method {
	case "restart":
		if err := u.stop(); err != nil {
			return answer, err
		}
		err = u.start(services[asked.Unit])
	case "state":
	default:
		return answer, fmt.Errorf("there is no method %s", asked.Method)
	}
	answer.State, answer.Since, answer.Until = "active", u.started, u.stopped
	return answer, err
}

// asked is the target that the agent has asked for since the last call; "" for none.
func (m *manager) asked() string {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	target := m.begun
	m.begun = ""
	return target
}

func (m *manager) startServices() error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	for name, program := range services {
		u := &unit{}
		if err := u.start(program); err != nil {
			return err
		}
		m.units[name] = u
	}
	return nil
}

// restartUserland is a soft-reboot: all services end, the agent assembles the next root, and all services start in it.
func (m *manager) restartUserland() error {
	m.mutex.Lock()
	for _, u := range m.units {
		if err := u.stop(); err != nil {
			m.mutex.Unlock()
			return err
		}
	}
	m.mutex.Unlock()
	// The points are the agent's. That a program of systemd's is killed on the way is not tried here.
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

// start starts the process of a unit, with the configuration that there is.
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

// stop ends the process of a unit.
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

// moment is now, as refresh.System counts it.
func moment() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, err
	}
	return uint64(now.Nano() / int64(time.Microsecond)), nil
}

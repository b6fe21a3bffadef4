// Package daemon runs processes that outlive the process that started them. Each runs in a session of its own, and a
// record, which is a file with its pid and start time, lets later processes find and end it.
//
// The kernel uses pids again. So a record only counts for a process with the recorded start time and boot.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
)

// Suffix is the suffix of the names of records.
const Suffix = ".daemon"

// maxRecord is the maximum size of a record in bytes.
const maxRecord = 4096

// killAfter is how long a process may take to end after SIGTERM before it gets SIGKILL.
const killAfter = 2 * time.Second

// Process identifies a process of this machine, even after it has ended.
type Process struct {
	PID int `json:"pid"`
	// Start is the process's start time in clock ticks since boot: field 22 of /proc/<pid>/stat, see proc(5).
	Start uint64 `json:"start"`
	// Boot is /proc/sys/kernel/random/boot_id.
	Boot string `json:"boot"`
}

// ErrGone means that the process has ended.
var ErrGone = errors.New("the process is gone")

// Identify returns the running process that has a pid now; ErrGone if there is none.
func Identify(pid int) (Process, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Process{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return Process{}, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return Process{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	// The command name may contain parentheses. The state and numbers follow the last one.
	fields := strings.Fields(string(stat)[strings.LastIndexByte(string(stat), ')')+1:])
	const state, start = 0, 19 // fields 3 and 22 of the whole line
	if len(fields) <= start {
		return Process{}, fmt.Errorf("identify process %d: /proc/%d/stat has %d fields", pid, pid, len(fields))
	}
	if fields[state] == "Z" || fields[state] == "X" {
		return Process{}, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	ticks, err := strconv.ParseUint(fields[start], 10, 64)
	if err != nil {
		return Process{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return Process{PID: pid, Start: ticks, Boot: strings.TrimSpace(string(boot))}, nil
}

// Running reports whether the process still runs.
func (p Process) Running() (bool, error) {
	now, err := Identify(p.PID)
	if errors.Is(err, ErrGone) {
		return false, nil
	}
	return err == nil && now == p, err
}

// Read reads a record; ErrGone if there is none.
func Read(record string) (Process, error) {
	data, err := os.ReadFile(record)
	if errors.Is(err, fs.ErrNotExist) {
		return Process{}, fmt.Errorf("record %s: %w", record, ErrGone)
	}
	if err != nil {
		return Process{}, fmt.Errorf("read the record of a process: %w", err)
	}
	var p Process
	if len(data) > maxRecord {
		return Process{}, fmt.Errorf("read the record %s: %d bytes are too many", record, len(data))
	}
	if len(data) == 0 {
		// Records are written atomically, so an empty one is left by a power cut, and the process has ended with it.
		return Process{}, fmt.Errorf("record %s is empty: %w", record, ErrGone)
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return Process{}, fmt.Errorf("read the record %s: %w", record, err)
	}
	if p.PID <= 1 || p.Start == 0 || p.Boot == "" {
		return Process{}, fmt.Errorf("read the record %s: it identifies no process", record)
	}
	return p, nil
}

// Write writes the record of a process, atomically.
func Write(record string, p Process) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("record process %d: %w", p.PID, err)
	}
	if err := renameio.WriteFile(record, data, 0o600, renameio.WithTempDir(filepath.Dir(record))); err != nil {
		return fmt.Errorf("record process %d: %w", p.PID, err)
	}
	return nil
}

// Start starts a command detached from this process, with its output in the file log, and records it.
func Start(record, log string, command ...string) (Process, error) {
	fail := func(err error) (Process, error) {
		return Process{}, fmt.Errorf("start %s: %w", command[0], err)
	}
	output, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = output.Close() }() // the child has its own
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	// This reaps the process if it ends first. If this process ends first, init does.
	go func() { _ = cmd.Wait() }()
	p, err := Identify(cmd.Process.Pid)
	if err != nil {
		return fail(errors.Join(err, lastLine(log)))
	}
	if err := Write(record, p); err != nil {
		return fail(errors.Join(err, cmd.Process.Kill()))
	}
	return p, nil
}

// lastLine returns the last line of a log as an error, if there is one.
func lastLine(log string) error {
	data, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(data))
	if text == "" {
		return nil
	}
	return errors.New(text[strings.LastIndexByte(text, '\n')+1:])
}

// Alive reports whether the recorded process still runs.
func Alive(record string) (bool, error) {
	p, err := Read(record)
	if errors.Is(err, ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return p.Running()
}

// End ends the recorded process, waits until it is gone, and removes the record. It is no error if there is no record,
// or if the process has ended already.
func End(ctx context.Context, record string) error {
	p, err := Read(record)
	if err == nil {
		err = p.end(ctx)
	}
	if err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	if err := os.Remove(record); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record %s: %w", record, err)
	}
	return nil
}

func (p Process) end(ctx context.Context) error {
	sent, since := syscall.Signal(0), time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		running, err := p.Running()
		if err != nil || !running {
			return err
		}
		want := syscall.SIGTERM
		if time.Since(since) > killAfter {
			want = syscall.SIGKILL
		}
		if want != sent {
			if err := syscall.Kill(p.PID, want); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end process %d: %w", p.PID, err)
			}
			sent = want
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("end process %d: %w", p.PID, ctx.Err())
		case <-tick.C:
		}
	}
}

// EndAll ends all processes that have a record in a directory.
func EndAll(ctx context.Context, dir string) error {
	records, err := filepath.Glob(filepath.Join(dir, "*"+Suffix))
	if err != nil {
		return fmt.Errorf("look for records in %s: %w", dir, err)
	}
	var failed []error
	for _, record := range records {
		failed = append(failed, End(ctx, record))
	}
	return errors.Join(failed...)
}

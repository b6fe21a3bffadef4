// Package daemon keeps processes that outlive the one that started them: started in a session of their own,
// recorded in a file by pid and start time, found again and ended by later processes.
//
// A pid alone names nothing: it is used again. So a record is only ever taken for a process whose start time
// and boot are the recorded ones.
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
)

// Suffix is what the name of every record ends in.
const Suffix = ".daemon"

// maxRecord bounds what is read of a record.
const maxRecord = 4096

// patience is how long a process may take to end after SIGTERM before it gets SIGKILL.
const patience = 2 * time.Second

// Process names one process of this machine for all time.
type Process struct {
	PID int `json:"pid"`
	// Start is the process's start time in clock ticks since boot: field 22 of /proc/<pid>/stat, see proc(5).
	Start uint64 `json:"start"`
	// Boot is /proc/sys/kernel/random/boot_id.
	Boot string `json:"boot"`
}

// ErrGone means that the process is not running any more.
var ErrGone = errors.New("the process is gone")

// Identify names the running process that has the pid now; ErrGone if there is none.
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
	// The command name may hold anything, parentheses included; what follows the last one is numbers.
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

// Running reports whether this very process still runs.
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
		// Records appear whole. One without bytes is what a power cut may leave, which no process survives.
		return Process{}, fmt.Errorf("record %s is empty: %w", record, ErrGone)
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return Process{}, fmt.Errorf("read the record %s: %w", record, err)
	}
	if p.PID <= 1 || p.Start == 0 || p.Boot == "" {
		return Process{}, fmt.Errorf("read the record %s: it names no process", record)
	}
	return p, nil
}

// Write records a process, replacing what the record held.
func Write(record string, p Process) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("record process %d: %w", p.PID, err)
	}
	temporary := record + ".new"
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("record process %d: %w", p.PID, err)
	}
	_, err = file.Write(data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("record process %d: %w", p.PID, err)
	}
	if err := os.Rename(temporary, record); err != nil {
		return fmt.Errorf("record process %d: %w", p.PID, err)
	}
	return nil
}

// Start starts command detached from this process and records it. What it writes goes to the log file.
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
	// Somebody has to collect it should it end first; init does when this process ends first.
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

// End ends the recorded process, waits until it is gone and removes the record. No record, or one of a process
// that is gone, is success.
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
		if time.Since(since) > patience {
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

// EndAll ends every process that has a record in the directory.
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

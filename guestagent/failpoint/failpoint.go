package failpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The actions of a point.
const (
	// Kill sends SIGKILL to the process.
	Kill = "kill"
	// Pause stops the caller until a test removes the file Triggered.
	Pause = "pause"
	// Fail makes the operation fail with ErrInjected.
	Fail = "fail"
)

// Directory is where the files Armed, Triggered and Reached are. It is in the agent's own directory in /run.
const Directory = "/run/sharedos/failpoints"

const (
	// Armed lists the points that trigger, one a line: "<action> <n> <name>". The point triggers
	// when it is reached for the n-th time from now on; a point may have several lines. A line is
	// removed before its point triggers, so the next process passes the point.
	Armed = "armed"
	// Triggered lists the points that have triggered, one a line.
	Triggered = "triggered"
	// Reached lists every point that was reached, one a line. A test that wants the list creates the file.
	Reached = "reached"
)

// ErrInjected is the error of an operation that a point made fail.
var ErrInjected = errors.New("a fault was injected")

const (
	// pauseLimit bounds a pause that no test ends.
	pauseLimit = 10 * time.Minute
	// pausePoll is the time between two looks at the file Triggered.
	pausePoll = 20 * time.Millisecond
)

// Hit reaches a point. It returns ErrInjected if the point is armed to fail, and another error if
// the files cannot be read or written. It does not return if the point is armed to kill.
func Hit(name string) error { return live.hit(name) }

var live = points{directory: Directory, kill: killSelf, sleep: time.Sleep}

// points are the failpoints of one process.
type points struct {
	directory string
	kill      func() error
	sleep     func(time.Duration)

	mutex sync.Mutex
}

func (p *points) hit(name string) error {
	action, err := p.trigger(name)
	if err != nil {
		return fmt.Errorf("failpoint %q: %w", name, err)
	}
	switch action {
	case "":
		return nil
	case Kill:
		return p.kill()
	case Pause:
		return p.pause()
	default:
		return fmt.Errorf("failpoint %q: %w", name, ErrInjected)
	}
}

func (p *points) pause() error {
	for range pauseLimit / pausePoll {
		_, err := os.Stat(filepath.Join(p.directory, Triggered))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		p.sleep(pausePoll)
	}
	return nil
}

// trigger counts that the point is reached, and returns its action if it triggers now, or "".
func (p *points) trigger(name string) (string, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if err := p.add(Reached, name, 0); err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(p.directory, Armed))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var rest []string
	found, counted := "", false
	for line := range strings.Lines(string(text)) {
		action, after, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		times, point, _ := strings.Cut(after, " ")
		if point != name {
			rest = append(rest, line)
			continue
		}
		counted = true
		left, err := strconv.Atoi(times)
		if err != nil {
			return "", fmt.Errorf("read %s: %w", Armed, err)
		}
		if left > 1 {
			rest = append(rest, fmt.Sprintf("%s %d %s\n", action, left-1, point))
			continue
		}
		found = action
	}
	if !counted {
		return "", nil
	}
	if err := os.WriteFile(filepath.Join(p.directory, Armed), []byte(strings.Join(rest, "")), 0o600); err != nil {
		return "", err
	}
	if found == "" {
		return "", nil
	}
	return found, p.add(Triggered, name, os.O_CREATE)
}

// add appends a line to a file. Without os.O_CREATE in flag it does nothing if there is no such file.
func (p *points) add(file, line string, flag int) (err error) {
	f, err := os.OpenFile(filepath.Join(p.directory, file), os.O_WRONLY|os.O_APPEND|flag, 0o600)
	if errors.Is(err, fs.ErrNotExist) && flag == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.WriteString(line + "\n")
	return err
}

func killSelf() error {
	if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
		return err
	}
	time.Sleep(pauseLimit) // the signal ends the process first
	return nil
}

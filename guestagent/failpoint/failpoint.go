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

// What a point does when it strikes.
const (
	// Kill ends the agent at once, as SIGKILL does.
	Kill = "kill"
	// Hold keeps the agent where it is until the list of what has struck is removed, for the host to cut the power
	// meanwhile or to do something else.
	Hold = "hold"
	// Fail makes what was about to be done fail with ErrStruck.
	Fail = "fail"
)

// Directory has the file Armed, and gets the file Struck. It is the agent's own in /run.
const Directory = "/run/sharedos/failpoints"

const (
	// Armed lists the points that strike, one a line: "<action> <n> <name>" strikes when the point is reached for
	// the n-th time from now. A line is taken out before its point strikes, so that the agent's next life passes it.
	Armed = "armed"
	// Struck lists the points that have struck, one a line.
	Struck = "struck"
	// Passed lists, if it is there, every point that was reached, one a line.
	Passed = "passed"
)

// ErrStruck is why something failed that could have been done.
var ErrStruck = errors.New("a fault was injected")

const (
	// holdLimit ends a point that nobody relieves, holdPause is how often it looks whether somebody did.
	holdLimit = 10 * time.Minute
	holdPause = 20 * time.Millisecond
)

// Hit is a point. It returns ErrStruck where the point is armed to fail, an error where the files cannot be used, and
// not at all where it is armed to kill.
func Hit(name string) error { return live.hit(name) }

var live = points{directory: Directory, kill: killSelf, pause: time.Sleep}

// points are those of one agent.
type points struct {
	directory string
	kill      func() error
	pause     func(time.Duration)

	mutex sync.Mutex
}

func (p *points) hit(name string) error {
	action, err := p.strike(name)
	if err != nil {
		return fmt.Errorf("point %q: %w", name, err)
	}
	switch action {
	case "":
		return nil
	case Kill:
		return p.kill()
	case Hold:
		return p.hold()
	default:
		return fmt.Errorf("point %q: %w", name, ErrStruck)
	}
}

func (p *points) hold() error {
	for range holdLimit / holdPause {
		_, err := os.Stat(filepath.Join(p.directory, Struck))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		p.pause(holdPause)
	}
	return nil
}

// strike takes the point's turn off the list, and returns what it does now: "" for nothing.
func (p *points) strike(name string) (string, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if err := p.add(Passed, name, 0); err != nil {
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
	found := ""
	for line := range strings.Lines(string(text)) {
		action, after, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		times, point, _ := strings.Cut(after, " ")
		if point != name || found != "" {
			rest = append(rest, line)
			continue
		}
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
	if strings.Join(rest, "") == string(text) {
		return "", nil
	}
	if err := os.WriteFile(filepath.Join(p.directory, Armed), []byte(strings.Join(rest, "")), 0o600); err != nil {
		return "", err
	}
	if found == "" {
		return "", nil
	}
	return found, p.add(Struck, name, os.O_CREATE)
}

// add adds a line to a file; without the flag to create it, only to one that is there.
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
	time.Sleep(holdLimit) // the signal comes first
	return nil
}

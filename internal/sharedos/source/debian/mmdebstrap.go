package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
)

// ErrNoMmdebstrap means that the program is not installed.
var ErrNoMmdebstrap = errors.New("mmdebstrap is not installed")

// cleanupWait is how long mmdebstrap may clean up after SIGTERM before it gets SIGKILL.
const cleanupWait = 20 * time.Second

// mmdebstrap makes a tree and writes it as a tar stream.
func mmdebstrap(ctx context.Context, in *input, out io.Writer, progress source.Progress) (err error) {
	// The directory is readable for everyone, since mmdebstrap may run processes as other users.
	dir, err := os.MkdirTemp("", "sharedos-mmdebstrap-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	args, err := mmdebstrapArgs(in, dir)
	if err != nil {
		return err
	}
	return runMmdebstrap(ctx, in, args, out, progress)
}

// runMmdebstrap runs it. All its processes end with ctx.
func runMmdebstrap(ctx context.Context, in *input, args []string, out io.Writer, progress source.Progress) error {
	path, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return fmt.Errorf("%w (%w): run apt-get install mmdebstrap, or use an archive source", ErrNoMmdebstrap, err)
	}
	if err := checkPrivileges(in.mode); err != nil {
		return err
	}
	progress("mmdebstrap: starting", 0, 0)
	cmd := exec.CommandContext(ctx, path, args...)
	// The date is that of the release, so maintainer scripts record the same date in every build.
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(in.Suites[0].date.Unix(), 10))
	log := &logReader{progress: progress}
	cmd.Stdout, cmd.Stderr = out, log
	// It gets a process group of its own, so all its processes can be ended together, and so Ctrl-C on the terminal
	// reaches it only through ctx.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var kill *time.Timer
	cmd.Cancel = func() error {
		group := -cmd.Process.Pid
		// On SIGTERM it unmounts and removes what it made.
		kill = time.AfterFunc(cleanupWait, func() { _ = syscall.Kill(group, syscall.SIGKILL) })
		return syscall.Kill(group, syscall.SIGTERM)
	}
	cmd.WaitDelay = cleanupWait + 5*time.Second
	err = cmd.Run()
	if kill != nil {
		kill.Stop()
	}
	log.endLine()
	if ctx.Err() != nil {
		return fmt.Errorf("mmdebstrap: %w", context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("mmdebstrap: %w; its last messages:\n%s", err, log.last())
	}
	return nil
}

// mmdebstrapArgs returns the command line. It writes files that the command line refers to into a directory.
func mmdebstrapArgs(in *input, dir string) ([]string, error) {
	args := []string{"--variant=minbase", "--format=tar", "--architectures=" + in.Architecture}
	if in.mode != "" && in.mode != "auto" {
		args = append(args, "--mode="+in.mode)
	}
	if in.kept.dir != "" {
		hooks, err := in.kept.args(dir)
		if err != nil {
			return nil, err
		}
		args = append(args, hooks...)
	}
	if len(in.Packages) > 0 {
		args = append(args, "--include="+strings.Join(in.Packages, ","))
	}
	if len(in.packageFiles) > 0 {
		// The hook makes the files available to dpkg in the tree and removes them afterwards.
		args = append(args, "--hook-dir=/usr/share/mmdebstrap/hooks/file-mirror-automount")
	}
	for _, p := range in.packageFiles {
		path, err := p.copyTo(dir)
		if err != nil {
			return nil, err
		}
		args = append(args, "--include="+path)
	}
	suites, err := in.sourceArgs(dir)
	return append(args, suites...), err
}

// sourceArgs are the last arguments: a line of sources.list(5) for each suite, in the user's order.
func (in *input) sourceArgs(dir string) ([]string, error) {
	args := []string{"--", in.Suites[0].Name, "-"}
	for i, s := range in.Suites {
		if s.Key == "" {
			options := ""
			if in.AnyDate {
				options = "[check-valid-until=no] " // sources.list(5)
			}
			args = append(args, "deb "+options+s.Site+" "+s.Name+" "+strings.Join(s.Components, " "))
			continue
		}
		path, err := s.writeSources(dir, i, in.AnyDate)
		if err != nil {
			return nil, err
		}
		args = append(args, path)
	}
	return args, nil
}

// checkPrivileges returns an error if an ordinary user lacks what mmdebstrap needs, before mmdebstrap starts.
func checkPrivileges(mode string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	has := func(program string) bool {
		_, err := exec.LookPath(program)
		return err == nil
	}
	switch unshare, fake := has("newuidmap") && has("newgidmap"), has("fakechroot") && has("fakeroot"); {
	case mode == "root":
		return fmt.Errorf("%w: the mode root needs root: run as root", source.ErrRequirement)
	case mode == "unshare" && !unshare:
		return fmt.Errorf("%w: the mode unshare needs newuidmap: run apt-get install uidmap", source.ErrRequirement)
	case mode == "fakechroot" && !fake:
		return fmt.Errorf(
			"%w: the mode fakechroot needs fakechroot and fakeroot: run apt-get install fakechroot fakeroot",
			source.ErrRequirement)
	case !unshare && !fake:
		return fmt.Errorf(
			"%w: an ordinary user needs newuidmap (run apt-get install uidmap), or fakechroot and fakeroot, to make a tree", source.ErrRequirement)
	default:
		return nil
	}
}

// logReader turns the messages of mmdebstrap into progress, and keeps the last ones.
type logReader struct {
	progress source.Progress
	partial  []byte
	lines    []string
}

// keptLines is how many lines are kept, and keptLine how many bytes of a line.
const (
	keptLines = 25
	keptLine  = 1 << 10
)

func (l *logReader) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		i := bytes.IndexAny(rest, "\r\n")
		if i < 0 {
			l.extendLine(rest)
			break
		}
		l.extendLine(rest[:i])
		l.endLine()
		rest = rest[i+1:]
	}
	return len(p), nil
}

func (l *logReader) extendLine(p []byte) {
	l.partial = append(l.partial, p[:min(len(p), keptLine-len(l.partial))]...)
}

func (l *logReader) endLine() {
	line := strings.TrimSpace(string(l.partial))
	l.partial = l.partial[:0]
	if line == "" {
		return
	}
	if l.lines = append(l.lines, line); len(l.lines) > keptLines {
		l.lines = l.lines[1:]
	}
	// What it says of hooks are command lines of ours.
	if step, ok := strings.CutPrefix(line, "I: "); ok && !strings.HasPrefix(step, "running --") {
		l.progress("mmdebstrap: "+strings.TrimSuffix(step, "..."), 0, 0)
	}
}

func (l *logReader) last() string { return strings.Join(l.lines, "\n") }

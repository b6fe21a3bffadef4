package source

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
)

// ErrNoMmdebstrap means that the program is not installed.
var ErrNoMmdebstrap = errors.New("mmdebstrap is not installed")

// endWait is how long mmdebstrap may take to clean up after it was asked to end, before it is killed.
const endWait = 20 * time.Second

// mmdebstrap makes a tree and writes it as a tar stream. All its processes end with ctx.
func mmdebstrap(ctx context.Context, in *debianInput, out io.Writer, progress Progress) (err error) {
	path, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return fmt.Errorf("%w (%w): run apt-get install mmdebstrap, or use an archive source", ErrNoMmdebstrap, err)
	}
	if err := checkRights(in.mode); err != nil {
		return err
	}
	progress("mmdebstrap: starting", 0, 0)
	// Everybody may read in it: mmdebstrap's processes may be of other users.
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
	cmd := exec.CommandContext(ctx, path, args...)
	// The date is that of the release, so that what maintainer scripts write down is the same in every build.
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(in.Suites[0].date.Unix(), 10))
	said := &narrator{progress: progress}
	cmd.Stdout, cmd.Stderr = out, said
	// A group of its own, so that the whole of it can be ended, and so that Ctrl-C on the terminal comes to it
	// through ctx alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var kill *time.Timer
	cmd.Cancel = func() error {
		group := -cmd.Process.Pid
		// It unmounts and removes what it made when it is asked to end.
		kill = time.AfterFunc(endWait, func() { _ = syscall.Kill(group, syscall.SIGKILL) })
		return syscall.Kill(group, syscall.SIGTERM)
	}
	cmd.WaitDelay = endWait + 5*time.Second
	err = cmd.Run()
	if kill != nil {
		kill.Stop()
	}
	said.flush()
	if ctx.Err() != nil {
		return fmt.Errorf("mmdebstrap: %w", context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("mmdebstrap: %w; it said:\n%s", err, said.last())
	}
	return nil
}

// mmdebstrapArgs is the command line: one line of sources.list(5) for each suite, in the user's order. Files that it
// refers to are written into a directory.
func mmdebstrapArgs(in *debianInput, dir string) ([]string, error) {
	args := []string{"--variant=minbase", "--format=tar", "--architectures=" + in.Architecture}
	if in.mode != "" && in.mode != "auto" {
		args = append(args, "--mode="+in.mode)
	}
	if len(in.Packages) > 0 {
		args = append(args, "--include="+strings.Join(in.Packages, ","))
	}
	if len(in.packageFiles) > 0 {
		// It brings them to where dpkg in the tree finds them, and takes them away again.
		args = append(args, "--hook-dir=/usr/share/mmdebstrap/hooks/file-mirror-automount")
	}
	for _, p := range in.packageFiles {
		path, err := p.copyTo(dir)
		if err != nil {
			return nil, err
		}
		args = append(args, "--include="+path)
	}
	args = append(args, "--", in.Suites[0].Name, "-")
	for i, s := range in.Suites {
		if s.Key == "" {
			args = append(args, "deb "+s.Site+" "+s.Name+" "+strings.Join(s.Components, " "))
			continue
		}
		path, err := s.sourcesFile(dir, i)
		if err != nil {
			return nil, err
		}
		args = append(args, path)
	}
	return args, nil
}

// checkRights reports what an ordinary user lacks to make a tree, before mmdebstrap begins.
func checkRights(mode string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	has := func(program string) bool {
		_, err := exec.LookPath(program)
		return err == nil
	}
	switch unshare, pretend := has("newuidmap") && has("newgidmap"), has("fakechroot") && has("fakeroot"); {
	case mode == "root":
		return fmt.Errorf("%w: the mode root takes root", ErrRequirement)
	case mode == "unshare" && !unshare:
		return fmt.Errorf("%w: the mode unshare takes newuidmap: run apt-get install uidmap", ErrRequirement)
	case mode == "fakechroot" && !pretend:
		return fmt.Errorf("%w: the mode fakechroot takes fakechroot and fakeroot: run apt-get install fakechroot fakeroot", ErrRequirement)
	case !unshare && !pretend:
		return fmt.Errorf("%w: an ordinary user needs newuidmap (run apt-get install uidmap), or fakechroot and fakeroot, to make a tree", ErrRequirement)
	default:
		return nil
	}
}

// narrator turns what mmdebstrap says into progress, and keeps the end of it.
type narrator struct {
	progress Progress
	partial  []byte
	lines    []string
}

// The last words that are kept: lines, and bytes of a line.
const (
	keptLines = 25
	keptLine  = 1 << 10
)

func (n *narrator) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		i := bytes.IndexAny(rest, "\r\n")
		if i < 0 {
			n.keep(rest)
			break
		}
		n.keep(rest[:i])
		n.flush()
		rest = rest[i+1:]
	}
	return len(p), nil
}

// keep adds to the line that has not ended.
func (n *narrator) keep(p []byte) {
	n.partial = append(n.partial, p[:min(len(p), keptLine-len(n.partial))]...)
}

// flush ends a line.
func (n *narrator) flush() {
	line := strings.TrimSpace(string(n.partial))
	n.partial = n.partial[:0]
	if line == "" {
		return
	}
	if n.lines = append(n.lines, line); len(n.lines) > keptLines {
		n.lines = n.lines[1:]
	}
	if step, ok := strings.CutPrefix(line, "I: "); ok {
		n.progress("mmdebstrap: "+strings.TrimSuffix(step, "..."), 0, 0)
	}
}

func (n *narrator) last() string { return strings.Join(n.lines, "\n") }

package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	logLimit   = 10 * time.Second
	logLines   = "8"
	maxOutput  = 8 << 10
	toolLimit  = time.Minute
	killedWait = 2 * time.Second
)

// Run runs a command without a shell and returns its output, at most 8 KiB. When ctx ends, the command and its children
// are killed.
func Run(ctx context.Context, argv ...string) (string, error) {
	if len(argv) == 0 {
		return "", errors.New("run a command: it is empty")
	}
	command := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var output bounded
	command.Stdout, command.Stderr = &output, &output
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = killedWait
	err := command.Run()
	text := strings.TrimSpace(output.String())
	if err != nil {
		return text, fmt.Errorf("run %s: %w: %s", argv[0], errors.Join(ctx.Err(), err), text)
	}
	return text, nil
}

// bounded keeps the first bytes and drops the rest. The buffer is not embedded, because io.Copy would prefer its
// ReadFrom over Write.
type bounded struct{ kept bytes.Buffer }

func (b *bounded) String() string { return b.kept.String() }

func (b *bounded) Write(data []byte) (int, error) {
	if room := maxOutput - b.kept.Len(); room > 0 {
		b.kept.Write(data[:min(room, len(data))])
	}
	return len(data), nil
}

// LastLog returns the last lines that a unit logged in this boot; "" if there are none or the journal cannot be read:
// it only completes an error, which it must not hide.
func LastLog(ctx context.Context, unit string) string {
	ctx, cancel := context.WithTimeout(ctx, logLimit)
	defer cancel()
	lines, err := Run(ctx, "journalctl", "--unit", unit, "--boot", "--lines", logLines, "--output",
		"cat", "--no-pager", "--quiet")
	if err != nil {
		return ""
	}
	return lines
}

// accountDirs are the directories of files that systemd-sysusers reads (sysusers.d(5)).
var accountDirs = []string{"/etc/sysusers.d", "/run/sysusers.d", "/usr/local/lib/sysusers.d", "/usr/lib/sysusers.d"}

// ApplyAccounts creates the accounts that files of sysusers.d with these names declare (systemd-sysusers(8)).
// It does not bring back what others declare and was removed. A name of which there is no file is left out.
func ApplyAccounts(ctx context.Context, names []string) error {
	names, err := present(accountDirs, names)
	if err != nil || len(names) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, toolLimit)
	defer cancel()
	// Of a plain name it reads the file of the first directory that has one.
	_, err = Run(ctx, slices.Concat([]string{"systemd-sysusers", "--"}, names)...)
	return err
}

// temporaryDirs are the directories of files that systemd-tmpfiles reads (tmpfiles.d(5)).
var temporaryDirs = []string{"/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/usr/lib/tmpfiles.d"}

// ApplyTemporary creates what files of tmpfiles.d with these names declare (systemd-tmpfiles(8)). It
// removes nothing, and does not touch what others declare. A name of which there is no file is left out.
func ApplyTemporary(ctx context.Context, names []string) error {
	names, err := present(temporaryDirs, names)
	if err != nil || len(names) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, toolLimit)
	defer cancel()
	// Of a plain name it reads the file of the first directory that has one.
	_, err = Run(ctx, slices.Concat([]string{"systemd-tmpfiles", "--create", "--exclude-prefix=/dev", "--"}, names)...)
	return err
}

// present returns those of the names that one of the directories has.
func present(directories, names []string) (found []string, err error) {
	for _, name := range names {
		for _, directory := range directories {
			_, err := os.Stat(filepath.Join(directory, name))
			if err == nil {
				found = append(found, name)
				break
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	return found, nil
}

//go:build faults

package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/crashtest"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
)

// A description shows the content of files up to maxShown bytes, and the digest of files up to
// maxHashed bytes. A larger file is a program that is the same in all releases.
const (
	maxShown  = 1 << 10
	maxHashed = 1 << 20
)

// look describes everything in the machine that a refresh changes: the files in /usr and /etc, mount points with
// two mounts, the agent's records on the private disk, and the programs and the configuration of the services.
func (m *manager) look() (string, error) {
	var text strings.Builder
	if err := list(&text, "/usr"); err != nil {
		return "", err
	}
	mounted, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	var points []string
	for line := range strings.Lines(string(mounted)) {
		point := strings.Fields(line)[4]
		if slices.Contains(points, point) {
			fmt.Fprintln(&text, "mounted twice:", point)
		}
		points = append(points, point)
	}
	entries, err := os.ReadDir(mounts.StateDir)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		// Names with a dot are drafts of files that were being replaced. A settled carry stays, or
		// not, for the next boot to undo, and files that a release has replaced stay for the admin.
		if !strings.HasPrefix(entry.Name(), ".") && entry.Name() != "undo-settled" && entry.Name() != "replaced" {
			fmt.Fprintln(&text, "state:", entry.Name())
		}
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	units, err := m.running()
	if err != nil {
		return "", err
	}
	for _, name := range slices.Sorted(maps.Keys(units)) {
		fmt.Fprintln(&text, "runs:", name)
		if units[name].Runs != units[name].Present {
			fmt.Fprintf(&text, "%s runs another program than the one in /usr\n", name)
		}
	}
	// A refresh does not restart idle.service, which keeps the old configuration.
	for _, name := range []string{"db.service", "web.service"} {
		fmt.Fprintf(&text, "%s has read %s\n", name, m.units[name].configuration)
	}
	for _, top := range []string{"/etc", "/var/opt"} {
		if err := list(&text, top); err != nil {
			return "", err
		}
	}
	err = describeBaseline(&text)
	return text.String(), err
}

// running describes the running units. The caller holds the mutex.
func (m *manager) running() (map[string]crashtest.Running, error) {
	found := map[string]crashtest.Running{}
	for name, u := range m.units {
		one := crashtest.Running{PID: u.process.Process.Pid}
		var err error
		if one.Runs, err = digest(fmt.Sprintf("/proc/%d/exe", one.PID)); err != nil {
			return nil, err
		}
		if one.Present, err = digest(programOf(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		found[name] = one
	}
	return found, nil
}

// describeBaseline describes the baseline of /etc, which has to be that of the release that runs.
func describeBaseline(text io.Writer) error {
	baseline, err := boot.Carrier("/").Baseline()
	if err != nil {
		return err
	}
	fmt.Fprintf(text, "baseline of %s, unlisted %v, partial %v, %s\n", baseline.Stack, baseline.Unlisted,
		baseline.Partial, baseline.Digest())
	return nil
}

// list describes every entry below a directory.
func list(text io.Writer, directory string) error {
	return filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == "/etc/.pwd.lock" {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("stat %s: no owner", path)
		}
		content := ""
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			content, err = os.Readlink(path)
		case info.Mode().IsRegular() && info.Size() <= maxShown:
			var data []byte
			data, err = os.ReadFile(path)
			content = string(data)
		case info.Mode().IsRegular() && info.Size() <= maxHashed:
			content, err = digest(path)
		}
		fmt.Fprintf(text, "%s %o %d %d %q\n", path, stat.Mode, stat.Uid, stat.Gid, content)
		return err
	})
}

func digest(path string) (_ string, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sum.Sum(nil)), nil
}

package testbed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/daemon"
)

// root holds the testbeds of tests. Its path is short, because unix sockets are made below it.
const root = "/tmp/sharedos-test"

// owner is a file in a testbed's directory. It records the test process that made the testbed.
const owner = "owner" + daemon.Suffix

// New starts a testbed that ends with the test. First it removes what killed test processes have left. If the test
// fails, New keeps guest consoles and daemon logs and logs where they are.
func New(t testing.TB) *Testbed {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*startTimeout)
	defer cancel()
	if err := SweepDead(ctx); err != nil {
		t.Fatalf("remove what killed tests have left: %v", err)
	}
	dir, err := newDir(ctx)
	if err != nil {
		t.Fatalf("make a testbed's directory: %v", err)
	}
	b, err := Start(ctx, dir)
	if err != nil {
		t.Fatal(errors.Join(err, os.RemoveAll(dir)))
	}
	b.waited = func(d time.Duration) { t.Attr(AttrWaited, d.String()) }
	t.Cleanup(func() {
		b.reportStarts(t)
		if err := b.Close(); err != nil {
			t.Errorf("%v", err)
		}
		if t.Failed() {
			b.keepLogs(t)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the testbed's directory: %v", err)
		}
	})
	return b
}

// Attributes of tests (testing.T.Attr), from which package summary sums up what guests cost. Durations are written as
// time.Duration prints them.
const (
	// AttrStarts is how many guests were started, AttrRan is how long all of them ran, and
	// AttrWaited is how long the test waited for guest slots.
	AttrStarts = "sharedos.guest-starts"
	AttrRan    = "sharedos.guests-ran"
	AttrWaited = "sharedos.waited-for-slots"
)

// reportStarts reports the guests that were started as attributes of a test.
func (b *Testbed) reportStarts(t testing.TB) {
	starts, err := b.GuestStarts(time.Now())
	if err != nil {
		t.Errorf("count the guests that were started: %v", err)
	}
	if starts.Count > 0 {
		t.Attr(AttrStarts, strconv.Itoa(starts.Count))
		t.Attr(AttrRan, starts.Ran.String())
	}
}

// newDir makes a testbed's directory. As long as it does not name its owner, no sweep may see it.
func newDir(ctx context.Context) (dir string, err error) {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	unlock, err := Lock(ctx, root)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if dir, err = MakeDir(root); err != nil {
		return "", err
	}
	self, err := daemon.Identify(os.Getpid())
	if err != nil {
		return "", err
	}
	return dir, daemon.Write(filepath.Join(dir, owner), self)
}

// SweepDead ends and removes the testbeds of test processes that no longer exist. Only one process sweeps at a
// time, because two that remove the same directory disturb each other.
func SweepDead(ctx context.Context) (err error) {
	unlock, err := Lock(ctx, root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	return sweep(ctx)
}

func sweep(ctx context.Context) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	var failed []error
	for _, entry := range entries {
		dir := filepath.Join(root, entry.Name())
		record := filepath.Join(dir, owner)
		alive, err := daemon.Alive(record)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if alive || younger(record, dir) {
			continue
		}
		// Nothing is lost if the sweep is interrupted: the directory, with the owner's record in it, goes last.
		err = errors.Join(daemon.EndAll(ctx, filepath.Join(dir, "state")),
			daemon.End(ctx, filepath.Join(dir, "init"+daemon.Suffix)))
		if err == nil {
			err = os.RemoveAll(dir)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// younger reports whether the directory has no owner yet because another process is just making it.
func younger(record, dir string) bool {
	if _, err := os.Stat(record); err == nil {
		return false
	}
	info, err := os.Stat(dir)
	return err != nil || time.Since(info.ModTime()) < time.Minute
}

// KeepLogs keeps what goes with a VM that is about to be deleted, its console log and that of its
// vsock daemon, in case the test fails later.
func (b *Testbed) KeepLogs(vm string) error {
	dir := filepath.Join(b.dir, "log", "deleted")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep the logs of %s: %w", vm, err)
	}
	logs, err := filepath.Glob(filepath.Join(b.StateDir(), "vsock-*.log"))
	if err != nil {
		return fmt.Errorf("keep the logs of %s: %w", vm, err)
	}
	for _, path := range append(logs, filepath.Join(b.StateDir(), "console", vm+".log")) {
		err := os.Link(path, filepath.Join(dir, filepath.Base(path)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) &&
			!errors.Is(err, fs.ErrExist) { // it was never started, or was kept before
			return err
		}
	}
	return nil
}

// keepLogs copies consoles and logs out of the testbed's directory.
func (b *Testbed) keepLogs(t testing.TB) {
	base := os.Getenv("SHAREDOS_LOGS")
	if base == "" {
		base = filepath.Join(os.TempDir(), "sharedos-failed")
	}
	to := filepath.Join(base, strings.NewReplacer("/", "_", " ", "_").Replace(t.Name())+time.Now().Format("-150405"))
	for name, from := range map[string]string{"console": filepath.Join(b.StateDir(), "console"),
		"log": filepath.Join(b.dir, "log")} {
		err := os.CopyFS(filepath.Join(to, name), os.DirFS(from))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // no guest, no consoles
			t.Logf("keep the logs of the failed test: %v", err)
		}
	}
	t.Logf("guest consoles and daemon logs of the failed test: %s", to)
}

var names struct {
	sync.Mutex
	last int
}

// Name returns a name that no other test uses, short enough for a hostname.
func (b *Testbed) Name(prefix string) string {
	names.Lock()
	defer names.Unlock()
	names.last++
	return fmt.Sprintf("%s-%s-%d", prefix, filepath.Base(b.dir), names.last)
}

var ports struct {
	sync.Mutex
	given map[int]bool
}

// FreePort returns a TCP port of 127.0.0.1 on which nothing listens and which this process has not returned before.
func FreePort() (uint16, error) {
	ports.Lock()
	defer ports.Unlock()
	if ports.given == nil {
		ports.given = map[int]bool{}
	}
	for range 1000 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		address, ok := listener.Addr().(*net.TCPAddr)
		if err := listener.Close(); err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		if ok && !ports.given[address.Port] {
			ports.given[address.Port] = true
			return uint16(address.Port), nil
		}
	}
	return 0, errors.New("find a free port: all of them were returned before")
}

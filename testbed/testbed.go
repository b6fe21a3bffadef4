// Package testbed starts what tests, benchmarks and the demo need: a real libvirt that touches no other one,
// names, ports and directories of their own, and an HTTP prober (package probe).
//
// libvirtd and virtlogd run as root in a mount namespace that shows the testbed's own directories in the place of
// libvirt's, and in a pid namespace. The pid namespace ends with the process that started it, however that process
// ends, and every QEMU in it ends, too. Processes outside reach the sockets through the testbed's directory.
package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/daemon"
)

// maxDir bounds the path of a testbed in bytes, since the path of a unix socket in it may have 108 bytes.
const maxDir = 48

// startTimeout bounds how long a daemon may take until it answers. What libvirtd has to ask QEMU
// for takes half a minute of a processor that nothing else uses.
const startTimeout = 5 * time.Minute

// Testbed is one running libvirt.
type Testbed struct {
	dir  string
	init *exec.Cmd
	// ended is closed when the first process of the namespaces has ended and was waited for.
	ended chan struct{}

	mu    sync.Mutex
	slots []*Slots
	// waited, if it is not nil, is called with the time that was spent waiting for slots.
	waited func(time.Duration)
}

// private pairs each directory that libvirt is built to use with the testbed's own.
var private = []struct{ name, at string }{
	{"etc", "/etc/libvirt"}, {"lib", "/var/lib/libvirt"}, {"run", "/run/libvirt"},
	{"log", "/var/log/libvirt"}, {"cache", "/var/cache/libvirt"},
}

var configuration = map[string]string{
	// As on Debian, QEMU runs as a user of its own. But a container may have no control groups, and the /dev that
	// libvirt makes for a domain would show the KVM device that hideKVM hides.
	"qemu.conf": `user = "libvirt-qemu"
group = "libvirt-qemu"
cgroup_controllers = []
namespaces = []
`,
	"libvirtd.conf": `auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
log_outputs = "3:stderr"
`,
	"virtlogd.conf": `log_outputs = "3:stderr"
max_size = 67108864
`,
}

// MakeDir makes a directory for a testbed in the directory "in"; "" is the directory for temporary files. QEMU runs
// as another user and must be able to pass through it to the sockets and disks below.
func MakeDir(in string) (string, error) {
	dir, err := os.MkdirTemp(in, "sharedos-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", errors.Join(err, os.Remove(dir))
	}
	return dir, nil
}

// Start starts a libvirt in a directory, which it makes if necessary. First it ends the processes that an earlier
// run left there. It needs root.
func Start(ctx context.Context, dir string) (*Testbed, error) {
	b, err := start(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("start a testbed in %s: %w", dir, err)
	}
	return b, nil
}

func start(ctx context.Context, dir string) (*Testbed, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("it needs root, for mount and pid namespaces")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if len(dir) > maxDir {
		return nil, fmt.Errorf("the path has %d bytes; use one of at most %d, sockets below it have to fit into 108",
			len(dir), maxDir)
	}
	b := &Testbed{dir: dir, ended: make(chan struct{})}
	if err := daemon.EndAll(ctx, b.StateDir()); err != nil {
		return nil, err
	}
	if err := daemon.End(ctx, b.record()); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(filepath.Join(dir, "run")); err != nil {
		return nil, err
	}
	for _, name := range []string{"etc", "lib", "run", "log", "cache", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	for name, text := range configuration {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if err := b.startInit(ctx); err != nil {
		return nil, err
	}
	if err := b.withCapabilities(ctx, b.startDaemons); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *Testbed) record() string { return filepath.Join(b.dir, "init"+daemon.Suffix) }

// startInit starts the first process of the namespaces. It mounts the private directories and then sleeps. The
// kernel reaps the orphans that it adopts, because it ignores SIGCHLD.
func (b *Testbed) startInit(ctx context.Context) error {
	script := "set -e\nmount --make-rslave /\nmount -t proc proc /proc\n"
	for _, p := range private {
		script += fmt.Sprintf("mkdir -p %s\nmount --bind %q %s\n", p.at, filepath.Join(b.dir, p.name), p.at)
	}
	hide, err := emulated(ctx)
	if err != nil {
		return fmt.Errorf("try KVM: %w", err)
	}
	if hide {
		script += hideKVM
	}
	script += "echo ready\nexec env --ignore-signal=CHLD sleep infinity\n"

	ready, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = ready.Close() }()
	var complaint bytes.Buffer
	b.init = exec.Command("sh", "-c", script)
	b.init.Stdout, b.init.Stderr = write, &complaint
	b.init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Setsid:     true,
		Pdeathsig:  syscall.SIGKILL,
	}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread ends that started the process, so this goroutine keeps its
		// thread.
		runtime.LockOSThread()
		err := b.init.Start()
		started <- err
		if err == nil {
			_ = b.init.Wait() // its exit status says nothing: it is only ever killed
		}
		close(b.ended)
	}()
	err = <-started
	_ = write.Close() // the child has its own
	if err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	answer := make(chan string, 1)
	go func() {
		line := make([]byte, 16)
		n, _ := ready.Read(line) // an end of file is an empty answer
		answer <- string(line[:n])
	}()
	select {
	case line := <-answer:
		if line == "ready\n" {
			break
		}
		_ = b.init.Process.Kill()
		<-b.ended
		return fmt.Errorf("set up namespaces: %s", strings.TrimSpace(complaint.String()))
	case <-ctx.Done():
		_ = b.init.Process.Kill()
		<-b.ended
		return ctx.Err()
	}
	p, err := daemon.Identify(b.init.Process.Pid)
	if err != nil {
		return err
	}
	return daemon.Write(b.record(), p)
}

func (b *Testbed) startDaemons(ctx context.Context) error {
	if err := b.startDaemon(ctx, "virtlogd", "virtlogd-sock"); err != nil {
		return err
	}
	return b.StartLibvirt(ctx)
}

// Inside returns a command that runs in libvirt's namespaces, for tests that need the host as libvirt sees it.
func (b *Testbed) Inside(ctx context.Context, command ...string) *exec.Cmd {
	return b.inside(ctx, command...)
}

// inside returns a command that runs in libvirt's namespaces.
func (b *Testbed) inside(ctx context.Context, command ...string) *exec.Cmd {
	args := append([]string{"-t", strconv.Itoa(b.init.Process.Pid), "-m", "-p", "--"}, command...)
	return exec.CommandContext(ctx, "nsenter", args...)
}

func (b *Testbed) startDaemon(ctx context.Context, name, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	path := filepath.Join(b.dir, "run", socket)
	log := filepath.Join(b.dir, "log", name+".log")
	// With -d, the command returns only when the daemon is ready. The first process of the namespaces adopts the
	// daemon.
	cmd := b.inside(ctx, name, "-d", "--pid-file", "/run/libvirt/"+name+".pid", "--config",
		"/etc/libvirt/"+name+".conf")
	cmd.Env = append(os.Environ(), "LIBVIRT_LOG_OUTPUTS=3:file:/var/log/libvirt/"+name+".log")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("start %s: %w: %s (log: %s)", name, err, strings.TrimSpace(complaint.String()), log)
	}
	for {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "unix", path)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start %s: %w (log: %s)", name, err, log)
		case <-b.ended:
			return fmt.Errorf("start %s: the testbed's namespace ended", name)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// StartLibvirt starts libvirtd again after StopLibvirt.
func (b *Testbed) StartLibvirt(ctx context.Context) error {
	return b.startDaemon(ctx, "libvirtd", "libvirt-sock")
}

// StopLibvirt ends libvirtd, as an upgrade or a crash would. Domains go on running.
func (b *Testbed) StopLibvirt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	const script = `pid=$(cat /run/libvirt/libvirtd.pid) || exit 0
kill "$pid" || exit 0
while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done`
	if out, err := b.inside(ctx, "sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("stop libvirtd: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// KillLibvirt ends libvirtd with SIGKILL. Domains go on running.
func (b *Testbed) KillLibvirt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	const script = `pid=$(cat /run/libvirt/libvirtd.pid) && kill -KILL "$pid"
while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done`
	if out, err := b.inside(ctx, "sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("kill libvirtd: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// URI is the libvirt connection URI of the testbed.
func (b *Testbed) URI() string {
	return "qemu:///system?socket=" + filepath.Join(b.dir, "run", "libvirt-sock")
}

// TakeSlots takes guest slots as the function of that name does. Close of the testbed releases them.
func (b *Testbed) TakeSlots(ctx context.Context, count int, expected time.Duration) (*Slots, error) {
	slots, err := TakeSlots(ctx, count, expected)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slots = append(b.slots, slots)
	if b.waited != nil {
		b.waited(slots.Waited)
	}
	return slots, nil
}

// releaseSlots releases the slots of all guests. Call it when no guest is running any more.
func (b *Testbed) releaseSlots() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var failed []error
	for _, slots := range b.slots {
		failed = append(failed, slots.Release())
	}
	b.slots = nil
	return errors.Join(failed...)
}

// Dir is the testbed's directory.
func (b *Testbed) Dir() string { return b.dir }

// StateDir holds the records of daemons that belong to domains. Close ends these daemons.
func (b *Testbed) StateDir() string { return filepath.Join(b.dir, "state") }

// Close ends libvirt, all domains and the daemons that belong to them, and releases the guest slots. The directory
// stays.
func (b *Testbed) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	failed := []error{b.keepCapabilities(), daemon.EndAll(ctx, b.StateDir())}
	select {
	case <-b.ended:
	default:
		if err := b.init.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			failed = append(failed, err)
		}
	}
	select {
	case <-b.ended:
		failed = append(failed, daemon.End(ctx, b.record()), b.releaseSlots())
	case <-ctx.Done():
		failed = append(failed, fmt.Errorf("the testbed's processes did not end: %w", ctx.Err()))
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("close the testbed in %s: %w", b.dir, err)
	}
	return nil
}

// CacheDir returns the directory for bases and other inputs that take long to make, which are kept between runs:
// $SHAREDOS_CACHE, or "sharedos" in the user's cache directory. It makes the directory if necessary.
func CacheDir() (string, error) {
	dir := os.Getenv("SHAREDOS_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find a cache directory (or set SHAREDOS_CACHE): %w", err)
		}
		dir = filepath.Join(user, "sharedos")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache directory: %w", err)
	}
	return dir, nil
}

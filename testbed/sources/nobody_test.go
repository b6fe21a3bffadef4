package sources

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
)

// nobody is the number of an ordinary user that every machine has, and of a group.
const nobody = 65534

// asked is an environment variable with a debian.Source as JSON. It makes TestMadeByNobody make a tree.
const asked = "SHAREDOS_TEST_DEBIAN"

// madeByNobody makes a tree in a process of an ordinary user, and opens the stream. The source keeps its cache.
func madeByNobody(ctx context.Context, t *testing.T, debian *debian.Source) io.ReadCloser {
	t.Helper()
	dir := t.TempDir()
	must(t, errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chown(dir, nobody, nobody)))
	if debian.CacheDir == "" {
		debian.CacheDir = filepath.Join(dir, "cache")
	}
	text, err := json.Marshal(debian)
	must(t, err)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run", "^TestMadeByNobody$", "-test.v")
	cmd.Env = append(os.Environ(), asked+"="+string(text), "HOME="+dir)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	said, err := withNumbers(t, cmd)
	t.Logf("%s", said)
	must(t, err)
	stream, err := os.Open(filepath.Join(dir, "rootfs.tar"))
	must(t, err)
	return stream
}

// withNumbers runs a command in a mount namespace in which the user nobody has a range of numbers for user
// namespaces (subuid(5)). The machine itself need not have one.
func withNumbers(t *testing.T, cmd *exec.Cmd) (said []byte, err error) {
	t.Helper()
	numbers := filepath.Join(t.TempDir(), "subuid")
	must(t, os.WriteFile(numbers, []byte("nobody:100000:65536\n"), 0o644))
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread, and with it the namespace, ends with the goroutine
		err = errors.Join(unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		for _, path := range []string{"/etc/subuid", "/etc/subgid"} {
			if err == nil {
				err = unix.Mount(numbers, path, "", unix.MS_BIND, "")
			}
		}
		if err == nil {
			said, err = cmd.CombinedOutput()
		}
	}()
	<-done
	return said, err
}

// This is the process of madeByNobody. As a test of its own it does nothing.
func TestMadeByNobody(t *testing.T) {
	text := os.Getenv(asked)
	if text == "" {
		return
	}
	var debian debian.Source
	must(t, json.Unmarshal([]byte(text), &debian))
	last := ""
	stream, err := debian.Open(t.Context(), func(step string, _, _ int64) {
		if step != last {
			t.Log(step)
		}
		last = step
	})
	must(t, err)
	file, err := os.Create("rootfs.tar")
	must(t, err)
	_, err = io.Copy(file, stream)
	must(t, errors.Join(err, stream.Close(), file.Close()))
}

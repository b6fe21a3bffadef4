package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
)

// The size of the measurement of swaps.
const (
	swapCount = 300
	// swapCopies is the number of processes with a copy of the mount tree. Sandboxed services have such copies.
	swapCopies  = 30
	swapReaders = 2
	swapLimit   = 2 * time.Minute
)

// swapStage is an environment variable. It makes this program a part of the measurement.
const swapStage = "SHAREDOS_BENCH_SWAP"

// swapSeen is the result that the measuring process prints.
type swapSeen struct {
	Opens, Missed int64
	First         string
	// MedianMicros and WorstMicros are of the two system calls of a swap, in microseconds.
	MedianMicros, WorstMicros float64
}

// swap measures the swap of /usr on this machine's kernel, in a mount namespace, with copies of the namespace to
// which every mount propagates, while readers open files of the tree all the time.
func (b *bench) swap(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, swapLimit)
	defer cancel()
	b.tell(fmt.Sprintf("swapping a /usr %d times, with %d copies of the mount tree", swapCount, swapCopies))
	dir, err := os.MkdirTemp("", "sharedos-swap-")
	if err != nil {
		return fmt.Errorf("make a directory to swap in: %w", err)
	}
	command := exec.CommandContext(ctx, "/proc/self/exe")
	command.Env = append(os.Environ(), swapStage+"="+dir)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	text, err := command.Output()
	err = errors.Join(err, os.Remove(dir)) // its mounts ended with the process
	if err != nil {
		return fmt.Errorf("swap in a mount namespace (it needs root): %w", err)
	}
	var seen swapSeen
	if err := json.Unmarshal(text, &seen); err != nil {
		return fmt.Errorf("read what the swapping process tells: %w", err)
	}
	if seen.Opens < 10*swapCount {
		return fmt.Errorf("only %d files were opened during %d swaps: that shows nothing", seen.Opens, swapCount)
	}
	b.tell(fmt.Sprintf("%d opens, first that failed: %q; slowest swap %.0f µs", seen.Opens,
		seen.First, seen.WorstMicros))
	b.results.add(fmt.Sprintf("missed opens over %d swaps, host kernel", swapCount),
		float64(seen.Missed), "opens", 0, 0)
	b.results.add(fmt.Sprintf("two calls of a swap, %d namespaces, median", swapCopies),
		seen.MedianMicros, "µs", 0, 1000)
	return nil
}

// init runs the measurement and exits if the environment variable is set.
func init() { measureStage(swapStage, swapHere) }

// swapHere swaps a /usr below dir. The mount namespace belongs to this process and ends with it.
func swapHere(dir string) (*swapSeen, error) {
	usr := mounts.Usr{Path: filepath.Join(dir, "usr"), Scratch: filepath.Join(dir, "scratch"), Kernel: "9.9.9"}
	stacks, err := swapStacks(dir, usr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), swapLimit)
	defer cancel()
	for range swapCopies {
		// A copy to which mounts propagate, like that of a sandboxed service.
		copied := exec.CommandContext(ctx, "unshare", "-m", "--propagation", "slave", "sleep", "infinity")
		copied.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := copied.Start(); err != nil {
			return nil, fmt.Errorf("make a copy of the mount tree: %w", err)
		}
		defer func() { _ = errors.Join(copied.Process.Kill(), copied.Wait()) }() // it sleeps for ever
		if err := apart(ctx, copied.Process.Pid); err != nil {
			return nil, err
		}
	}
	var stopped atomic.Bool
	var readers sync.WaitGroup
	opens := make([]swapSeen, swapReaders)
	for i := range opens {
		readers.Go(func() { openUntil(&stopped, usr.Path, &opens[i]) })
	}
	took, err := swapOften(ctx, usr, stacks)
	stopped.Store(true)
	readers.Wait()
	if err != nil {
		return nil, err
	}
	slices.Sort(took)
	seen := &swapSeen{
		MedianMicros: float64(took[len(took)/2]) / float64(time.Microsecond),
		WorstMicros:  float64(took[len(took)-1]) / float64(time.Microsecond),
	}
	for _, one := range opens {
		seen.Opens += one.Opens
		seen.Missed += one.Missed
		if seen.First == "" {
			seen.First = one.First
		}
	}
	return seen, nil
}

// swapStacks makes a root that is shared, like systemd's, with two stacks of two layers each, and mounts the first
// stack.
func swapStacks(dir string, usr mounts.Usr) ([][]string, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make the namespace private: %w", err)
	}
	if err := unix.Mount("bench", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return nil, fmt.Errorf("mount a root at %s: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return nil, fmt.Errorf("share the root at %s: %w", dir, err)
	}
	for _, path := range []string{usr.Path, usr.Scratch} {
		if err := os.Mkdir(path, 0o755); err != nil {
			return nil, err
		}
	}
	var stacks [][]string
	for _, stack := range []string{"a", "b"} {
		var layers []string
		for _, name := range []string{"full", "delta"} {
			layer := filepath.Join(dir, stack+"-"+name)
			if err := os.MkdirAll(filepath.Join(layer, "usr/lib"), 0o755); err != nil {
				return nil, err
			}
			for i := range swapFiles {
				if err := os.WriteFile(filepath.Join(layer, swapFile(i)), []byte(stack), 0o644); err != nil {
					return nil, err
				}
			}
			layers = append(layers, layer)
		}
		stacks = append(stacks, layers)
	}
	first, err := mounts.BuildTree(stacks[0], "usr")
	if err != nil {
		return nil, err
	}
	return stacks, first.Attach(usr.Path)
}

// swapFiles is how many files the readers open in turn.
const swapFiles = 20

func swapFile(i int) string { return fmt.Sprintf("usr/lib/file-%02d", i) }

// apart waits until a process has a mount namespace of its own.
func apart(ctx context.Context, pid int) error {
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	for {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err != nil || theirs != ours {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for a copy of the mount tree: %w", ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

func swapOften(ctx context.Context, usr mounts.Usr, stacks [][]string) ([]time.Duration, error) {
	took := make([]time.Duration, 0, swapCount)
	for i := range swapCount {
		next, err := usr.Build(ctx, stacks[(i+1)%len(stacks)])
		if err != nil {
			return nil, err
		}
		swapped, err := usr.Swap(next)
		if err != nil {
			return nil, err
		}
		took = append(took, swapped.Took)
		if err := swapped.Previous.Close(); err != nil {
			return nil, err
		}
	}
	return took, nil
}

// openUntil opens files below a /usr in turn until it is stopped.
func openUntil(stopped *atomic.Bool, usr string, seen *swapSeen) {
	for i := 0; !stopped.Load(); i = (i + 1) % swapFiles {
		seen.Opens++
		path := filepath.Join(filepath.Dir(usr), swapFile(i))
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Close(fd)
		}
		if err == nil || errors.Is(err, unix.EINTR) {
			continue
		}
		if seen.Missed++; seen.First == "" {
			seen.First = path + ": " + err.Error()
		}
	}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

const (
	layersLimit = 20 * time.Minute

	smallTree, largeTree = 300e6, 3e9
	layerMemory          = 200 * mebibyte
)

// layers measures how releases become layers, without a guest, from archives of real Debian trees. Each layer is
// made in a process of its own, so that only the memory for that counts.
func (b *bench) layers(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, layersLimit)
	defer cancel()
	b.tell("making two Debian trees, without and with the patches since its release")
	before, err := guest.DebianTar(ctx, guest.Plain)
	if err != nil {
		return err
	}
	after, err := guest.DebianTar(ctx, guest.Updated)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sharedos-layers-")
	if err != nil {
		return fmt.Errorf("make a directory to work in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tools, err := b.fullLayer(ctx, dir, before)
	if err != nil {
		return err
	}
	if err := b.largeLayer(ctx, dir, before, tools); err != nil {
		return err
	}
	return b.deltaLayer(ctx, dir, before, after, tools)
}

// tooled is the cost of mkfs.erofs and veritysetup for the extracted tree.
type tooled struct {
	took time.Duration
	// peakBytes is the peak of mkfs.erofs's resident memory.
	peakBytes int64
}

// fullLayer compares making a layer from a tar archive with running the tools on the extracted tree.
func (b *bench) fullLayer(ctx context.Context, dir, debian string) (*tooled, error) {
	archive, extracted := filepath.Join(dir, "small.tar"), filepath.Join(dir, "extracted")
	if err := writeTo(archive, func(w io.Writer) error { return growTar(debian, smallTree, w) }); err != nil {
		return nil, err
	}
	if err := os.Mkdir(extracted, 0o755); err != nil {
		return nil, err
	}
	if err := run(ctx, "tar", "-C", extracted, "-xf", archive); err != nil {
		return nil, err
	}
	b.tell("writing a layer of 300 MB, next to mkfs.erofs and veritysetup")
	var ours layerSeen
	var own, others []time.Duration
	tools := &tooled{}
	for range turns {
		unix.Sync() // so that no side waits for the other one's writes
		file, err := os.Open(archive)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		seen, err := stageLayer(ctx, layerStage{Full: true, Dir: dir}, file)
		took := time.Since(began)
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
		if own = append(own, took); seen.PeakBytes > ours.PeakBytes {
			ours = *seen
		}
		unix.Sync()
		other, err := toolsLayer(ctx, dir, extracted)
		if err != nil {
			return nil, err
		}
		others = append(others, other.took)
		tools.peakBytes = max(tools.peakBytes, other.peakBytes)
	}
	tools.took = median(others)
	b.results.add("full layer from a tar of 300 MB", median(own).Seconds(), "seconds", tools.took.Seconds(),
		1.5*tools.took.Seconds())
	b.results.add("full layer from a tar of 300 MB, memory", float64(ours.PeakBytes), "bytes",
		float64(tools.peakBytes), layerMemory)
	return tools, os.RemoveAll(extracted)
}

// toolsLayer runs mkfs.erofs and veritysetup format.
func toolsLayer(ctx context.Context, dir, extracted string) (*tooled, error) {
	image, hashes := filepath.Join(dir, "tools.erofs"), filepath.Join(dir, "tools.verity")
	began := time.Now()
	mkfs := exec.CommandContext(ctx, "mkfs.erofs", "--quiet", image, extracted)
	if output, err := mkfs.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkfs.erofs: %w: %s", err, output)
	}
	if err := run(ctx, "veritysetup", "format", image, hashes); err != nil {
		return nil, err
	}
	tools := &tooled{took: time.Since(began)}
	if usage, ok := mkfs.ProcessState.SysUsage().(*syscall.Rusage); ok {
		tools.peakBytes = usage.Maxrss << 10
	}
	return tools, errors.Join(os.Remove(image), os.Remove(hashes))
}

// largeLayer measures the memory for a tree of 3 GB. The archive is written while it is read.
func (b *bench) largeLayer(ctx context.Context, dir, debian string, tools *tooled) error {
	b.tell("writing a layer of 3 GB")
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		err := growTar(debian, largeTree, writer)
		done <- errors.Join(err, writer.Close())
	}()
	seen, err := stageLayer(ctx, layerStage{Full: true, Dir: dir}, reader)
	// Closing the reader ends the writer, if the process has not read all.
	if err := errors.Join(err, reader.Close(), <-done); err != nil {
		return err
	}
	b.tell(fmt.Sprintf("%d entries, %d bytes", seen.Entries, seen.Size))
	// The yardstick was measured with the tree of 300 MB; mkfs.erofs needs more memory for a larger tree.
	b.results.add("full layer from a tar of 3 GB, memory", float64(seen.PeakBytes), "bytes",
		float64(tools.peakBytes), layerMemory)
	return nil
}

// deltaLayer measures a delta of the patches that Debian published since its release. The yardstick for its time is
// an image of the whole tree, which each patch would need without deltas.
func (b *bench) deltaLayer(ctx context.Context, dir, before, after string, tools *tooled) error {
	b.tell("writing the delta of a real Debian patch")
	var seen *layerSeen
	var took []float64
	for range turns {
		unix.Sync()
		var err error
		if seen, err = stageLayer(ctx, layerStage{Before: before, After: after, Dir: dir}, nil); err != nil {
			return err
		}
		if seen.ChangedBytes == 0 {
			return errors.New("nothing to measure: no package of Debian differs from its release")
		}
		took = append(took, seen.Seconds)
	}
	b.results.add("delta of a real patch, inputs read", median(took), "seconds", tools.took.Seconds(), 3)
	b.results.add("delta of a real patch", float64(seen.Size), "bytes", float64(seen.ChangedBytes),
		1.10*float64(seen.ChangedBytes))
	b.results.add("delta of a real patch, memory", float64(seen.PeakBytes), "bytes",
		float64(tools.peakBytes), layerMemory)
	return nil
}

// stageLayer makes a layer in another process of this program.
func stageLayer(ctx context.Context, stage layerStage, input *os.File) (*layerSeen, error) {
	asked, err := json.Marshal(stage)
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, "/proc/self/exe")
	command.Env = append(os.Environ(), layerStageVariable+"="+string(asked))
	command.Stdin, command.Stderr = input, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	told, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("make a layer in a process of its own: %w", err)
	}
	var seen layerSeen
	if err := json.Unmarshal(told, &seen); err != nil {
		return nil, fmt.Errorf("read what the process that made a layer tells: %w", err)
	}
	return &seen, nil
}

func run(ctx context.Context, name string, arguments ...string) error {
	if output, err := exec.CommandContext(ctx, name, arguments...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, output)
	}
	return nil
}

func writeTo(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

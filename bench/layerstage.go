package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// layerStageVariable is an environment variable with a layerStage as JSON. It makes this program make one layer.
const layerStageVariable = "SHAREDOS_BENCH_LAYER"

// layerStage describes the layer of such a process: a full layer of the archive on standard input, or a delta.
type layerStage struct {
	Full          bool
	Before, After string // paths of archives
	Dir           string // for the spool and the layer
}

// layerSeen is the result that such a process prints.
type layerSeen struct {
	Entries int
	// Size in bytes of the layer, and of the content of the files in a delta.
	Size, ChangedBytes int64
	// Seconds from when the inputs were read to when the layer was written.
	Seconds float64
	// PeakBytes is the most that was resident at one time.
	PeakBytes int64
}

// init makes one layer and exits if the environment variable is set.
func init() { measureStage(layerStageVariable, layerHere) }

// measureStage measures in a process of its own, if the environment variable is set: it calls
// measure with its value, writes what that returns to the standard output as JSON, and exits.
func measureStage[T any](variable string, measure func(asked string) (T, error)) {
	asked := os.Getenv(variable)
	if asked == "" {
		return
	}
	seen, err := measure(asked)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(seen)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func layerHere(asked string) (_ *layerSeen, err error) {
	var stage layerStage
	if err := json.Unmarshal([]byte(asked), &stage); err != nil {
		return nil, err
	}
	ctx := context.Background() // the parent ends this process
	seen := &layerSeen{}
	if stage.Full {
		read, err := rootfs.Read(ctx, stdin{}, stage.Dir, nil)
		if err != nil {
			return nil, err
		}
		seen.Entries = len(read.Tree.Entries)
		err = layer.CheckTree(read.Tree.Entries)
		if err == nil {
			err = seen.write(ctx, read.Tree, stage.Dir)
		}
		if err := errors.Join(err, read.Close()); err != nil {
			return nil, err
		}
	} else {
		before, err := rootfs.Read(ctx, archive.Source{Path: stage.Before}, stage.Dir, nil)
		if err != nil {
			return nil, err
		}
		after, err := rootfs.Read(ctx, archive.Source{Path: stage.After}, stage.Dir, nil)
		if err != nil {
			return nil, errors.Join(err, before.Close())
		}
		began := time.Now()
		delta := layer.Delta(before.Tree.Entries, after.Tree.Entries)
		err = seen.write(ctx, &tree.Tree{Entries: delta, Content: after.Tree.Content}, stage.Dir)
		seen.Seconds = time.Since(began).Seconds()
		if err := errors.Join(err, before.Close(), after.Close()); err != nil {
			return nil, err
		}
		seen.Entries = len(delta)
		for i := range delta {
			seen.ChangedBytes += delta[i].Size
		}
	}
	seen.PeakBytes, err = peakResident()
	return seen, err
}

// write writes a layer and removes it.
func (s *layerSeen) write(ctx context.Context, t *tree.Tree, dir string) (err error) {
	file, err := os.CreateTemp(dir, "layer-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	written, err := layer.Write(ctx, t, file)
	s.Size = written.Size
	return err
}

// stdin is a tar archive on standard input, as a source.
type stdin struct{}

func (stdin) Fingerprint(context.Context) (string, error) { return "", nil }
func (stdin) Open(context.Context, source.Progress) (io.ReadCloser, error) {
	return os.Stdin, nil
}

// peakResident returns the peak of this process's resident memory in bytes. The rusage of a child would not do: it
// includes the memory of the parent at the time of the fork.
func peakResident() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kibibytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kibibytes << 10, err
		}
	}
	return 0, errors.New("no VmHWM in /proc/self/status")
}

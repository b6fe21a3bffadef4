package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

const (
	// processorsLimit bounds how long the kernel may take to find processors that were plugged in,
	// or to release others.
	processorsLimit = 10 * time.Second
	// maxSystemFile bounds a file of the kernel that is read, in bytes.
	maxSystemFile = 64 << 10
)

// Resources implements agentapi.AgentService.
func (a *answerer) Resources(ctx context.Context,
	request *agentapi.ResourcesRequest) (*agentapi.ResourcesResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, processorsLimit)
	defer cancel()
	answer, err := resources(ctx, "/", int(request.GetProcessors()))
	if err != nil {
		return nil, failure(fmt.Errorf("bring processors online: %w", err))
	}
	return answer, nil
}

// resources waits until the kernel whose files are below root has so many processors online, unless
// the number is 0, and brings online what it finds. It answers what there is when ctx ends.
func resources(ctx context.Context, root string, processors int) (*agentapi.ResourcesResponse, error) {
	var answer agentapi.ResourcesResponse
	for {
		online, err := bringOnline(filepath.Join(root, "sys/devices/system/cpu"), processors > 0)
		if err != nil {
			return nil, err
		}
		answer.Processors = int32(online) //nolint:gosec // a VM has at most 255
		if processors == 0 || online == processors {
			break
		}
		select {
		case <-ctx.Done():
			processors = 0
		case <-time.After(50 * time.Millisecond):
		}
	}
	text, err := fileio.Read(filepath.Join(root, "proc/meminfo"), maxSystemFile)
	if err != nil {
		return nil, err
	}
	if answer.Memory, err = meminfo(string(text), "MemTotal"); err != nil {
		return nil, err
	}
	if answer.MemoryAvailable, err = meminfo(string(text), "MemAvailable"); err != nil {
		return nil, err
	}
	return &answer, nil
}

// bringOnline counts the processors that are online. If write is true, it first brings the others
// online. A processor without a file for that is always online.
func bringOnline(directory string, write bool) (online int, err error) {
	processors, err := filepath.Glob(filepath.Join(directory, "cpu[0-9]*"))
	if err != nil {
		return 0, err
	}
	for _, processor := range processors {
		file := filepath.Join(processor, "online")
		text, err := fileio.Read(file, maxSystemFile)
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Stat(processor); err == nil { // it was not unplugged meanwhile
				online++
			}
			continue
		}
		if err != nil {
			return 0, err
		}
		if strings.TrimSpace(string(text)) == "1" {
			online++
			continue
		}
		if !write {
			continue
		}
		if err := os.WriteFile(file, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		} else if err == nil {
			online++
		}
	}
	return online, nil
}

// meminfo reads an entry of /proc/meminfo, in bytes.
func meminfo(text, entry string) (int64, error) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, entry+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			if err != nil || kib < 0 || kib > 1<<50 {
				return 0, fmt.Errorf("read %s in /proc/meminfo: %q", entry, value)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no %s", entry)
}

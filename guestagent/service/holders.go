package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxHolders bounds how many processes are named that hold one layer.
const maxHolders = 20

// deviceManager maps the indexes of kernel modules from its first look at a disk until it is reloaded.
const deviceManager = "systemd-udevd.service"

// LetGo implements Observer.
func (o observer) LetGo(ctx context.Context) error {
	state, err := o.manager.ActiveState(ctx, deviceManager)
	if err != nil || state != "active" {
		return err
	}
	return o.manager.ReloadUnit(ctx, deviceManager)
}

// Holders implements Observer.
func (o observer) Holders(ctx context.Context, id tree.Digest) ([]string, error) {
	held, err := o.usr.Holding(id)
	if err != nil {
		return nil, err
	}
	var layer, around unix.Stat_t
	err = errors.Join(unix.Stat(mounts.LayerPath(id), &layer), unix.Stat(mounts.LayersDir, &around))
	switch {
	case errors.Is(err, unix.ENOENT): // it is not open
	case err != nil:
		return nil, fmt.Errorf("holders of layer %s: %w", id, err)
	case layer.Dev != around.Dev:
		held = append(held, layer.Dev)
	}
	holders, err := mounts.Holders(ctx, "/proc", held, maxHolders)
	if err != nil {
		return nil, err
	}
	words := make([]string, 0, len(holders))
	for _, holder := range holders {
		text, err := describeHolder("/proc", holder)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		words = append(words, text)
	}
	return words, nil
}

// describeHolder says "nginx.service: process 12 (nginx) maps /usr/lib/x.so".
func describeHolder(proc string, holder mounts.Holder) (string, error) {
	directory := fmt.Sprintf("%s/%d", proc, holder.PID)
	group, err := os.ReadFile(directory + "/cgroup")
	if err != nil {
		return "", err
	}
	command, err := os.ReadFile(directory + "/comm")
	if err != nil {
		return "", err
	}
	shown := holder.Path
	if !strings.HasPrefix(shown+"/", "/usr/") && !strings.HasPrefix(shown, mounts.RunDir) {
		shown = "/usr" + shown // a mount that is attached nowhere has lost its place
	}
	text := fmt.Sprintf("process %d (%s) %s %s", holder.PID, strings.TrimSpace(string(command)), holder.How, shown)
	if unit, _ := impact.UnitOf(string(group)); unit != "" {
		text = unit + ": " + text
	}
	return text, nil
}

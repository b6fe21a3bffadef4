package service

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxUsers bounds how many processes are named that use one layer.
const maxUsers = 20

// deviceManager maps the indexes of kernel modules from its first look at a disk until it is reloaded.
const deviceManager = "systemd-udevd.service"

// ReloadIndexes implements Observer.
func (o observer) ReloadIndexes(ctx context.Context) error {
	state, err := o.manager.ActiveState(ctx, deviceManager)
	if err != nil || state != "active" {
		return err
	}
	return o.manager.ReloadUnit(ctx, deviceManager)
}

// Users implements Observer.
func (o observer) Users(ctx context.Context, id tree.Digest) ([]string, error) {
	devices, err := o.usr.Devices(id)
	if err != nil {
		return nil, err
	}
	var layer, parent unix.Stat_t
	err = errors.Join(unix.Stat(mounts.LayerPath(id), &layer), unix.Stat(mounts.LayersDir, &parent))
	switch {
	case errors.Is(err, unix.ENOENT): // the layer is not open
	case err != nil:
		return nil, fmt.Errorf("users of layer %s: %w", id, err)
	case layer.Dev != parent.Dev:
		devices = append(devices, layer.Dev)
	}
	users, err := mounts.UsersOf(ctx, "/proc", devices, maxUsers)
	if err != nil {
		return nil, err
	}
	texts := make([]string, 0, len(users))
	for _, user := range users {
		texts = append(texts, describeUser(user))
	}
	return texts, nil
}

// describeUser returns "nginx.service: process 12 (nginx) maps /usr/lib/x.so".
func describeUser(user mounts.User) string {
	shown := user.Path
	if !strings.HasPrefix(shown+"/", "/usr/") && !strings.HasPrefix(shown, mounts.RunDir) {
		shown = "/usr" + shown // on a detached mount the path starts at the mount's root
	}
	text := fmt.Sprintf("process %d (%s) %s %s", user.PID, user.Command, user.How, shown)
	if user.Unit != "" {
		text = user.Unit + ": " + text
	}
	return text
}

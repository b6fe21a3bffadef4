package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	users, err := o.usersOf(ctx, id, o.usr.Shown, maxUsers)
	if err != nil {
		return nil, err
	}
	loops, err := o.loops(id)
	return append(describeUsers(users), loops...), err
}

// Readers implements Observer.
func (o observer) Readers(ctx context.Context, id tree.Digest) (readers []string, explained bool, err error) {
	users, err := o.usersOf(ctx, id, o.usr.Shown, maxUsers)
	if err != nil {
		return nil, false, err
	}
	var unpinning error
	if len(users) > 0 && !slices.ContainsFunc(users, func(u mounts.User) bool { return u.How != mounts.SeesMounted }) {
		unpinning = o.usr.Unpin(ctx)
	}
	if readers, err = o.Users(ctx, id); err != nil {
		return nil, false, err
	}
	if len(readers) > 0 {
		if unpinning != nil {
			readers = append(readers, unpinning.Error())
		}
		return readers, true, nil
	}
	others, err := o.usersOf(ctx, id, o.usr.Whole, 1)
	return nil, len(others) > 0, err
}

// loops describes the loop devices whose file is one of the layer. No process need have it open.
func (o observer) loops(id tree.Digest) ([]string, error) {
	shown, err := o.usr.Shown(id)
	if err != nil {
		return nil, err
	}
	found, err := mounts.LoopsOn(shown)
	texts := make([]string, 0, len(found))
	for _, device := range found {
		texts = append(texts, "loop device "+device)
	}
	return texts, err
}

// usersOf finds at most limit processes that use a layer, as it shows through the /usr of this boot, or its own mount.
func (o observer) usersOf(ctx context.Context, id tree.Digest, through func(tree.Digest) ([]mounts.Shown, error),
	limit int) ([]mounts.User, error) {
	shown, err := through(id)
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
		shown = append(shown, mounts.Shown{System: layer.Dev, Files: []uint64{layer.Dev}})
	}
	return mounts.UsersOf(ctx, "/proc", shown, limit)
}

func describeUsers(users []mounts.User) []string {
	texts := make([]string, 0, len(users))
	for _, user := range users {
		texts = append(texts, describeUser(user))
	}
	return texts
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

package ondemand

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin/paths"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrNoOffer means that the host offers this VM no components.
	ErrNoOffer = errors.New("this VM is offered no components on demand")
	// ErrNotOffered means that the offer has no stack with or without a component.
	ErrNotOffered = errors.New("not on demand in this VM")
	// ErrOutdated means that the offer is not for the running stack.
	ErrOutdated = errors.New(
		"the VM runs a stack that the offer does not know; apply the configuration of the VM again")
)

const (
	// maxManifest and maxList bound what is read of an offer, in bytes. maxStacks is how many stacks one may have.
	maxManifest = 4 << 20
	maxList     = 64 << 20
	maxStacks   = 1 << release.MaxOnDemand
)

// stack is one stack of an offer. An operator has signed it.
type stack struct {
	id       tree.Digest
	signed   []byte
	manifest *release.StackManifest
}

// has reports whether a component is in the stack.
func (s stack) has(name string) bool {
	return slices.ContainsFunc(s.manifest.Components, func(m release.Member) bool { return m.Name == name })
}

// offer is an open offer. Its manifests are checked, and its contents lists are not: their digests
// are in the manifests.
type offer struct {
	directory string
	stacks    []stack
}

// devices returns the offers that are plugged in: more than one while the host replaces one.
func devices() ([]mounts.Disk, error) {
	disks, err := mounts.Disks()
	return slices.DeleteFunc(disks,
		func(d mounts.Disk) bool { return !strings.HasPrefix(d.Serial, agentapi.OfferSerialPrefix) }), err
}

// Offered reports whether an offer is plugged in.
func Offered() (bool, error) {
	disks, err := devices()
	return len(disks) > 0, err
}

// reading is held while the offer is mounted: one reader would unmount what another one reads.
var reading sync.Mutex

// Device mounts the offer that is plugged in, for as long as use runs. The error matches ErrNoOffer if there is none.
func Device(use func(directory string) error) (err error) {
	reading.Lock()
	defer reading.Unlock()
	disks, err := devices()
	if err != nil {
		return err
	}
	if len(disks) == 0 {
		return ErrNoOffer
	}
	if len(disks) > 1 { // the host is about to replace it
		return fmt.Errorf("%w: %d offers are plugged in", ErrOutdated, len(disks))
	}
	if err := os.MkdirAll(mounts.OfferDir, 0o700); err != nil {
		return err
	}
	for unix.Unmount(mounts.OfferDir, unix.UMOUNT_NOFOLLOW) == nil { //nolint:revive // an agent that was killed has left it
	}
	const flags = unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOSUID
	if err := unix.Mount(disks[0].Node, mounts.OfferDir, "erofs", flags, ""); err != nil {
		return fmt.Errorf("mount the offer %s: %w", disks[0].Node, err)
	}
	defer func() {
		if unmounted := unix.Unmount(mounts.OfferDir, unix.UMOUNT_NOFOLLOW); unmounted != nil {
			err = errors.Join(err, fmt.Errorf("unmount the offer: %w", unmounted))
		}
	}()
	return use(mounts.OfferDir)
}

// readOffer reads the stacks of an offer. A stack that none of the operators signed is an error.
func readOffer(directory string, operators []ed25519.PublicKey) (offer, error) {
	entries, err := os.ReadDir(filepath.Join(directory, paths.OfferStacks))
	if err != nil {
		return offer{}, fmt.Errorf("read the offer: %w", err)
	}
	if len(entries) > maxStacks {
		return offer{}, fmt.Errorf("read the offer: it has %d stacks, more than %d", len(entries), maxStacks)
	}
	found := offer{directory: directory}
	for _, entry := range entries {
		signed, err := fileio.Read(filepath.Join(directory, paths.OfferStacks, entry.Name()), maxManifest)
		if err != nil {
			return offer{}, fmt.Errorf("read the offer: %w", err)
		}
		manifest, id, err := release.OpenStack(signed, operators)
		if err != nil {
			return offer{}, fmt.Errorf("read stack %s of the offer: %w", entry.Name(), err)
		}
		found.stacks = append(found.stacks, stack{id, signed, manifest})
	}
	return found, nil
}

// running returns the stack of the offer that runs.
func (o offer) running(running release.Stack) (stack, error) {
	for _, one := range o.stacks {
		if one.manifest.Record(one.id).Same(running) {
			return one, nil
		}
	}
	return stack{}, ErrOutdated
}

// move returns the stack that has the components of from, and of which one component is or is not a part.
func (o offer) move(from stack, name string, with bool) (stack, error) {
	wanted := slices.Clone(from.manifest.Components)
	if with {
		at := slices.IndexFunc(from.manifest.Offered, func(m release.Member) bool { return m.Name == name })
		if at < 0 {
			return stack{}, fmt.Errorf("component %q is %w", name, ErrNotOffered)
		}
		wanted = append(wanted, from.manifest.Offered[at])
	} else {
		wanted = slices.DeleteFunc(wanted, func(m release.Member) bool { return m.Name == name })
	}
	for _, one := range o.stacks {
		if one.manifest.Base.ID == from.manifest.Base.ID && sameMembers(one.manifest.Components, wanted) {
			return one, nil
		}
	}
	return stack{}, fmt.Errorf("component %q is %w", name, ErrNotOffered)
}

func sameMembers(a, b []release.Member) bool {
	ids := func(all []release.Member) (ids []string) {
		for _, one := range all {
			ids = append(ids, one.ID.Hex())
		}
		slices.Sort(ids)
		return ids
	}
	return slices.Equal(ids(a), ids(b))
}

// Component is a component of a VM that is offered some on demand.
type Component struct {
	Name string `json:"name"`
	// Attached is true if the running stack has it, OnDemand if this VM can attach and detach it by itself.
	Attached bool `json:"attached"`
	OnDemand bool `json:"on_demand"`
}

// components lists those of the running stack and those that are offered, sorted by name.
func (o offer) components(from stack) []Component {
	var all []Component
	for _, one := range from.manifest.Components {
		_, err := o.move(from, one.Name, false)
		all = append(all, Component{Name: one.Name, Attached: true, OnDemand: err == nil})
	}
	for _, one := range from.manifest.Offered {
		all = append(all, Component{Name: one.Name, OnDemand: true})
	}
	slices.SortFunc(all, func(a, b Component) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// list opens the contents list of a stack.
func (o offer) list(of stack) (io.ReadCloser, int64, error) {
	blob := of.manifest.Contents
	if blob.Size > maxList {
		return nil, 0, fmt.Errorf("the contents list of stack %s has %d bytes, more than %d", of.id, blob.Size, maxList)
	}
	file, err := os.Open(filepath.Join(o.directory, paths.OfferList(blob.Digest)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf(
			"the offer lacks the contents list of stack %s; apply the configuration of the VM again", of.id)
	}
	return file, blob.Size, err
}

// give puts the contents lists of two stacks where the engine looks for them. put checks their digests.
func (o offer) give(ctx context.Context, put Put, stacks ...stack) (err error) {
	buffer := make([]byte, 1<<20)
	for _, one := range stacks {
		list, size, err := o.list(one)
		if err != nil {
			return err
		}
		if err := errors.Join(giveOne(ctx, put, one.manifest.Contents.Digest, list, size, buffer),
			list.Close()); err != nil {
			return fmt.Errorf("read the contents list of stack %s: %w", one.id, err)
		}
	}
	return nil
}

func giveOne(ctx context.Context, put Put, digest tree.Digest, list io.Reader, size int64, buffer []byte) error {
	for at := int64(0); at < size; {
		n, err := io.ReadFull(list, buffer[:min(int64(len(buffer)), size-at)])
		if err != nil {
			return err
		}
		complete, err := put(digest, at, size, buffer[:n])
		if err != nil || complete {
			return err
		}
		if at += int64(n); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

package vm

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// find returns the domain of a VM. It looks for the UUID first, since a domain can be renamed, and
// then for the name. Without a UUID, the name alone counts. The errors:
//
//   - ErrNotFound: there is no domain of the UUID, and none of the name.
//   - ErrOther: the name belongs to a domain with another UUID.
//   - hypervisor.ErrForeign: the domain of the UUID has lost this project's metadata, or no UUID
//     was given and the domain of the name has none.
//   - hypervisor.ErrDamaged: the metadata of the domain cannot be read. The domain returned has its name and UUID.
func (f *Fleet) find(ctx context.Context, name, uuid string) (hypervisor.Domain, hypervisor.State, error) {
	if uuid != "" {
		domain, state, err := f.Hypervisor.LookupUUID(ctx, uuid)
		if !errors.Is(err, hypervisor.ErrNotFound) {
			return domain, state, err
		}
	}
	domain, state, err := f.Hypervisor.Lookup(ctx, name)
	known := err == nil || errors.Is(err, hypervisor.ErrForeign) || errors.Is(err, hypervisor.ErrDamaged)
	if known && uuid != "" && domain.UUID != uuid {
		return domain, state, errors.Join(fmt.Errorf("%w, with UUID %s", ErrOther, domain.UUID), err)
	}
	return domain, state, err
}

// Find implements Interface.
func (f *Fleet) Find(ctx context.Context, name, uuid string) (string, error) {
	domain, _, err := f.find(ctx, name, uuid)
	if err != nil {
		return "", fmt.Errorf("find VM %q: %w", name, err)
	}
	return domain.Name, nil
}

// diskOf returns the name of the volume that is a VM's private disk. It is the one function that decides
// whose private disk a volume is: the record in the domain has to name it, and its name has to have the mark
// of the VM's UUID. A volume that an earlier version made has no mark, so there the record counts alone,
// unless a second domain has the same record, as a clone has. ErrNotOurs if the volume is not the VM's.
func (f *Fleet) diskOf(ctx context.Context, domain hypervisor.Domain) (string, error) {
	recorded := domain.Metadata.PrivateVolume
	switch {
	case recorded == "":
		return store.DiskName(domain.Name, domain.UUID)
	case domain.Metadata.Pool != f.Pool:
		return "", fmt.Errorf(
			"its private disk is in storage pool %q, and the provider works on pool %q: %w; set pool in the provider block",
			domain.Metadata.Pool, f.Pool, ErrNotOurs)
	case !store.DiskIsOf(recorded, domain.UUID):
		return "", fmt.Errorf("its definition names volume %q as its private disk: %w, whose UUID is %s",
			recorded, ErrNotOurs, domain.UUID)
	}
	if name, _ := store.ParseVolumeName(recorded); name.Mark != "" {
		return recorded, nil
	}
	all, err := f.Hypervisor.List(ctx)
	if err != nil {
		return "", fmt.Errorf("find out whose private disk %s is: %w", recorded, err)
	}
	for _, other := range all {
		if other.UUID != domain.UUID && other.Metadata.Pool == f.Pool && other.Metadata.PrivateVolume == recorded {
			return "", fmt.Errorf(
				"the definition of VM %q names volume %s as its private disk, too: %w; undefine the one that is a copy (virsh undefine)",
				other.Name, recorded, ErrNotOurs)
		}
	}
	return recorded, nil
}

// creating is the mark of a VM that this process makes.
func (f *Fleet) creating() (*hypervisor.Creating, error) {
	process, err := store.ThisProcess()
	if err != nil {
		return nil, err
	}
	workspace, err := store.ThisWorkspace()
	if err != nil {
		return nil, err
	}
	return &hypervisor.Creating{
		Operator: base64.StdEncoding.EncodeToString(f.publicKey()), Process: process,
		Began:     time.Now().UTC().Truncate(time.Second),
		Workspace: workspace,
	}, nil
}

// Interrupted implements Interface.
func (f *Fleet) Interrupted(ctx context.Context, name string) (string, error) {
	domain, _, err := f.Hypervisor.Lookup(ctx, name)
	mark := domain.Metadata.Creating
	switch {
	case errors.Is(err, hypervisor.ErrNotFound), errors.Is(err, hypervisor.ErrForeign),
		errors.Is(err, hypervisor.ErrDamaged):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look for VM %q: %w", name, err)
	case mark == nil || mark.Operator != base64.StdEncoding.EncodeToString(f.publicKey()) ||
		domain.Metadata.Pool != f.Pool:
		return "", nil
	}
	here, err := store.ThisWorkspace()
	switch {
	case err != nil:
		return "", fmt.Errorf("look for VM %q: %w", name, err)
	case mark.Finished && (mark.Workspace != here || domain.Metadata.Protected):
		return "", nil // it may well be in the state of another configuration
	}
	ended, err := store.MakerEnded(mark.Process, mark.Began)
	if err != nil {
		return "", fmt.Errorf("find out who makes VM %q: %w", name, err)
	}
	if !ended {
		return "", fmt.Errorf(
			"VM %q: %w since %s (process %s); wait until it has ended; if there is none, import the VM",
			name, ErrCreating, mark.Began.Format(time.RFC3339), mark.Process)
	}
	return domain.UUID, nil
}

// finished records that a VM was made. The mark itself stays: Terraform writes the VM to its state
// after that, and may be killed before.
func (f *Fleet) finished(ctx context.Context, spec Spec) error {
	return f.remark(context.WithoutCancel(ctx), spec.UUID, func(mark *hypervisor.Creating) *hypervisor.Creating {
		mark.Finished = true
		return mark
	})
}

// Recorded implements Interface.
func (f *Fleet) Recorded(ctx context.Context, uuid string) error {
	return f.remark(ctx, uuid, func(*hypervisor.Creating) *hypervisor.Creating { return nil })
}

// remark changes the mark of a VM that is being made, if there is one.
func (f *Fleet) remark(ctx context.Context, uuid string, change func(*hypervisor.Creating) *hypervisor.Creating) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	domain, _, err := f.Hypervisor.LookupUUID(ctx, uuid)
	if err != nil || domain.Metadata.Creating == nil {
		return ignoreNotFound(err)
	}
	domain.Metadata.Creating = change(domain.Metadata.Creating)
	if err := f.Hypervisor.SetMetadata(ctx, domain.Name, domain.Metadata); err != nil {
		return fmt.Errorf("record how far VM %q is made: %w", domain.Name, ignoreNotFound(err))
	}
	return nil
}

func ignoreNotFound(err error) error {
	if errors.Is(err, hypervisor.ErrNotFound) {
		return nil
	}
	return err
}

package host_test

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
)

// bare is a machine that has some files.
type bare struct {
	machine.Local
	files []string
	err   error
}

func (b bare) Exists(_ context.Context, path string) (bool, error) {
	return slices.Contains(b.files, path), b.err
}

func TestWhatAHostLacksIsNamed(t *testing.T) {
	all := hypervisor.Facts{KVM: true, VSock: hypervisor.VSockVhost, StartsAlone: true}
	installed := func(string) (string, error) { return "/usr/bin/program", nil }
	for name, c := range map[string]struct {
		change func(*hypervisor.Facts)
		files  []string
		look   func(string) (string, error)
		want   []string
	}{
		"nothing":          {func(*hypervisor.Facts) {}, nil, installed, nil},
		"no device of KVM": {func(f *hypervisor.Facts) { f.KVM = false }, nil, installed, []string{"/dev/kvm"}},
		"KVM in libvirt": {func(f *hypervisor.Facts) { f.KVM = false }, []string{"/dev/kvm"}, installed,
			[]string{"KVM in libvirt"}},
		"a vsock":         {func(f *hypervisor.Facts) { f.VSock = "" }, nil, installed, []string{"vhost-vsock"}},
		"a daemon is one": {func(f *hypervisor.Facts) { f.VSock = hypervisor.VSockVhostUser }, nil, installed, nil},
		"the hook": {func(f *hypervisor.Facts) { f.StartsAlone = false }, nil, installed,
			[]string{"a hook of libvirt that starts vsock daemons"}},
		"what builds bases": {func(*hypervisor.Facts) {}, nil, func(string) (string, error) { return "", exec.ErrNotFound }, []string{"mmdebstrap"}},
	} {
		t.Run(name, func(t *testing.T) {
			facts := all
			c.change(&facts)
			missing, err := host.Lacking(t.Context(), bare{files: c.files}, facts, c.look)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, one := range missing {
				names = append(names, one.Name)
				if one.NeededFor == "" || one.Install == "" {
					t.Errorf("%+v does not say what it is for and how to get it", one)
				}
			}
			if !slices.Equal(names, c.want) {
				t.Errorf("it lacks %v, want %v", names, c.want)
			}
		})
	}
}

func TestWhatCannotBeLookedForIsNotMissing(t *testing.T) {
	facts := hypervisor.Facts{VSock: hypervisor.VSockVhost, StartsAlone: true}
	installed := func(string) (string, error) { return "/usr/bin/program", nil }
	if missing, err := host.Lacking(t.Context(), bare{err: fs.ErrPermission}, facts,
		installed); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v, %v", missing, err)
	}
	facts.KVM = true
	refuses := func(string) (string, error) { return "", fs.ErrPermission }
	if missing, err := host.Lacking(t.Context(), bare{}, facts, refuses); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v, %v", missing, err)
	}
}

func TestTheFactsOfAHost(t *testing.T) {
	a, _ := openTwo(t)
	before, err := a.Facts(t.Context())
	must(t, err)
	if before.HasPool || before.Room.Directory == "" || before.Libvirt == "" || before.QEMU == "" ||
		before.Limits.Processors < 1 {
		t.Errorf("before anything is made: %+v", before)
	}
	publishOn(t, a, "1")
	after, err := a.Facts(t.Context())
	must(t, err)
	if !after.HasPool || after.Room.Available <= 0 || after.Room.Capacity < after.Room.Available {
		t.Errorf("with a pool: %+v", after)
	}
}

package vm_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// networks is a configuration of a guest with a network.
func networks() *guestconfig.Document {
	return &guestconfig.Document{Version: guestconfig.Version,
		Networks: map[string]guestconfig.Network{"lan": {DHCP4: true}}}
}

// withContents publishes a base with one file.
func (w *world) withContents(t *testing.T, name string) tree.Digest {
	t.Helper()
	entries := []tree.Entry{{Path: tree.Root, Type: tree.Directory, Mode: 0o755}}
	for i, c := range name {
		if c == '/' {
			entries = append(entries, tree.Entry{Path: name[:i], Type: tree.Directory, Mode: 0o755})
		}
	}
	var list strings.Builder
	if _, err := release.WriteContents(&list,
		append(entries, tree.Entry{Path: name, Type: tree.Regular, Mode: 0o755})); err != nil {
		t.Fatal(err)
	}
	return w.publish(t, w.fleet.Key, &release.Manifest{
		Sequence: 1, Layers: []release.Layer{w.putLayer(t, name, false)}, Contents: w.putBlob(t, list.String()),
	}, name)
}

// Preflight finds what the host lacks, and nothing that the VM has already.
func TestPreflight(t *testing.T) {
	const gibibyte = 1024 * mebibyte
	on := func(ports ...uint16) hypervisor.Interface {
		forwards := map[uint16]uint16{}
		for _, port := range ports {
			forwards[port] = 22
		}
		return hypervisor.Interface{User: &hypervisor.UserNetwork{Forwards: forwards}}
	}
	lan := func(one hypervisor.Interface) map[string]hypervisor.Interface {
		return map[string]hypervisor.Interface{"lan": one}
	}
	for name, test := range map[string]struct {
		change func(w *world, q *vm.Question)
		// want is "attribute: text" of each problem.
		want []string
	}{
		"nothing is wrong": {change: func(_ *world, q *vm.Question) {
			q.Want.Interfaces = map[string]hypervisor.Interface{"a": {Bridge: "br0"},
				"b": {Network: "default"}, "c": on(8080)}
		}},
		"a domain of the name": {change: func(w *world, q *vm.Question) {
			w.hypervisor.AddForeign(q.Want.Name, "22222222-2222-4333-8444-555555555555")
		}, want: []string{"name: not made by sharedos"}},
		"processors of which QEMU has fewer": {change: func(w *world, q *vm.Question) {
			w.hypervisor.Host = hypervisor.Limits{VCPUs: 8, Processors: 4, Memory: gibibyte}
			q.Want.VCPUs = 9
		}, want: []string{"vcpus: at most 8"}},
		"processors of which the host has fewer": {change: func(w *world, q *vm.Question) {
			w.hypervisor.Host = hypervisor.Limits{VCPUs: 8, Processors: 4, Memory: gibibyte}
			q.Want.VCPUs = 5
		}, want: []string{"vcpus: possible: the host has 4"}},
		"a maximum of processors that QEMU does not have": {change: func(w *world, q *vm.Question) {
			w.hypervisor.Host = hypervisor.Limits{VCPUs: 8, Processors: 4, Memory: gibibyte}
			q.Want.MaxVCPUs = 9
		}, want: []string{"max_vcpus: at most 8"}},
		"a maximum of processors on a host without KVM": {change: func(w *world, q *vm.Question) {
			w.hypervisor.Host = hypervisor.Limits{VCPUs: 8, Processors: 8, Memory: gibibyte, Emulated: true}
			q.Want.MaxVCPUs = 4
		}, want: []string{"max_vcpus: possible: no KVM"}},
		"a maximum of memory that the host does not have": {change: func(w *world, q *vm.Question) {
			w.hypervisor.Host = hypervisor.Limits{VCPUs: 8, Processors: 4, Memory: gibibyte}
			q.Want.MaxMemory = 2 * gibibyte
		}, want: []string{"max_memory: the host has 1024 MiB"}},
		"more memory than the host has": {change: func(w *world, q *vm.Question) {
			w.hypervisor.Host = hypervisor.Limits{VCPUs: 8, Processors: 4, Memory: gibibyte}
			q.Want.Memory = gibibyte + mebibyte
		}, want: []string{"memory: the host has 1024 MiB"}},
		"huge pages that the VM holds itself": {change: func(w *world, q *vm.Question) {
			w.hypervisor.Pages = map[int64]int64{2 * mebibyte: 1}
			have := q.Want
			have.Running, have.Hardware.Memory.HugePages = true, 2*mebibyte
			q.Have, q.Want.Hardware.Memory.HugePages, q.Want.Memory = &have, 2*mebibyte, have.Memory+2*mebibyte
		}},
		"one huge page too few": {change: func(w *world, q *vm.Question) {
			w.hypervisor.Pages = map[int64]int64{2 * mebibyte: 1}
			have := q.Want
			have.Running, have.Hardware.Memory.HugePages = true, 2*mebibyte
			q.Have, q.Want.Hardware.Memory.HugePages, q.Want.Memory = &have, 2*mebibyte, have.Memory+4*mebibyte
		}, want: []string{"memory_backing.huge_page_size: pages of 2048 KiB"}},
		"huge pages of a VM that stays off": {change: func(_ *world, q *vm.Question) {
			q.Want.Running, q.Want.Hardware.Memory.HugePages = false, 2*mebibyte
		}},
		"a topology of other processors": {change: func(_ *world, q *vm.Question) {
			have := q.Want
			have.VCPUs, have.Running = 2, true
			have.Hardware.CPU.Cores = 2
			q.Have, q.Want.Hardware.CPU.Cores, q.Want.VCPUs = &have, 2, 3
		}, want: []string{"cpu: not 3 processors"}},
		"a topology while the number of processors is not known": {change: func(_ *world, q *vm.Question) {
			q.Want.Hardware.CPU.Cores, q.Want.VCPUs = 2, 0
		}},
		"what the VM has already": {change: func(w *world, q *vm.Question) {
			w.hypervisor.Refuse = func(hypervisor.Domain) error { return fs.ErrInvalid }
			q.Want.Hardware.TPM, q.Want.Running = "tpm-crb", true
			have := q.Want
			q.Have = &have
		}},
		"a disk that is larger than the pool": {change: func(w *world, q *vm.Question) {
			w.store.Free = store.Room{Capacity: gibibyte, Available: 10 * mebibyte, Thin: true}
			q.Want.DiskSize = gibibyte + mebibyte
		}, want: []string{"disk.size: has 1024 MiB"}},
		"a disk that fits into a pool that is full now": {change: func(w *world, _ *vm.Question) {
			w.store.Free = store.Room{Capacity: 2 * gibibyte, Available: mebibyte, Thin: true}
		}},
		"a disk that is thick and does not fit": {change: func(w *world, _ *vm.Question) {
			w.store.Free = store.Room{Capacity: 2 * gibibyte, Available: 100 * mebibyte}
		}, want: []string{"disk.size: has 100 MiB free"}},
		"a thick disk that grows by what is free": {change: func(w *world, q *vm.Question) {
			w.store.Free = store.Room{Capacity: 2 * gibibyte, Available: 100 * mebibyte}
			have := q.Want
			q.Have, q.Want.DiskSize = &have, have.DiskSize+100*mebibyte
		}},
		"no such bridge": {change: func(_ *world, q *vm.Question) { q.Want.Interfaces = lan(hypervisor.Interface{Bridge: "br9"}) },
			want: []string{`interfaces.lan.bridge: no bridge "br9"`}},
		"a VLAN": {change: func(w *world, q *vm.Question) {
			w.hypervisor.VLANs = []string{"br0"}
			q.Want.Interfaces = lan(hypervisor.Interface{Bridge: "br0", VLAN: 7})
		}},
		"a VLAN on a bridge without them": {change: func(_ *world, q *vm.Question) {
			q.Want.Interfaces = lan(hypervisor.Interface{Bridge: "br0", VLAN: 7})
		}, want: []string{`interfaces.lan.vlan: bridge "br0" does not filter VLANs`}},
		"a VLAN on a bridge that is not there": {change: func(_ *world, q *vm.Question) {
			q.Want.Interfaces = lan(hypervisor.Interface{Bridge: "br9", VLAN: 7})
		}, want: []string{`interfaces.lan.bridge: no bridge "br9"`}},
		"queues": {change: func(_ *world, q *vm.Question) {
			q.Want.VCPUs, q.Want.MaxVCPUs, q.Want.Interfaces = 1, 2, lan(hypervisor.Interface{Bridge: "br0", Queues: 2})
		}},
		"more queues than processors": {change: func(_ *world, q *vm.Question) {
			q.Want.VCPUs, q.Want.Interfaces = 1, lan(hypervisor.Interface{Bridge: "br0", Queues: 2})
		}, want: []string{"interfaces.lan.queues: at most 1 processors"}},
		"fewer processors than queues": {change: func(_ *world, q *vm.Question) {
			q.Want.VCPUs, q.Want.Interfaces = 2, lan(hypervisor.Interface{Bridge: "br0", Queues: 2})
			have := q.Want
			q.Have, q.Want.VCPUs = &have, 1
		}, want: []string{"interfaces.lan.queues: at most 1 processors"}},
		"queues, and processors that are not known yet": {change: func(_ *world, q *vm.Question) {
			q.Want.VCPUs, q.Want.Interfaces = 0, lan(hypervisor.Interface{Bridge: "br0", Queues: 2})
		}},
		"no such network": {change: func(_ *world, q *vm.Question) { q.Want.Interfaces = lan(hypervisor.Interface{Network: "lab"}) },
			want: []string{`interfaces.lan.network: no network "lab"`}},
		"a network that is not active": {change: func(_ *world, q *vm.Question) { q.Want.Interfaces = lan(hypervisor.Interface{Network: "stopped"}) },
			want: []string{`interfaces.lan.network: "stopped" is not active`}},
		"a network that is not active, for a VM that is off": {change: func(_ *world, q *vm.Question) {
			q.Want.Interfaces, q.Want.Running = lan(hypervisor.Interface{Network: "stopped"}), false
		}},
		"no such bridge, for a VM that is off": {change: func(_ *world, q *vm.Question) {
			q.Want.Interfaces, q.Want.Running = lan(hypervisor.Interface{Bridge: "br9"}), false
		}, want: []string{`interfaces.lan.bridge: no bridge "br9"`}},
		"a port that another program has": {change: func(_ *world, q *vm.Question) { q.Want.Interfaces = lan(on(8080, 2222)) },
			want: []string{"interfaces.lan.user.forwards: port 2222 of the host's 127.0.0.1 is in use"}},
		"a port that the VM has already": {change: func(_ *world, q *vm.Question) {
			have := q.Want
			have.Interfaces = lan(on(2222))
			q.Have, q.Want.Interfaces = &have, lan(on(2222, 8080))
		}},
		"a port that a VM which is off has, and is to run with": {change: func(_ *world, q *vm.Question) {
			q.Want.Interfaces = lan(on(2222))
			have := q.Want
			have.Running = false
			q.Have = &have
		}, want: []string{"interfaces.lan.user.forwards: port 2222 of the host's 127.0.0.1 is in use"}},
		"a network that is not active, of a VM that is off and is to run": {change: func(_ *world, q *vm.Question) {
			q.Want.Interfaces = lan(hypervisor.Interface{Network: "stopped"})
			have := q.Want
			have.Running = false
			q.Have = &have
		}, want: []string{`interfaces.lan.network: "stopped" is not active`}},
		"too many keys": {change: func(_ *world, q *vm.Question) {
			q.Want.AuthorizedKeys = slices.Repeat([]string{"ssh-ed25519 " + strings.Repeat("A", 1000)},
				hypervisor.MaxBootConfig/1000+1)
		}, want: []string{"ssh_authorized_keys: at most"}},
		"networks without a network manager": {change: func(w *world, q *vm.Question) {
			q.Want.Base, q.Want.Configuration = w.withContents(t, "usr/sbin/ifup"), networks()
		}, want: []string{"networks: neither systemd-networkd nor NetworkManager"}},
		"networks with NetworkManager": {change: func(w *world, q *vm.Question) {
			q.Want.Base, q.Want.Configuration = w.withContents(t, "usr/sbin/NetworkManager"), networks()
		}},
		"networks with a manager of a component": {change: func(w *world, q *vm.Question) {
			q.Want.Base, q.Want.Configuration = w.withContents(t, "usr/sbin/ifup"), networks()
			q.Want.Components = []tree.Digest{w.withContents(t, "usr/lib/systemd/systemd-networkd")}
		}},
		"networks of a base that is not known yet": {change: func(_ *world, q *vm.Question) {
			q.Want.Base, q.Want.Configuration = tree.Digest{1}, networks()
		}},
		"what a VM has is not checked again": {change: func(w *world, q *vm.Question) {
			w.hypervisor.Host = hypervisor.Limits{VCPUs: 1, Processors: 1, Memory: mebibyte}
			w.store.Free = store.Room{Capacity: mebibyte, Available: 0}
			q.Want.VCPUs, q.Want.Interfaces = 4, lan(hypervisor.Interface{Bridge: "br9"})
			q.Want.Base, q.Want.Configuration = w.withContents(t, "usr/sbin/ifup"), networks()
			have := q.Want
			q.Have, q.Want.Interfaces = &have, maps.Clone(have.Interfaces)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.fleet.Machine = busy{port: 2222}
			w.hypervisor.Networks, w.hypervisor.Bridges = map[string]bool{"default": true, "stopped": false},
				[]string{"br0"}
			question := vm.Question{Want: w.spec()}
			test.change(w, &question)
			problems, err := w.fleet.Preflight(t.Context(), question)
			if err != nil || len(problems) != len(test.want) {
				t.Fatalf("%+v, %v", problems, err)
			}
			for i, problem := range problems {
				attribute, text, _ := strings.Cut(test.want[i], ": ")
				text, possible := strings.CutPrefix(text, "possible: ")
				if strings.Join(problem.Attribute, ".") != attribute || !strings.Contains(problem.Err.Error(), text) ||
					problem.Next == "" || problem.Possible != possible {
					t.Errorf("%+v, want %s", problem, test.want[i])
				}
			}
			if calls := append(w.hypervisor.Calls(), w.store.Calls()[3:]...); slices.ContainsFunc(calls,
				func(c string) bool { return !strings.HasPrefix(c, "Put") }) {
				t.Errorf("it changed something: %v", calls)
			}
		})
	}
}

// QEMU is given the files of a pool, and not the directories above them.
func TestADirectoryThatQEMUCannotEnter(t *testing.T) {
	directories := map[string]directory{"/": {0, 0o755}, "/home": {0, 0o755}, "/home/me": {1000, 0o700},
		"/home/me/pool": {0, 0o711}}
	for name, test := range map[string]struct {
		user   int
		path   string
		change func(map[string]directory)
		have   bool
		want   string
	}{
		"a home": {user: 64055, path: "/home/me/pool", want: "/home/me (mode 0700)"},
		"a pool that is to be made in it": {user: 64055, path: "/home/me/new/pool",
			want: "/home/me (mode 0700)"},
		"the user's own":    {user: 1000, path: "/home/me/pool"},
		"QEMU runs as root": {path: "/home/me/pool"},
		"open to all": {user: 64055, path: "/home/me/pool",
			change: func(d map[string]directory) { d["/home/me"] = directory{1000, 0o711} }},
		"open to a group or a list": {user: 64055, path: "/home/me/pool",
			change: func(d map[string]directory) { d["/home/me"] = directory{1000, 0o710} }},
		"the pool itself": {user: 64055, path: "/home/me/pool",
			change: func(d map[string]directory) { d["/home/me"], d["/home/me/pool"] = d["/"], directory{0, 0o700} },
			want:   "/home/me/pool (mode 0700)"},
		"a pool that is no directory": {user: 64055, path: ""},
		"a VM that runs":              {user: 64055, path: "/home/me/pool", have: true},
		"its own directory without the bit for it": {user: 1000, path: "/home/me/pool",
			change: func(d map[string]directory) { d["/home/me"] = directory{1000, 0o677} },
			want:   "/home/me (mode 0677)"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			on := maps.Clone(directories)
			if test.change != nil {
				test.change(on)
			}
			w.fleet.Machine = owned{directories: on}
			w.hypervisor.Host = hypervisor.Limits{VCPUs: 8, Processors: 8, Memory: 1 << 40, User: test.user}
			w.store.Free = store.Room{Capacity: 1 << 40, Available: 1 << 40, Thin: true, Directory: test.path}
			question := vm.Question{Want: w.spec()}
			if test.have {
				have := question.Want
				question.Have = &have
			}
			problems, err := w.fleet.Preflight(t.Context(), question)
			if err != nil || len(problems) != min(1, len(test.want)) {
				t.Fatalf("%+v, %v", problems, err)
			}
			if test.want != "" &&
				(!strings.Contains(problems[0].Err.Error(), test.want) ||
					!strings.Contains(problems[0].Next, "setfacl") || problems[0].Possible) {
				t.Errorf("%+v", problems[0])
			}
		})
	}
}

type directory struct {
	owner int
	mode  fs.FileMode
}

// owned is a machine with directories.
type owned struct {
	machine.Local
	directories map[string]directory
}

func (o owned) Owner(_ context.Context, path string) (int, fs.FileMode, error) {
	one, ok := o.directories[path]
	if !ok {
		return 0, 0, fs.ErrNotExist
	}
	return one.owner, one.mode | fs.ModeDir, nil
}

// busy is a machine on which one port is in use.
type busy struct {
	machine.Local
	port uint16
}

func (b busy) PortFree(_ context.Context, port uint16) (bool, error) { return port != b.port, nil }

// The VM that has a port may give it up in the same run, if the caller manages it.
func TestAPortOfAnotherVM(t *testing.T) {
	w := newWorld(t)
	w.fleet.Machine = busy{port: 2222}
	holder := w.spec()
	holder.Interfaces = map[string]hypervisor.Interface{"lan": {User: &hypervisor.UserNetwork{Forwards: map[uint16]uint16{2222: 22}}}}
	if _, err := w.fleet.Create(t.Context(), holder, func(string) {}); err != nil {
		t.Fatal(err)
	}
	want := w.spec()
	want.Name, want.UUID, want.Interfaces = "web-b", "", holder.Interfaces
	for known, problems := range map[bool]int{true: 0, false: 1} {
		found, err := w.fleet.Preflight(t.Context(),
			vm.Question{Want: want, Known: func(uuid string) bool { return known && uuid == holder.UUID }})
		if err != nil || len(found) != problems {
			t.Errorf("known %v: %+v, %v", known, found, err)
		}
		if len(found) == 1 && !strings.Contains(found[0].Err.Error(), `VM "web-a"`) {
			t.Errorf("%v does not name the VM", found[0].Err)
		}
	}
	// Its own name is free for itself, and for nobody else.
	for known, problems := range map[bool]int{true: 0, false: 1} {
		taken := w.spec()
		taken.UUID = ""
		found, err := w.fleet.Preflight(t.Context(),
			vm.Question{Want: taken, Known: func(string) bool { return known }})
		if err != nil || len(found) != problems {
			t.Errorf("known %v: %+v, %v", known, found, err)
		}
	}
}

// A VM whose creation was interrupted may run, and then it has its own name and ports.
func TestAnInterruptedVMIsNotInItsOwnWay(t *testing.T) {
	w := newWorld(t)
	w.fleet.Machine = busy{port: 2222}
	want := w.spec()
	want.Interfaces = map[string]hypervisor.Interface{"lan": {User: &hypervisor.UserNetwork{Forwards: map[uint16]uint16{2222: 22}}}}
	if _, err := w.fleet.Create(t.Context(), want, func(string) {}); err != nil {
		t.Fatal(err)
	}
	w.hypervisor.Alter("web-a", func(d *hypervisor.Domain) {
		d.Metadata.Creating = &hypervisor.Creating{Operator: w.operators()[0], Process: "gone"}
	})
	want.UUID = ""
	found, err := w.fleet.Preflight(t.Context(), vm.Question{Want: want})
	if err != nil || len(found) != 1 || !found[0].Possible || !strings.Contains(found[0].Err.Error(), w.spec().UUID) {
		t.Errorf("found %+v, %v; want that it is continued", found, err)
	}
}

// A patch that may be about what is not known yet, or that libvirt looks for at a start, is left to the apply.
func TestAPatchIsTriedIfAllOfItIsKnown(t *testing.T) {
	w := newWorld(t)
	patch := hypervisor.Patch{Op: hypervisor.PatchRemove, Path: "/domain/devices/interface[1]/link"}
	w.hypervisor.Devices = []hypervisor.HostDevice{{USB: "1d6b:0002"}}
	w.hypervisor.Refuse = func(d hypervisor.Domain) error {
		if len(d.Hardware.Patches) == 0 {
			return nil
		}
		return &hypervisor.PatchError{Err: errors.New("matches nothing")}
	}
	for what, c := range map[string]struct {
		interfaces map[string]hypervisor.Interface
		devices    map[string]hypervisor.HostDevice
		refused    bool
	}{
		"all is known":             {map[string]hypervisor.Interface{}, nil, true},
		"interfaces are not known": {nil, nil, false},
		"a device of USB":          {map[string]hypervisor.Interface{}, map[string]hypervisor.HostDevice{"a": {USB: "1d6b:0002"}}, false},
	} {
		want := w.spec()
		want.Name, want.UUID = "new", uuid.NewString()
		want.Interfaces, want.Hardware = c.interfaces, hypervisor.Hardware{Patches: []hypervisor.Patch{patch}, Devices: c.devices}
		problems, err := w.fleet.Preflight(t.Context(), vm.Question{Want: want})
		if err != nil || (len(problems) > 0) != c.refused {
			t.Errorf("%s: %v, %v", what, problems, err)
		}
	}
}

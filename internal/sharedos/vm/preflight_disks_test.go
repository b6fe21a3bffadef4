package vm_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

func TestWhatIsWrongWithDisksIsSaidByThePlan(t *testing.T) {
	w := newWorld(t)
	w.store.Free = store.Room{Capacity: 1 << 30, Available: 1 << 30, Thin: true}
	if err := os.WriteFile(w.store.Path("mine.img"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := w.spec()
	spec.Disks = map[string]vm.Disk{"data": disk("data", func(d *vm.Disk) { d.Protected = true }),
		"old": disk("old", nil)}
	w.create(t, spec)
	given := func(volume string) vm.Disk {
		return disk("given", func(d *vm.Disk) { d.Volume, d.Size = volume, 0 })
	}
	for name, c := range map[string]struct {
		change   func(map[string]vm.Disk)
		want, at string
		possible bool
	}{
		"nothing":                  {change: func(map[string]vm.Disk) {}},
		"its own pool by its name": {change: func(d map[string]vm.Disk) { d["old"] = disk("old", func(d *vm.Disk) { d.Pool = "pool" }) }},
		"one is removed":           {change: func(d map[string]vm.Disk) { delete(d, "old") }},
		"a protected one":          {func(d map[string]vm.Disk) { delete(d, "data") }, "is protected", "disks", false},
		"another pool": {
			func(d map[string]vm.Disk) { d["old"] = disk("old", func(d *vm.Disk) { d.Pool = "other" }) },
			"another disk", "disks.old", false,
		},
		"another format": {
			func(d map[string]vm.Disk) { d["old"] = disk("old", func(d *vm.Disk) { d.Format = "qcow2" }) },
			"another disk", "disks.old", false,
		},
		"no such pool": {
			func(d map[string]vm.Disk) { d["new"] = disk("new", func(d *vm.Disk) { d.Pool = "none" }) },
			`no storage pool "none"`, "disks", false,
		},
		"too large together": {
			func(d map[string]vm.Disk) {
				d["old"], d["new"] = disk("old", func(d *vm.Disk) { d.Size = 600 * mebibyte }),
					disk("new", func(d *vm.Disk) { d.Size = 600 * mebibyte })
			}, "1136 MiB more", "disks", false,
		},
		"a pool of devices": {
			func(d map[string]vm.Disk) { d["new"] = disk("new", func(d *vm.Disk) { d.Format = "qcow2" }) },
			"block devices", "disks.new.format", false,
		},
		"a volume":                   {change: func(d map[string]vm.Disk) { d["given"] = given("mine.img") }},
		"a volume that is not there": {func(d map[string]vm.Disk) { d["given"] = given("none.img") }, "no volume", "disks.given.volume", true},
		"a volume of ours": {
			func(d map[string]vm.Disk) { d["given"] = given(w.nameOf(t, spec, "old")) },
			"name of a layer or of a VM's disk", "disks.given.volume", false,
		},
		"a volume of another format": {
			func(d map[string]vm.Disk) {
				one := given("mine.img")
				one.Format = "qcow2"
				d["given"] = one
			}, `has format "raw"`, "disks.given.format", false,
		},
		"more than there are ports": {
			func(d map[string]vm.Disk) {
				for i := range hypervisor.MaxDisks - 2 {
					serial := string(rune('a' + i))
					d[serial] = disk(serial, func(d *vm.Disk) { d.Size = mebibyte })
				}
			}, "PCIe ports for", "disks", false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := spec
			want.Disks = map[string]vm.Disk{"data": spec.Disks["data"], "old": spec.Disks["old"]}
			c.change(want.Disks)
			problems, err := w.fleet.Preflight(t.Context(), vm.Question{Want: want, Have: &spec})
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				if len(problems) > 0 {
					t.Errorf("%+v", problems)
				}
				return
			}
			if len(problems) != 1 || !strings.Contains(problems[0].Err.Error(), c.want) ||
				strings.Join(problems[0].Attribute, ".") != c.at ||
				problems[0].Possible != c.possible || problems[0].Next == "" {
				t.Errorf("%+v", problems)
			}
		})
	}
	unknown := spec
	unknown.Disks = nil
	if problems, err := w.fleet.Preflight(t.Context(), vm.Question{Want: unknown, Have: &spec}); err != nil ||
		len(problems) > 0 {
		t.Errorf("disks that are not known yet: %v, %+v", err, problems)
	}
}

// Disks and interfaces that are attached to a running VM share its ports.
func TestPortsForInterfacesOfARunningVM(t *testing.T) {
	w := newWorld(t)
	w.hypervisor.Bridges = []string{"br0"}
	spec := w.spec()
	spec.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: "br0"}}
	w.create(t, spec)
	room, err := w.hypervisor.RoomForDisks(t.Context(), spec.Name)
	if err != nil || room < 2 {
		t.Fatal(room, err)
	}
	for name, c := range map[string]struct {
		keep, user     bool
		more, disks    int
		want           bool
		running, known bool
	}{
		"as many as there is room for": {keep: true, more: room, running: true, known: true},
		"one more":                     {keep: true, more: room + 1, running: true, known: true, want: true},
		"one more, for one that goes":  {more: room + 1, running: true, known: true},
		"with a disk": {keep: true, more: room, disks: 1, running: true,
			known: true, want: true},
		"one more, in a VM that is off":        {keep: true, more: room + 1, known: true},
		"one more, with a power-off":           {keep: true, more: room + 1, running: true, known: true, user: true},
		"as many disks, others are not known ": {disks: room, running: true},
	} {
		t.Run(name, func(t *testing.T) {
			have, want := spec, spec
			have.Running, want.Disks = c.running, map[string]vm.Disk{}
			if want.Interfaces = nil; c.known {
				want.Interfaces = map[string]hypervisor.Interface{}
			}
			if c.keep {
				want.Interfaces["lan"] = spec.Interfaces["lan"]
			}
			if c.user {
				want.Interfaces["user"] = hypervisor.Interface{User: &hypervisor.UserNetwork{}}
			}
			for i := range c.more {
				want.Interfaces[fmt.Sprintf("n%d", i)] = hypervisor.Interface{Bridge: "br0"}
			}
			for i := range c.disks {
				serial := fmt.Sprintf("d%d", i)
				want.Disks[serial] = disk(serial, func(d *vm.Disk) { d.Size = mebibyte })
			}
			problems, err := w.fleet.Preflight(t.Context(), vm.Question{Want: want, Have: &have})
			if err != nil || (len(problems) == 1) != c.want {
				t.Fatalf("%+v, %v", problems, err)
			}
			if c.want && (!strings.Contains(problems[0].Err.Error(), "PCIe ports for") ||
				problems[0].Attribute[0] != "interfaces" || problems[0].Possible) {
				t.Errorf("%+v", problems[0])
			}
		})
	}
}

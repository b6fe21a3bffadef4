package vm

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

func TestHowAVMBecomesWhatItIsToBe(t *testing.T) {
	const none, reboot = agentapi.Level_NONE, agentapi.Level_REBOOT
	bridge := func(mac string) map[string]hypervisor.Interface {
		return map[string]hypervisor.Interface{"lan": {Bridge: "br0", MAC: mac}}
	}
	card := func(change func(*hypervisor.Interface)) func(have, want *Spec) {
		return func(have, want *Spec) {
			have.Interfaces, want.Interfaces = bridge(""), bridge("")
			one := want.Interfaces["lan"]
			change(&one)
			want.Interfaces["lan"] = one
		}
	}
	disks := func(change func(want map[string]Disk)) func(have, want *Spec) {
		return func(have, want *Spec) {
			have.Disks, want.Disks = map[string]Disk{"a": {Size: 1}, "b": {Size: 1}},
				map[string]Disk{"a": {Size: 1}, "b": {Size: 1}}
			change(want.Disks)
		}
	}
	for name, test := range map[string]struct {
		change   func(have, want *Spec)
		newStack bool
		move     Move
	}{
		"nothing changes: its agent says whether it runs its stack": {nil, false, Move{Guest: GuestRefresh, Level: none}},
		"another stack": {nil, true, Move{Guest: GuestRefresh, Level: none}},
		"another stack, at the next start": {
			func(_, want *Spec) { want.Refresh.Strategy = NextBoot }, true,
			Move{Guest: GuestDeferred, Level: none, Reasons: []Reason{ReasonNextBoot}},
		},
		"a VM of rollouts keeps its stack": {
			func(_, want *Spec) { want.Refresh.ByRollout, want.Refresh.Strategy = true, NextBoot }, true,
			Move{Guest: GuestKept, Level: none},
		},
		"a VM of rollouts is moved by one": {
			func(_, want *Spec) { want.Refresh.ByRollout, want.Refresh.moving = true, true }, true,
			Move{Guest: GuestRefresh, Level: none},
		},
		"the same stack, at the next start": {func(_, want *Spec) { want.Refresh.Strategy = NextBoot }, false, Move{Guest: GuestDeferred, Level: none}},
		"a larger disk": {
			func(_, want *Spec) { want.DiskSize++ }, false,
			Move{Guest: GuestRefresh, GrowDisk: true, Level: none, Reasons: []Reason{ReasonDiskGrows}},
		},
		"a larger disk and another stack at the next start": {
			func(_, want *Spec) { want.DiskSize++; want.Refresh.Strategy = NextBoot }, true,
			Move{Guest: GuestDeferred, GrowDisk: true, Level: none, Reasons: []Reason{ReasonDiskGrows, ReasonNextBoot}},
		},
		"disks": {
			disks(func(want map[string]Disk) {
				delete(want, "a")
				want["b"] = Disk{Size: 2, FileSystem: "ext4", MountPoint: "/srv/b"}
				want["c"] = Disk{Size: 1}
			}), false,
			Move{Guest: GuestRefresh, Level: none, Reasons: []Reason{ReasonDisksLive},
				Disks: DiskMoves{Detach: []string{"a"}, Attach: []string{"c"}, Grow: []string{"b"}, Mount: true}},
		},
		"a disk is unmounted": {
			func(have, want *Spec) {
				have.Disks = map[string]Disk{"a": {FileSystem: "ext4", MountPoint: "/srv/b"}}
				want.Disks = map[string]Disk{"a": {}}
			}, false, Move{Guest: GuestRefresh, Level: none, Reasons: []Reason{ReasonDisksLive},
				Disks: DiskMoves{Mount: true}},
		},
		"the protection of a disk": {
			disks(func(want map[string]Disk) { want["a"] = Disk{Size: 1, Protected: true} }), false,
			Move{Guest: GuestRefresh, Level: none},
		},
		"the cache of a disk, and another disk": {
			disks(func(want map[string]Disk) {
				want["a"] = Disk{Size: 1, DiskDevice: hypervisor.DiskDevice{Cache: "none"}}
				want["c"] = Disk{Size: 1}
			}), false, Move{PowerOff: true, Start: true, Level: reboot, Reasons: []Reason{ReasonDisks}},
		},
		"another host name": {
			func(_, want *Spec) { want.Hostname = "other" }, false,
			Move{Guest: GuestRefresh, Identify: true, Level: none, Reasons: []Reason{ReasonIdentity}},
		},
		"a key, at the next start": {
			func(_, want *Spec) { want.AuthorizedKeys = []string{"key"}; want.Refresh.Strategy = NextBoot }, true,
			Move{Guest: GuestDeferred, Identify: true, Level: none, Reasons: []Reason{ReasonIdentity, ReasonNextBoot}},
		},
		"another configuration of the guest": {
			func(_, want *Spec) { want.Configuration = &guestconfig.Document{Version: 1, Locale: "C"} }, false,
			Move{Guest: GuestRefresh, Configure: true, Level: none, Reasons: []Reason{ReasonConfiguration}},
		},
		"a configuration that the guest was given": {
			func(have, want *Spec) {
				have.Configuration, want.Configuration = &guestconfig.Document{Version: 1, Locale: "C"},
					&guestconfig.Document{Version: 1, Locale: "C"}
			}, false, Move{Guest: GuestRefresh, Level: none},
		},
		"no configuration any more": {
			func(have, want *Spec) { have.Given, want.Configuration = "sha256:1", guestconfig.New() }, false,
			Move{Guest: GuestRefresh, Configure: true, Level: none, Reasons: []Reason{ReasonConfiguration}},
		},
		"what somebody changed in the guest": {
			func(_, want *Spec) { want.Overwrite = []string{"/etc/a"} }, false,
			Move{Guest: GuestRefresh, Configure: true, Level: none, Reasons: []Reason{ReasonConfiguration}},
		},
		"a key and more memory": {
			func(_, want *Spec) { want.AuthorizedKeys = []string{"key"}; want.Memory++ }, false,
			Move{PowerOff: true, Start: true, Level: reboot, Reasons: []Reason{ReasonMemory}},
		},
		"kernel arguments": {
			func(_, want *Spec) { want.KernelArgs = []string{"nosmt"} }, false,
			Move{Guest: GuestRefresh, Level: none, Reasons: []Reason{ReasonKernelArgs}},
		},
		"kernel arguments with more memory": {
			func(_, want *Spec) { want.Memory++; want.KernelArgs = []string{"nosmt"} }, false,
			Move{PowerOff: true, Start: true, Level: reboot, Reasons: []Reason{ReasonMemory}},
		},
		"a network": {
			func(have, want *Spec) {
				have.Configuration, want.Configuration = guestconfig.New(), guestconfig.New()
				want.Configuration.Networks = map[string]guestconfig.Network{"lan": {DHCP4: true}}
			}, false, Move{Guest: GuestRefresh, Configure: true, Level: none, Reasons: []Reason{ReasonConfiguration}},
		},
		"more processors": {func(_, want *Spec) { want.VCPUs++ }, true, Move{PowerOff: true, Start: true, Level: reboot, Reasons: []Reason{ReasonProcessors}}},
		"less memory": {func(_, want *Spec) { want.Memory-- }, false,
			Move{PowerOff: true, Start: true, Level: reboot, Reasons: []Reason{ReasonMemory}}},
		"more processors up to the maximum": {
			func(have, want *Spec) { have.MaxVCPUs, want.MaxVCPUs, want.VCPUs = 4, 4, 3 }, false,
			Move{Guest: GuestRefresh, VCPUs: true, Level: none, Reasons: []Reason{ReasonLiveProcessors}},
		},
		"fewer processors, with another stack at the next start": {
			func(have, want *Spec) {
				have.MaxVCPUs, want.MaxVCPUs, have.VCPUs, want.Refresh.Strategy = 4, 4, 3, NextBoot
			}, true,
			Move{Guest: GuestDeferred, VCPUs: true, Level: none,
				Reasons: []Reason{ReasonLiveProcessors, ReasonNextBoot}},
		},
		"a maximum of processors": {
			func(_, want *Spec) { want.MaxVCPUs, want.VCPUs = 4, 3 }, false,
			Move{PowerOff: true, Start: true, Level: reboot, Reasons: []Reason{ReasonMaxProcessors}},
		},
		"no maximum of processors": {
			func(have, _ *Spec) { have.MaxVCPUs = 4 }, false,
			Move{PowerOff: true, Start: true, Level: reboot, Reasons: []Reason{ReasonMaxProcessors}},
		},
		"less memory, below a maximum": {
			func(have, want *Spec) { want.MaxMemory, want.Memory = have.Memory, have.Memory/2 }, false,
			Move{Guest: GuestRefresh, Memory: true, Level: none, Reasons: []Reason{ReasonLiveMemory}},
		},
		"as much memory as the maximum, which goes": {
			func(have, want *Spec) { have.MaxMemory = 2 * have.Memory; want.Memory = have.MaxMemory }, false,
			Move{Guest: GuestRefresh, Memory: true, Level: none, Reasons: []Reason{ReasonLiveMemory}},
		},
		"a larger maximum of memory": {
			func(have, want *Spec) { have.MaxMemory, want.MaxMemory = 2*have.Memory, 4*have.Memory }, false,
			Move{PowerOff: true, Start: true, Level: reboot, Reasons: []Reason{ReasonMaxMemory}},
		},
		"no maximum of memory": {
			func(have, _ *Spec) { have.MaxMemory = 2 * have.Memory }, false,
			Move{PowerOff: true, Start: true, Level: reboot, Reasons: []Reason{ReasonMaxMemory}},
		},
		"an interface": {func(_, want *Spec) { want.Interfaces = bridge("") }, false,
			Move{Guest: GuestRefresh, Level: none, Interfaces: InterfaceMoves{Attach: []string{"lan"}},
				Reasons: []Reason{ReasonInterfacesLive}}},
		"no interface": {func(have, _ *Spec) { have.Interfaces = bridge("") }, false,
			Move{Guest: GuestRefresh, Level: none, Interfaces: InterfaceMoves{Detach: []string{"lan"}},
				Reasons: []Reason{ReasonInterfacesLive}}},
		"an address that somebody has changed": {
			func(have, want *Spec) { have.Interfaces, want.Interfaces = bridge("52:54:00:00:00:01"), bridge("") },
			false,
			Move{Guest: GuestRefresh, Level: none, Interfaces: InterfaceMoves{Again: []string{"lan"}},
				Reasons: []Reason{ReasonCards}},
		},
		"the address and the model that it has": {
			func(have, want *Spec) {
				have.Interfaces = bridge("")
				want.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: "br0", MAC: hypervisor.MAC("", "lan"),
					Model: hypervisor.Virtio}}
			}, false, Move{Guest: GuestRefresh, Level: none},
		},
		"another model": {card(func(i *hypervisor.Interface) { i.Model = "e1000e" }), false,
			Move{Guest: GuestRefresh, Level: none, Interfaces: InterfaceMoves{Again: []string{"lan"}},
				Reasons: []Reason{ReasonCards}}},
		"another MTU": {card(func(i *hypervisor.Interface) { i.MTU = 9000 }), false,
			Move{Guest: GuestRefresh, Level: none, Interfaces: InterfaceMoves{Again: []string{"lan"}},
				Reasons: []Reason{ReasonCards}}},
		"a link": {card(func(i *hypervisor.Interface) { i.Down = true }), false,
			Move{Guest: GuestRefresh, Level: none, Interfaces: InterfaceMoves{Update: []string{"lan"}},
				Reasons: []Reason{ReasonLinks}}},
		"a link and another stack at the next start": {
			func(have, want *Spec) {
				card(func(i *hypervisor.Interface) { i.Down = true })(have, want)
				want.Refresh.Strategy = NextBoot
			}, true, Move{Guest: GuestDeferred, Level: none, Interfaces: InterfaceMoves{Update: []string{"lan"}},
				Reasons: []Reason{ReasonLinks, ReasonNextBoot}},
		},
		"a link and an MTU": {
			card(func(i *hypervisor.Interface) { i.Down, i.MTU = true, 9000 }), false,
			Move{Guest: GuestRefresh, Level: none, Interfaces: InterfaceMoves{Again: []string{"lan"}},
				Reasons: []Reason{ReasonCards}},
		},
		"another address": {
			func(have, want *Spec) {
				have.Interfaces, want.Interfaces = bridge("52:54:00:00:00:01"), bridge("52:54:00:00:00:02")
			}, false,
			Move{Guest: GuestRefresh, Level: none, Interfaces: InterfaceMoves{Again: []string{"lan"}},
				Reasons: []Reason{ReasonCards}},
		},
		"another bridge, with the link down": {
			card(func(i *hypervisor.Interface) { i.Bridge, i.Down = "br1", true }), false,
			Move{Guest: GuestRefresh, Level: none, Interfaces: InterfaceMoves{Update: []string{"lan"}},
				Reasons: []Reason{ReasonLinks, ReasonNetworks}},
		},
		"one comes, one goes, one moves": {
			func(have, want *Spec) {
				have.Interfaces = map[string]hypervisor.Interface{"a": {Bridge: "br0"}, "b": {Bridge: "br0"},
					"u": {User: &hypervisor.UserNetwork{}}}
				want.Interfaces = map[string]hypervisor.Interface{"b": {Network: "default"}, "c": {Bridge: "br0"},
					"u": {User: &hypervisor.UserNetwork{}}}
			}, false,
			Move{Guest: GuestRefresh, Level: none,
				Interfaces: InterfaceMoves{Attach: []string{"c"}, Detach: []string{"a"}, Update: []string{"b"}},
				Reasons:    []Reason{ReasonNetworks, ReasonInterfacesLive}},
		},
		"a forwarded port, and another bridge": {
			func(have, want *Spec) {
				have.Interfaces = map[string]hypervisor.Interface{"a": {Bridge: "br0"},
					"u": {User: &hypervisor.UserNetwork{}}}
				want.Interfaces = map[string]hypervisor.Interface{"a": {Bridge: "br1"},
					"u": {User: &hypervisor.UserNetwork{Forwards: map[uint16]uint16{8080: 80}}}}
			}, false,
			Move{PowerOff: true, Start: true, Level: reboot, Reasons: []Reason{ReasonInterfaces}},
		},
		"all hardware, at the next start": {
			func(_, want *Spec) {
				want.VCPUs++
				want.Memory++
				want.Interfaces = map[string]hypervisor.Interface{"out": {User: &hypervisor.UserNetwork{}}}
				want.Refresh.Strategy = NextBoot
			}, true,
			Move{PowerOff: true, Start: true, Level: reboot,
				Reasons: []Reason{ReasonProcessors, ReasonMemory, ReasonInterfaces}},
		},
		"it is to be off": {func(_, want *Spec) { want.Running = false },
			true, Move{PowerOff: true}},
		"it is to be off, with other memory": {func(_, want *Spec) { want.Running, want.Memory = false, 1 }, true, Move{PowerOff: true}},
		"it is off and is to run": {func(have, want *Spec) { have.Running, want.VCPUs = false, 9 },
			true, Move{Start: true}},
		"it is off and stays so": {func(have, want *Spec) { have.Running, want.Running = false, false },
			true, Move{}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := Spec{VCPUs: 1, Memory: 1 << 30, DiskSize: 1 << 32, Running: true,
				Refresh: RefreshPolicy{Strategy: Live}}
			have, want := spec, spec
			if test.change != nil {
				test.change(&have, &want)
			}
			move, err := Plan(have, want, test.newStack)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.move, move); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if impact := move.Impact(); (impact == nil) != (len(move.Reasons) == 0) ||
				impact.GetLevel() != move.Level && impact != nil ||
				len(impact.GetReasons()) != len(move.Reasons) || move.PowerCycle() != (move.Level == reboot) {
				t.Errorf("a plan says %v", impact)
			}
		})
	}
	for _, running := range []bool{true, false} {
		if _, err := Plan(Spec{DiskSize: 2, Running: running}, Spec{DiskSize: 1},
			false); !errors.Is(err, store.ErrShrink) {
			t.Errorf("a smaller disk: %v", err)
		}
		have, want := map[string]Disk{"a": {Size: 2}}, map[string]Disk{"a": {Size: 1}}
		if _, err := Plan(Spec{Running: running, Disks: have}, Spec{Disks: want},
			false); !errors.Is(err, store.ErrShrink) {
			t.Errorf("a smaller further disk: %v", err)
		}
	}
}

package vm

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// Each part of the hardware is a reason of its own, in both directions, and saying the default is none.
func TestHardwareThatARunningVMCannotTakeOn(t *testing.T) {
	all := hypervisor.Hardware{
		Machine: "pc-q35-9.2", CPU: hypervisor.CPU{Pins: map[int]string{0: "0"}},
		Memory: hypervisor.MemoryBacking{Nodes: "0"}, TPM: "tpm-crb", Graphics: &hypervisor.Graphics{},
		Watchdog: "pause", Random: hypervisor.Random{BytesPerSecond: 1},
		Directories: map[string]hypervisor.Directory{"a": {Path: "/a"}},
		Devices:     map[string]hypervisor.HostDevice{"a": {USB: "1d6b:0002"}},
		Patches:     []hypervisor.Patch{{Op: "remove", Path: "/domain/clock"}},
	}
	var every []Reason
	for _, part := range hardwareParts {
		if part.attribute == AttributePatches {
			every = append(every, part.reason)
			continue
		}
		one := part.only(all)
		if got := HardwareChanges(hypervisor.Hardware{}, one); !slices.Equal(got, []Reason{part.reason}) {
			t.Errorf("%s is added: %q", part.attribute, got)
		}
		if got := HardwareChanges(one, hypervisor.Hardware{}); !slices.Equal(got, []Reason{part.reason}) {
			t.Errorf("%s is removed: %q", part.attribute, got)
		}
		every = append(every, part.reason)
	}
	if got := HardwareChanges(hypervisor.Hardware{}, all); !slices.Equal(got, every) {
		t.Errorf("all of it is %q, not %q", got, every)
	}
	said := hypervisor.Hardware{
		Machine: "q35", CPU: hypervisor.CPU{Cores: 2, Shares: 100},
		Memory:   hypervisor.MemoryBacking{Nodes: "0", Mode: "strict"},
		Graphics: &hypervisor.Graphics{Type: "vnc", Listen: "127.0.0.1", Video: "vga"}, Watchdog: "reset",
		Random:      hypervisor.Random{Source: "/dev/urandom"},
		Directories: map[string]hypervisor.Directory{}, Patches: []hypervisor.Patch{},
	}
	unsaid := hypervisor.Hardware{
		CPU: hypervisor.CPU{Sockets: 1, Cores: 2, Threads: 1}, Memory: hypervisor.MemoryBacking{Nodes: "0"},
		Graphics: &hypervisor.Graphics{},
	}
	if got := HardwareChanges(said, unsaid); len(got) != 0 {
		t.Errorf("the same in other words is %q", got)
	}
}

func TestTheWayOfHardware(t *testing.T) {
	const none, reboot = agentapi.Level_NONE, agentapi.Level_REBOOT
	for name, test := range map[string]struct {
		change func(have, want *Spec)
		move   Move
	}{
		"a power-off": {
			func(_, want *Spec) { want.Hardware.TPM = "tpm-crb" },
			Move{PowerOff: true, Start: true, Level: reboot, Reasons: []Reason{ReasonTPM}},
		},
		"the next start": {
			func(_, want *Spec) { want.Hardware.TPM, want.Refresh.Strategy = "tpm-crb", NextBoot },
			Move{Guest: GuestDeferred, Level: none, Reasons: []Reason{ReasonTPM, ReasonHardwareLater}},
		},
		"a power-off for something else": {
			func(_, want *Spec) { want.Hardware.TPM, want.Refresh.Strategy, want.VCPUs = "tpm-crb", NextBoot, 2 },
			Move{PowerOff: true, Start: true, Level: reboot, Reasons: []Reason{ReasonProcessors, ReasonTPM}},
		},
		"live": {
			func(_, want *Spec) { want.Hardware.CPU.Shares = 200 },
			Move{Guest: GuestRefresh, Shares: true, Level: none, Reasons: []Reason{ReasonShares}},
		},
		"a VM that is off": {
			func(have, want *Spec) { have.Running, want.Hardware.TPM = false, "tpm-crb" },
			Move{Start: true},
		},
	} {
		have := Spec{VCPUs: 1, Running: true, Refresh: RefreshPolicy{Strategy: Live}}
		want := have
		test.change(&have, &want)
		got, err := Plan(have, want, false)
		if diff := cmp.Diff(test.move, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got)\n%s", name, err, diff)
		}
	}
}

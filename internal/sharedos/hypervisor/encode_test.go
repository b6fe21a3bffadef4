package hypervisor

import (
	"slices"
	"testing"

	"libvirt.org/go/libvirtxml"
)

// An emulated processor does not defend itself against speculation; what the user adds is read back alone.
func TestTheCommandLineIsReadBack(t *testing.T) {
	own := []string{"mitigations=off", "panic=-1"}
	for virtType, want := range map[string]string{
		"kvm":    "console=ttyS0 quiet panic=10 mitigations=off panic=-1",
		emulated: "console=ttyS0 quiet panic=10 mitigations=off mitigations=off panic=-1",
	} {
		text, err := platform{virtType: virtType, hostVSock: true}.encode(Domain{
			Name: "web", UUID: "6ba7b810-9dad-41d1-80b4-00c04fd430c8", VCPUs: 1, Memory: 1 << 29, KernelArgs: own,
		})
		if err != nil {
			t.Fatal(err)
		}
		var defined libvirtxml.Domain
		if err := defined.Unmarshal(text); err != nil {
			t.Fatal(err)
		}
		read, err := decode(&defined)
		if err != nil {
			t.Fatal(err)
		}
		if defined.OS.Cmdline != want || CommandLine(read) != want || !slices.Equal(read.KernelArgs, own) {
			t.Errorf("%s: %q, read as %q and %q", virtType, defined.OS.Cmdline, CommandLine(read), read.KernelArgs)
		}
	}
}

// QEMU's emulator runs "rep stosb" byte by byte, so an emulated processor does not offer the
// features with which Linux and libc prefer it.
func TestAnEmulatedProcessorDoesNotOfferWhatIsSlow(t *testing.T) {
	for virtType, want := range map[string]*libvirtxml.DomainCPU{
		"kvm": {Mode: "host-passthrough"},
		emulated: {Mode: "maximum", Features: []libvirtxml.DomainCPUFeature{
			{Policy: "disable", Name: "erms"}, {Policy: "disable", Name: "fsrm"},
		}},
	} {
		if got := (platform{virtType: virtType}).cpu(); got.Mode != want.Mode ||
			!slices.Equal(got.Features, want.Features) {
			t.Errorf("%s: %+v, want %+v", virtType, got, want)
		}
	}
}

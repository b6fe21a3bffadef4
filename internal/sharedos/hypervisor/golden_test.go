package hypervisor

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// plainDomain has what every domain has, and nothing that has to be asked for.
func plainDomain() Domain {
	return Domain{
		Name: "web", UUID: "6ba7b810-9dad-41d1-80b4-00c04fd430c8", VCPUs: 2, Memory: 1 << 29,
		Kernel: "/pool/kernel", Initramfs: "/pool/initramfs", PrivateDisk: "/pool/vm-web", ConsoleLog: "/state/web.log",
		Layers:     []LayerDevice{{ID: tree.Sum([]byte("layer")), Path: "/pool/layer"}},
		Interfaces: map[string]Interface{"lan": {Bridge: "br0"}},
		BootConfig: []byte(`{"hostname":"web"}`), Metadata: Metadata{Pool: "pool", PrivateVolume: "vm-web"},
	}
}

// A VM that asks for nothing more keeps the definition that it has, to the byte: another one would
// reach it at its next start.
func TestTheDefinitionOfAPlainDomainStays(t *testing.T) {
	for name, on := range map[string]platform{
		"kvm":  {virtType: "kvm", hostVSock: true},
		"qemu": {virtType: emulated, vsockSocket: func(string) vsockFiles { return vsockFiles{directory: "/state/vsock", vhost: "/state/vsock/vhost"} }},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := on.encode(plainDomain())
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile("testdata/definition-" + name + ".xml")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

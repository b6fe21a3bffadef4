package host_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// A VM that somebody has renamed is still known by its private disk, so that what nothing refers to is deleted.
func TestAVMThatWasRenamedDoesNotKeepEverything(t *testing.T) {
	bed := testbed.New(t)
	pool := bed.Name("pool")
	h, err := host.Open(t.Context(), host.Config{
		URI: bed.URI(), Pool: pool, PoolPath: filepath.Join(bed.Dir(), pool), StateDir: bed.StateDir(),
		OperatorKey: filepath.Join(bed.Dir(), "operator.key"), Cache: filepath.Join(bed.Dir(), "cache"),
	})
	must(t, err)
	t.Cleanup(func() { must(t, h.Close()) })
	h.Fleet.AgentBinary = func() ([]byte, error) { return []byte("agent"), nil }
	name := bed.Name("web")
	old := publishOn(t, h, "1")
	newest := publishOn(t, h, "2")
	_, err = h.Fleet.Create(t.Context(),
		vm.Spec{Name: name, UUID: uuid.NewString(), Base: newest, VCPUs: 1, Memory: 512 << 20, DiskSize: 64 << 20,
			Hostname: "web"}, func(string) {})
	must(t, err)
	if out, err := exec.CommandContext(t.Context(), "virsh", "--connect", bed.URI(), "domrename", name,
		name+"-renamed").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, err = h.Publisher.Retain(t.Context(), "os", 1, h.Fleet.InUse)
	must(t, err)
	requireHeld(t, h, old, false)
	requireHeld(t, h, newest, true)
}

package host_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// A pool that libvirt would refuse to create is known before anything is to be stored in it, and nothing is created.
func TestAPoolThatCannotBeCreatedIsKnownBefore(t *testing.T) {
	bed := testbed.New(t)
	taken, file := filepath.Join(bed.Dir(), "taken"), filepath.Join(bed.Dir(), "file")
	must(t, errors.Join(os.Mkdir(taken, 0o700), os.WriteFile(file, nil, 0o600)))
	other := bed.Name("other")
	bed.Virsh(t, "pool-define-as", other, "dir", "--target", taken)
	for path, why := range map[string]string{
		filepath.Join(bed.Dir(), "new"):  "",
		filepath.Join(bed.Dir(), "a/b"):  "",
		taken:                            "is that of storage pool \"" + other + "\"",
		taken + "/":                      "is that of storage pool \"" + other + "\"",
		file:                             "is not a directory",
		filepath.Join(file, "below/it"):  "is not a directory",
		"/proc/sharedos":                 "file system of the kernel",
		filepath.Join(taken, "../taken"): "is that of storage pool",
	} {
		h, err := host.Open(t.Context(), host.Config{
			URI: bed.URI(), Pool: bed.Name("pool"), PoolPath: path, StateDir: bed.StateDir(),
			OperatorKey: filepath.Join(bed.Dir(), "operator.key"), Cache: filepath.Join(bed.Dir(), "cache"),
		})
		must(t, err)
		err = h.CheckPool(t.Context())
		if why == "" && err != nil ||
			why != "" && (!errors.Is(err, store.ErrConfig) || !strings.Contains(err.Error(), why)) {
			t.Errorf("%s: %v", path, err)
		}
		must(t, h.Close())
	}
	if _, err := os.Stat(filepath.Join(bed.Dir(), "new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
}

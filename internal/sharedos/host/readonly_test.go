package host_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/report"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// A host that is opened to read gets neither a key nor a pool, and can be reported on.
func TestAHostThatIsOpenedToReadIsNotChanged(t *testing.T) {
	bed := testbed.New(t)
	config := host.Config{
		URI: bed.URI(), Pool: bed.Name("pool"), PoolPath: filepath.Join(bed.Dir(), "pool"), StateDir: bed.StateDir(),
		OperatorKey: filepath.Join(bed.Dir(), "operator.key"), Cache: filepath.Join(bed.Dir(), "cache"), ReadOnly: true,
	}
	if _, err := host.Open(t.Context(), config); !errors.Is(err, release.ErrKey) {
		t.Errorf("without a key: %v", err)
	}
	if _, err := os.Stat(config.OperatorKey); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key was made: %v", err)
	}
	_, err := release.LoadOrCreateKey(config.OperatorKey)
	must(t, err)
	opened, err := host.Open(t.Context(), config)
	must(t, err)
	defer func() { must(t, opened.Close()) }()
	if err := opened.RequirePool(t.Context()); !errors.Is(err, store.ErrNoPool) {
		t.Errorf("without a pool: %v", err)
	}
	if _, err := os.Stat(config.PoolPath); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pool was made: %v", err)
	}
	must(t, os.Mkdir(config.PoolPath, 0o755))
	bed.Virsh(t, "pool-define-as", config.Pool, "dir", "--target", config.PoolPath)
	bed.Virsh(t, "pool-start", config.Pool)
	must(t, opened.RequirePool(t.Context()))
	made, err := report.Gather(t.Context(), report.Sources{
		Pool: config.Pool, Store: opened.Store, Domains: opened.Fleet.Hypervisor, VMs: opened.Fleet,
		Publisher: opened.Publisher,
	})
	must(t, err)
	if len(made.VMs)+len(made.Layers)+len(made.Incomplete) > 0 || !made.Space.Known || opened.URI() != bed.URI() {
		t.Errorf("the report on an empty pool of %s: %+v", opened.URI(), made)
	}
	if left, err := os.ReadDir(config.PoolPath); err != nil || len(left) > 0 {
		t.Errorf("the report left %v in the pool, %v", left, err)
	}
}

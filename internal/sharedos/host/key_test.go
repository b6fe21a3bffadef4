package host_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// An operator key that is lost is not made anew where it has signed releases. What the error says to do works: the key
// from a backup, or one of one's own, with which a base of the lost key is destroyed.
func TestALostOperatorKeyIsNotMadeAnew(t *testing.T) {
	bed := testbed.New(t)
	pool := bed.Name("pool")
	config := host.Config{
		URI: bed.URI(), Pool: pool, PoolPath: filepath.Join(bed.Dir(), pool), StateDir: bed.StateDir(),
		OperatorKey: filepath.Join(bed.Dir(), "operator.key"), Cache: filepath.Join(bed.Dir(), "cache"),
	}
	open := func() *host.Host {
		t.Helper()
		h, err := host.Open(t.Context(), config)
		must(t, err)
		h.Fleet.AgentBinary = func() ([]byte, error) { return []byte("agent"), nil }
		return h
	}
	refused := func() {
		t.Helper()
		_, err := host.Open(t.Context(), config)
		_, stat := os.Stat(config.OperatorKey)
		if !errors.Is(err, release.ErrKeyLost) || !errors.Is(err, release.ErrKey) || !errors.Is(stat, fs.ErrNotExist) {
			t.Errorf("%v; the key's file: %v", err, stat)
		}
	}
	h := open() // the pool is empty, so the key is made
	id := publishOn(t, h, "1")
	must(t, h.Close())
	backup := config.OperatorKey + ".backup"
	must(t, os.Rename(config.OperatorKey, backup))
	refused()
	must(t, os.Rename(backup, config.OperatorKey))
	h = open()
	if _, err := h.Publisher.Get(t.Context(), id); err != nil {
		t.Errorf("with the key from the backup: %v", err)
	}
	must(t, h.Close())

	must(t, os.Remove(config.OperatorKey))
	refused()
	made, err := exec.CommandContext(t.Context(), "openssl", "genpkey", "-algorithm", "ed25519", "-out",
		config.OperatorKey).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, made)
	}
	h = open()
	if _, err := h.Publisher.Get(t.Context(), id); !errors.Is(err, release.ErrSignature) {
		t.Errorf("with another key: %v", err)
	}
	must(t, h.Publisher.Delete(t.Context(), "os", h.Fleet.InUse))
	if again := publishOn(t, h, "1"); again == (tree.Digest{}) {
		t.Error("the base was not made anew")
	}
	must(t, h.Close())
}

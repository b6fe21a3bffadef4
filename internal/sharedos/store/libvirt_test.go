package store_test

import (
	"path/filepath"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

func open(t *testing.T, bed *testbed.Testbed) *store.Libvirt {
	t.Helper()
	name := bed.Name("pool")
	s, err := store.Open(t.Context(), store.Config{URI: bed.URI(), Pool: name, CreatePath: filepath.Join(t.TempDir(), name)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLibvirtKeepsTheContract(t *testing.T) {
	bed := testbed.New(t)
	storetest.Contract(t, func(t *testing.T) store.Store { return open(t, bed) })
}

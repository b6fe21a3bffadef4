package provider

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/bootimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rollout"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// opening is an error of opening the host.
func opening(cause error) error {
	return &openError{uri: "qemu:///system", pool: "sharedos", cause: cause}
}

func TestTheNextStepIsThatOfTheCause(t *testing.T) {
	_, badName := store.New(nil, store.Config{Pool: "a/b"})
	_, badPath := store.New(nil, store.Config{Pool: "a", CreatePath: "relative"})
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"a libvirt that does not answer": {opening(libvirtconn.ErrUnreachable), "Check that libvirt answers"},
		"a bad pool name":                {opening(badName), "Change pool or pool_path"},
		"a bad pool path":                {opening(badPath), "Change pool or pool_path"},
		"a pool that is undefined":       {fmt.Errorf("compose: %w", store.ErrNoPool), "virsh pool-define-as"},
		"a release that is gone":         {fmt.Errorf("compose: %w", store.ErrNotFound), "published or deleted a base"},
		"a release of another key":       {fmt.Errorf("compose: %w", release.ErrSignature), "another operator key"},
		"a component of nothing":         {fmt.Errorf("prepare: %w", publish.ErrNothing), "Remove the component"},
		"a component of another release": {fmt.Errorf("compose: %w", compose.ErrBuiltOn), "same base release"},
		"a key that was lost": {opening(fmt.Errorf("%w: there is no file", release.ErrKeyLost)),
			"openssl genpkey"},
		"a VM of another key":          {fmt.Errorf("%w: %w", vm.ErrNoAnswer, vm.ErrOperator), "from a backup"},
		"a VM that does not answer":    {vm.ErrNoAnswer, "console log"},
		"a VM of the same name":        {fmt.Errorf("create: %w", vm.ErrExists), "terraform import"},
		"a refresh that does too much": {fmt.Errorf("update: %w", vm.ErrImpact), "refresh.max_impact"},
		"a release of another base":    {fmt.Errorf("move: %w", vm.ErrNotLive), "next_boot"},
		"checks that fail before":      {fmt.Errorf("update: %w", vm.ErrChecks), "refresh.require_checks = false"},
		"a refresh that is refused":    {fmt.Errorf("update: %w", vm.ErrRefused), "sharedos_verify"},
		"a VM that is not ready":       {fmt.Errorf("create: %w", vm.ErrNotReady), "ready.timeout"},
		"a vsock daemon that has ended": {fmt.Errorf("%w: %w", vm.ErrNoAnswer, hypervisor.ErrVSockEnded),
			"virsh destroy"},
		"too many layers":             {fmt.Errorf("define: %w", hypervisor.ErrTooManyLayers), "max_layers"},
		"a network that is not there": {fmt.Errorf("define: %w", hypervisor.ErrNoNetwork), "virsh net-list"},
		"a damaged domain":            {fmt.Errorf("read: %w", hypervisor.ErrDamaged), "virsh undefine"},
		"memory that the guest keeps": {fmt.Errorf("resize: %w", hypervisor.ErrGuestKeeps), "power the VM off"},
		"another agent": {fmt.Errorf("connect: %w", transport.ErrPeerKey),
			"terraform apply -replace="},
		"a lock that was lost": {fmt.Errorf("publish: %w", store.ErrLockLost), "Apply again"},
		"a damaged volume":     {fmt.Errorf("verify: %w", store.ErrCorrupt), "virsh vol-delete"},
		"a rollout that has stopped": {fmt.Errorf("roll out: %w", rollout.ErrHalted),
			"starts again at the first wave"},
		"a tree that does not boot":    {fmt.Errorf("build: %w", rootfs.ErrNotBootable), "linux-image-cloud-amd64"},
		"a tree without a kernel":      {fmt.Errorf("build: %w", rootfs.ErrNoKernel), "linux-image-cloud-amd64"},
		"a kernel that lacks a driver": {fmt.Errorf("build: %w", bootimage.ErrKernel), "linux-image-cloud-amd64"},
		"a damaged source":             {fmt.Errorf("read: %w", source.ErrCorrupt), "compare its digest"},
		"a source that is written to":  {fmt.Errorf("read: %w", source.ErrChanged), "when nothing writes"},
		"a source that has changed":    {fmt.Errorf("publish: %w", publish.ErrSourceChanged), "when nothing writes"},
		"a VM that is protected": {fmt.Errorf("delete: %w", vm.ErrProtected),
			"set deletion_protection to false"},
	} {
		if got := nextStep(c.err, ""); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if !errors.Is(store.ErrNoPool, store.ErrNotFound) {
		t.Error("a pool that is not there has something in it")
	}
	if hint := silenceHint(fmt.Errorf("%w: %w", vm.ErrNoAnswer, vm.ErrOperator)); !strings.Contains(hint,
		"from a backup") {
		t.Error(hint)
	}
}

// Doing what the error says works.
func TestTheNextStepForAnOperatorKeyWorks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "operator.key")
	key, err := release.LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	backup, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil, mend func() error
		want        string
	}{
		"others may read it": {
			func() error { return os.Chmod(path, 0o644) },
			func() error { return os.Chmod(path, 0o600) }, "Run that chmod",
		},
		"it is damaged": {
			func() error { return os.WriteFile(path, []byte("x"), 0o600) },
			func() error { return os.WriteFile(path, backup, 0o600) }, "from a backup",
		},
	} {
		if err := c.spoil(); err != nil {
			t.Fatal(err)
		}
		_, err := release.LoadOrCreateKey(path)
		if !errors.Is(err, release.ErrKey) || !strings.Contains(nextStep(opening(err), ""), c.want) ||
			strings.Contains(nextStep(opening(err), ""), "libvirt") {
			t.Errorf("%s: %v: %s", name, err, nextStep(opening(err), ""))
		}
		if err := c.mend(); err != nil {
			t.Fatal(err)
		}
		if again, err := release.LoadOrCreateKey(path); err != nil || !again.Equal(key) {
			t.Errorf("%s: what the error says does not help: %v", name, err)
		}
	}
}

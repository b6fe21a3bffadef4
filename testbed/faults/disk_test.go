package faults

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// disk is the file of the VM's private disk, in a pool that is a directory.
func (s *subject) disk(t *testing.T) string {
	t.Helper()
	name, err := store.DiskName(s.Spec.Name, s.Spec.UUID)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(s.Bed.Dir(), "pool", name)
}

// copyDisk copies the private disk as a power cut at this moment leaves it, and returns the copy's file.
//
// QEMU opens the disk without a cache of the host's (cache=none), so the file has what the guest's
// kernel has written, and nothing that is only in the guest's memory. A paused VM writes nothing:
// libvirt waits for the requests that are under way, as it does when it ends a VM.
func (s *subject) copyDisk(t *testing.T) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "disk")
	s.command(t, "virsh", "--connect", s.Bed.URI(), "suspend", s.Spec.Name)
	s.command(t, "cp", "--sparse=always", s.disk(t), target)
	s.command(t, "virsh", "--connect", s.Bed.URI(), "resume", s.Spec.Name)
	return target
}

// putDisk makes a copy the private disk of a VM that is off. There is no copy afterwards.
func (s *subject) putDisk(t *testing.T, copied string) {
	t.Helper()
	disk := s.disk(t)
	info, err := os.Stat(disk)
	if err != nil {
		t.Fatal(err)
	}
	s.command(t, "cp", "--sparse=always", copied, disk)
	if now, err := os.Stat(disk); err != nil || now.Size() != info.Size() {
		t.Fatalf("the private disk had %d bytes, its copy has %v, %v", info.Size(), now, err)
	}
	if err := os.Remove(copied); err != nil {
		t.Fatal(err)
	}
}

// command runs a program of the host.
func (s *subject) command(t *testing.T, name string, arguments ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, arguments...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, arguments, err, out)
	}
}

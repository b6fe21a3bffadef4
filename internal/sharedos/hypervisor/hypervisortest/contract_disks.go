package hypervisortest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// diskOf is a further disk in the directory of a domain.
func diskOf(t *testing.T, d hypervisor.Domain, serial string) hypervisor.Disk {
	t.Helper()
	path := filepath.Join(filepath.Dir(d.PrivateDisk), "disk-"+serial)
	must(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	return hypervisor.Disk{Path: path,
		DiskDevice: hypervisor.DiskDevice{Format: "raw", Cache: "none", Discard: "unmap", Serial: serial}}
}

func disks(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	must(t, h.Define(ctx, d))
	data := diskOf(t, d, "data")
	d.Disks = map[string]hypervisor.Disk{}
	attach := func(name string, disk hypervisor.Disk) {
		t.Helper()
		must(t, h.AttachDisk(ctx, d.Name, name, disk))
		d.Disks = maps.Clone(d.Disks)
		d.Disks[name] = disk
	}
	detach := func(name string) {
		t.Helper()
		must(t, h.DetachDisk(ctx, d.Name, name))
		d.Disks = maps.Clone(d.Disks)
		delete(d.Disks, name)
	}
	for range 2 {
		attach("data", data)
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
	_, err := h.AttachedDisks(ctx, d.Name)
	mustBe(t, err, hypervisor.ErrNotRunning)
	_, err = h.RoomForDisks(ctx, d.Name)
	mustBe(t, err, hypervisor.ErrNotRunning)
	must(t, h.Start(ctx, d.Name))
	room, err := h.RoomForDisks(ctx, d.Name)
	must(t, err)
	logs := diskOf(t, d, "logs-1")
	logs.Cache, logs.Discard, logs.ReadOnly = "writeback", "ignore", true
	for range 2 {
		attach("logs", logs)
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	mustHave(t, ctx, h, d.Name, "data", "logs")
	if less, err := h.RoomForDisks(ctx, d.Name); err != nil || less != room-1 {
		t.Errorf("room for %d further disks, after one of %d was attached: %v", less, room, err)
	}
	must(t, h.ResizeDisk(ctx, d.Name, "data", 4<<20))
	must(t, h.ResizeDisk(ctx, d.Name, "data", 2<<20))
	if info, err := os.Stat(data.Path); err != nil || info.Size() != 4<<20 {
		t.Errorf("the disk was to have 4 MiB: %v, %v", info, err)
	}
	mustBe(t, h.ResizeDisk(ctx, d.Name, "none", 4<<20), hypervisor.ErrNoDisk)
	// A definition changes no disk of the running domain. The next call changes what differs.
	without := d
	without.Disks = map[string]hypervisor.Disk{"logs": logs}
	must(t, h.Define(ctx, without))
	mustHave(t, ctx, h, d.Name, "data", "logs")
	attach("data", data)
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	for i := range room - 1 {
		name := fmt.Sprintf("more-%d", i)
		attach(name, diskOf(t, d, name))
	}
	mustBe(t, h.AttachDisk(ctx, d.Name, "last", diskOf(t, d, "last")), hypervisor.ErrNoPort)
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	must(t, h.PowerOff(ctx, d.Name))
	for name := range maps.Clone(d.Disks) {
		if name != "logs" {
			detach(name)
		}
	}
	must(t, h.DetachDisk(ctx, d.Name, "none"))
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
	must(t, h.Start(ctx, d.Name))
	mustHave(t, ctx, h, d.Name, "logs")
}

func mustHave(t *testing.T, ctx context.Context, h hypervisor.Hypervisor, name string, want ...string) {
	t.Helper()
	got, err := h.AttachedDisks(ctx, name)
	must(t, err)
	if !slices.Equal(got, want) {
		t.Errorf("the further disks that are attached are %q, want %q", got, want)
	}
}

func wrongDisks(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	must(t, h.Define(ctx, d))
	good := diskOf(t, d, "good")
	must(t, h.AttachDisk(ctx, d.Name, "good", good))
	for name, disk := range map[string]hypervisor.Disk{
		"a.b":      diskOf(t, d, "dotted"),
		"twice":    good,
		"private":  diskOf(t, d, "sharedos-private"),
		"offer":    diskOf(t, d, "offer-1"),
		"layer":    diskOf(t, d, "0123456789abcdef0123"),
		"relative": {Path: "x", DiskDevice: good.DiskDevice},
		"format": {Path: good.Path,
			DiskDevice: hypervisor.DiskDevice{Format: "vmdk", Cache: "none", Discard: "unmap", Serial: "format"}},
		"no-values": {Path: good.Path, DiskDevice: hypervisor.DiskDevice{Serial: "no-values"}},
	} {
		if err := h.AttachDisk(ctx, d.Name, name, disk); err == nil {
			t.Errorf("disk %s was accepted", name)
		}
	}
	d.Disks = map[string]hypervisor.Disk{"good": good}
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
	for i := range hypervisor.MaxDisks {
		d.Disks[fmt.Sprintf("d%d", i)] = diskOf(t, d, fmt.Sprintf("d%d", i))
	}
	if err := h.Define(ctx, d); err == nil {
		t.Errorf("%d further disks were accepted", len(d.Disks))
	}
}

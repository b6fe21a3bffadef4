package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

const (
	storeLimit = 10 * time.Minute
	// uploadSize is the size of the layer that is uploaded, in bytes.
	uploadSize = 256 * mebibyte
	// manyDomains is how many VMs are defined on one base.
	manyDomains = 100
	// A base has sharedFiles files of fileSize bytes. In another base changedFiles of them differ.
	sharedFiles, changedFiles, fileSize = 400, 20, 128 << 10
)

// stored is a pool on a libvirt of the benchmark's own, without guests.
type stored struct {
	*bench
	dir, uri, pool string
	config         host.Config
	host           *host.Host
}

// store measures uploads to the pool, and the space that it uses.
func (b *bench) store(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	return inTestbed(ctx, func(bed *testbed.Testbed, dir string) (err error) {
		s := &stored{bench: b, dir: dir, uri: bed.URI(), pool: "bench-store"}
		s.config = host.Config{
			URI: s.uri, Pool: s.pool, PoolPath: filepath.Join(dir, "pool"), StateDir: bed.StateDir(),
			OperatorKey: filepath.Join(dir, "operator.key"), Cache: filepath.Join(dir, "cache"),
		}
		if s.host, err = host.Open(ctx, s.config); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.host.Close()) }()
		for _, measure := range []func(context.Context) error{s.upload, s.secondBase, s.verify, s.manyVMs} {
			if err := measure(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// upload measures uploads of a layer, in turns with uploads by virsh to the same volume.
func (s *stored) upload(ctx context.Context) error {
	s.tell(fmt.Sprintf("uploading a layer of %d MiB, and the same with virsh", uploadSize/mebibyte))
	path := filepath.Join(s.dir, "layer")
	data := make([]byte, uploadSize)
	_, _ = rand.Read(data) // it never fails
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write a layer: %w", err)
	}
	id := tree.Sum(data)
	layer := release.Layer{ID: id, DataSize: uploadSize / 2, Size: uploadSize}
	var ours, virsh []time.Duration
	for range turns {
		took, err := s.putLayer(ctx, layer, path)
		if err != nil {
			return err
		}
		ours = append(ours, took)
		began := time.Now()
		out, err := exec.CommandContext(ctx, "virsh", "-c", s.uri, "vol-upload", "--pool", s.pool,
			store.LayerName(id), path).CombinedOutput()
		if err != nil {
			return fmt.Errorf("virsh vol-upload: %w: %s", err, strings.TrimSpace(string(out)))
		}
		virsh = append(virsh, time.Since(began))
		if _, err := s.host.Store.Sweep(ctx, nil); err != nil {
			return err
		}
	}
	byVirsh := median(virsh).Seconds()
	s.results.add("upload of a layer of 256 MiB", median(ours).Seconds(), "seconds", byVirsh, byVirsh/0.7)
	return os.Remove(path)
}

func (s *stored) putLayer(ctx context.Context, layer release.Layer, path string) (_ time.Duration, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	began := time.Now()
	uploaded, err := s.host.Store.PutLayer(ctx, layer, file, nil)
	if err == nil && !uploaded {
		err = errors.New("the layer was there already, so nothing was measured")
	}
	return time.Since(began), err
}

// secondBase measures the space of a base that has a release in common with another one and then a change of its
// own.
func (s *stored) secondBase(ctx context.Context) error {
	s.tell("publishing two bases with a common ancestor")
	ancestor := sourcetest.NewSystem("6.12.1")
	for i := range sharedFiles {
		ancestor = ancestor.With(fmt.Sprintf("usr/share/shared/%03d", i), randomText(fileSize))
	}
	other := ancestor
	for i := range changedFiles {
		other = other.With(fmt.Sprintf("usr/share/shared/%03d", i), randomText(fileSize))
	}
	for _, one := range []sourcetest.System{ancestor, ancestor.With("usr/bin/server", "version of the first")} {
		if _, err := s.publish(ctx, "first", one); err != nil {
			return err
		}
	}
	before, err := s.layerBytes(ctx)
	if err != nil {
		return err
	}
	var changed int64
	for _, one := range []sourcetest.System{ancestor, other} {
		prepared, err := s.publish(ctx, "second", one)
		if err != nil {
			return err
		}
		if prepared.Change != nil {
			changed = prepared.Change.Changed.Bytes + prepared.Change.Added.Bytes
		}
	}
	after, err := s.layerBytes(ctx)
	if err != nil {
		return err
	}
	s.results.add("layers of a second base that shares 95 %", float64(after-before), "bytes",
		float64(changed), 1.1*float64(changed))
	return nil
}

// verify measures reading all that the pool has of the bases and comparing it with their ids, in turns with sha256sum
// of the same volumes. A process reads each volume only once, so each turn has a connection of its own.
func (s *stored) verify(ctx context.Context) error {
	s.tell("verifying the bases, and summing up the same volumes")
	volumes, err := s.host.Store.Volumes(ctx)
	if err != nil {
		return err
	}
	arguments := []string{}
	for _, volume := range volumes {
		if name, _ := store.ParseVolumeName(volume.Name); !name.Digest.IsZero() {
			arguments = append(arguments, volume.Path)
		}
	}
	var ours, sums []time.Duration
	for range turns {
		took, err := s.verifyOnce(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := command(ctx, "sha256sum", arguments...); err != nil {
			return err
		}
		ours, sums = append(ours, took), append(sums, time.Since(began))
	}
	s.results.inform("verifying two bases of 50 MiB, against sha256sum", median(ours).Seconds(),
		"seconds", median(sums).Seconds())
	return nil
}

func (s *stored) verifyOnce(ctx context.Context) (_ time.Duration, err error) {
	fresh, err := host.Open(ctx, s.config)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, fresh.Close()) }()
	began := time.Now()
	found, err := fresh.Publisher.Verify(ctx, "")
	if err == nil && (len(found.Damaged) > 0 || found.Objects == 0) {
		err = fmt.Errorf("%d objects were verified, and %d are damaged", found.Objects, len(found.Damaged))
	}
	return time.Since(began), err
}

func randomText(size int) string {
	text := make([]byte, size)
	_, _ = rand.Read(text) // it never fails
	return string(text)
}

func (s *stored) publish(ctx context.Context, name string, system sourcetest.System) (*publish.Prepared, error) {
	stream, err := system.Tar()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.dir, "rootfs.tar")
	if err := os.WriteFile(path, stream, 0o600); err != nil {
		return nil, fmt.Errorf("write a system: %w", err)
	}
	prepared, err := s.host.Publisher.Prepare(ctx, publish.Spec{Name: name, Source: archive.Source{Path: path}}, nil)
	if err != nil {
		return nil, err
	}
	return prepared, s.host.Publisher.Publish(ctx, prepared, nil)
}

// layerBytes returns the space of all layers in the pool.
func (s *stored) layerBytes(ctx context.Context) (sum int64, err error) {
	volumes, err := s.host.Store.Volumes(ctx)
	for _, volume := range volumes {
		if name, _ := store.ParseVolumeName(volume.Name); name.Kind == store.LayerVolume {
			sum += volume.Allocation
		}
	}
	return sum, err
}

// manyVMs measures the space that a hundred VMs on one base add before they are started.
func (s *stored) manyVMs(ctx context.Context) error {
	s.tell(fmt.Sprintf("defining %d VMs on one base", manyDomains))
	id, _, err := s.host.Publisher.Newest(ctx, "first")
	if err != nil {
		return err
	}
	var first int64
	for i := range manyDomains {
		name := fmt.Sprintf("bench-%d", i)
		if _, err := s.host.Fleet.Create(ctx, vm.Spec{
			Name: name, UUID: uuid.NewString(), Base: id, VCPUs: 1, Memory: 512 * mebibyte,
			DiskSize: 4096 * mebibyte, Hostname: name,
		}, func(string) {}); err != nil {
			return err
		}
		if i == 0 { // the initramfs comes with it
			if first, _, err = s.osBytes(ctx); err != nil {
				return err
			}
		}
	}
	all, disk, err := s.osBytes(ctx)
	if err != nil {
		return err
	}
	s.results.add(fmt.Sprintf("bytes of the OS for %d VMs, next to one", manyDomains), float64(all), "bytes",
		float64(first), float64(first))
	clone, err := s.linkedClone(ctx)
	if err != nil {
		return err
	}
	s.results.add("private disk before first boot, largest", float64(disk), "bytes", float64(clone), 256<<10)
	return nil
}

// linkedClone returns the space of a new disk that is backed by a base image, in bytes.
func (s *stored) linkedClone(ctx context.Context) (int64, error) {
	base, clone := filepath.Join(s.dir, "base.qcow2"), filepath.Join(s.dir, "clone.qcow2")
	if err := run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", base, "4G"); err != nil {
		return 0, err
	}
	if err := run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", clone); err != nil {
		return 0, err
	}
	var stat unix.Stat_t
	if err := unix.Stat(clone, &stat); err != nil {
		return 0, fmt.Errorf("look at a linked clone: %w", err)
	}
	return stat.Blocks * 512, nil
}

// osBytes returns the space of everything except private disks, and of the largest private disk.
func (s *stored) osBytes(ctx context.Context) (sum, disk int64, err error) {
	volumes, err := s.host.Store.Volumes(ctx)
	for _, volume := range volumes {
		if name, _ := store.ParseVolumeName(volume.Name); name.Kind == store.DiskVolume {
			disk = max(disk, volume.Allocation)
		} else {
			sum += volume.Allocation
		}
	}
	return sum, disk, err
}

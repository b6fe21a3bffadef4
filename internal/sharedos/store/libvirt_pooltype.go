package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// ErrPoolType means that the type of the storage pool cannot be used.
var ErrPoolType = errors.New("a storage pool of this type cannot hold layers")

// unsuitable says why a type of pool cannot be used, and how the same storage can be used instead.
type unsuitable struct{ why, instead string }

// What to use instead of several types.
const (
	ofFiles  = "choose a pool of type dir, fs, netfs, logical or zfs"
	onDevice = "make a volume group of it and choose a pool of type logical, or a file system and one of type fs"
)

// unsuitableTypes are the types of pools that cannot be used. It must be possible to create volumes
// with names of our choice, and to write and read them, through libvirt's storage API (design/0019).
var unsuitableTypes = map[string]unsuitable{
	"disk": {"its volumes are partitions, which libvirt names by their numbers", onDevice},
	"gluster": {"libvirt only lists and deletes its volumes",
		"mount the Gluster volume through a pool of type netfs with the source format glusterfs"},
	"iscsi": {"its volumes are the LUNs that the target has, and libvirt creates none", onDevice},
	"iscsi-direct": {"its volumes are the LUNs that the target has, and libvirt creates none",
		"attach the target by a pool of type iscsi; " + onDevice},
	"mpath": {"its volumes are the devices that the host has, and libvirt creates none", onDevice},
	"rbd": {"libvirt creates volumes in it and neither writes nor reads them",
		"map an image with rbd-nbd or krbd; " + onDevice + "; or mount CephFS and choose one of type dir"},
	"scsi":     {"its volumes are the LUNs that the adapter has, and libvirt creates none", onDevice},
	"sheepdog": {"libvirt creates volumes in it and neither writes nor reads them", ofFiles},
}

// checkType refuses a pool of a type that cannot be used.
func checkType(pool, kind string) error {
	if found, is := unsuitableTypes[kind]; is {
		return fmt.Errorf("storage pool %q is of type %q: %w, because %s; %s", pool, kind, ErrPoolType,
			found.why, found.instead)
	}
	return nil
}

// zfsBlock is a multiple of all block sizes of ZFS volumes, in bytes. The size of a ZFS volume is a
// multiple of its block size.
const zfsBlock = 128 << 10

// createVolume creates a volume of at least size bytes in a pool, of which some are reserved.
func createVolume(l *libvirt.Libvirt, pool libvirt.StoragePool, name string, size, reserve int64,
	format string) (libvirt.StorageVol, error) {
	definition, err := poolDefinition(l, pool)
	if err == nil {
		err = checkType(pool.Name, definition.Type)
	}
	if err != nil {
		return libvirt.StorageVol{}, err
	}
	zfs := definition.Type == "zfs"
	switch {
	case definition.Type == "logical":
		// A sparse volume is an LVM snapshot there. It is lost when more is written to it than was reserved.
		reserve = size
	case zfs:
		size, reserve = (size+zfsBlock-1)/zfsBlock*zfsBlock, (reserve+zfsBlock-1)/zfsBlock*zfsBlock
	}
	text, err := volumeDefinition(name, size, reserve, format)
	if err != nil {
		return libvirt.StorageVol{}, err
	}
	volume, err := l.StorageVolCreateXML(pool, text, 0)
	if err != nil || !zfs {
		return volume, err
	}
	// libvirt 11.3 reports a new volume with the size of the last one that ZFS lists (virStorageBackendZFSFindVols).
	// A refresh corrects that. libvirt refuses to refresh while another volume is created.
	for range poolTries {
		if err = l.StoragePoolRefresh(pool, 0); err == nil {
			return l.StorageVolLookupByName(pool, name)
		}
		time.Sleep(poolPause)
	}
	return volume, fmt.Errorf("refresh the pool to learn its size: %w", err)
}

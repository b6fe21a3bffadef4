package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// ErrPoolType means that the storage pool is of a type that cannot keep what this package keeps.
var ErrPoolType = errors.New("a storage pool of this type cannot hold layers")

// unfitness is why a pool cannot be used, and what of the same storage can.
type unfitness struct{ why, instead string }

// What takes the place of pools of some kinds.
const (
	ofFiles  = "choose a pool of type dir, fs, netfs, logical or zfs"
	onDevice = "make a volume group of it and choose a pool of type logical, or a file system and one of type fs"
)

// unfit tells which pools cannot be used: a volume has to be made under a name of ours, written, and read, through
// libvirt's storage API (design/0019).
var unfit = map[string]unfitness{
	"disk":         {"its volumes are partitions, which libvirt names by their numbers", onDevice},
	"gluster":      {"libvirt only lists and deletes its volumes", "mount the Gluster volume through a pool of type netfs with the source format glusterfs"},
	"iscsi":        {"its volumes are the LUNs that the target has, and libvirt makes none", onDevice},
	"iscsi-direct": {"its volumes are the LUNs that the target has, and libvirt makes none", "attach the target by a pool of type iscsi; " + onDevice},
	"mpath":        {"its volumes are the devices that the host has, and libvirt makes none", onDevice},
	"rbd":          {"libvirt makes volumes in it and neither writes nor reads them", "map an image with rbd-nbd or krbd; " + onDevice + "; or mount CephFS and choose one of type dir"},
	"scsi":         {"its volumes are the LUNs that the adapter has, and libvirt makes none", onDevice},
	"sheepdog":     {"libvirt makes volumes in it and neither writes nor reads them", ofFiles},
}

// checkType refuses a pool of a type that cannot be used.
func checkType(pool, kind string) error {
	if found, is := unfit[kind]; is {
		return fmt.Errorf("storage pool %q is of type %q: %w, because %s; %s", pool, kind, ErrPoolType, found.why, found.instead)
	}
	return nil
}

// zfsBlock is a multiple of every block size that a volume of ZFS can have, in bytes. ZFS makes no other size.
const zfsBlock = 128 << 10

// makeVolume makes a volume of at least size bytes in a pool, of which so many are reserved.
func makeVolume(l *libvirt.Libvirt, pool libvirt.StoragePool, name string, size, reserve int64) (libvirt.StorageVol, error) {
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
		// What libvirt calls sparse there is an LVM snapshot, which is lost when more is written to it than was reserved.
		reserve = size
	case zfs:
		size, reserve = (size+zfsBlock-1)/zfsBlock*zfsBlock, (reserve+zfsBlock-1)/zfsBlock*zfsBlock
	}
	text, err := volumeDefinition(name, size, reserve)
	if err != nil {
		return libvirt.StorageVol{}, err
	}
	volume, err := l.StorageVolCreateXML(pool, text, 0)
	if err != nil || !zfs {
		return volume, err
	}
	// libvirt 11.3 takes for the size of a new volume that of the last one that ZFS lists (virStorageBackendZFSFindVols), and
	// knows better after a refresh. It refuses that while another volume is made.
	for range dropTries {
		if err = l.StoragePoolRefresh(pool, 0); err == nil {
			return l.StorageVolLookupByName(pool, name)
		}
		time.Sleep(dropPause)
	}
	return volume, fmt.Errorf("see how large it is: %w", err)
}

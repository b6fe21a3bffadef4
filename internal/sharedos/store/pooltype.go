package store

import (
	"errors"
	"fmt"

	"github.com/digitalocean/go-libvirt"
)

// ErrPoolType means that the storage pool is of a type that cannot keep what this package keeps.
var ErrPoolType = errors.New("a storage pool of this type cannot hold layers")

// unfit tells why pools of some types cannot be used: a volume has to be made under a name of ours, and written, through
// libvirt's storage API (libvirt, src/storage/storage_backend_*.c).
var unfit = map[string]string{
	"disk":         "its volumes are partitions, which cannot be named",
	"gluster":      "libvirt makes no volumes in it",
	"iscsi":        "libvirt makes no volumes in it",
	"iscsi-direct": "libvirt makes no volumes in it",
	"mpath":        "libvirt makes no volumes in it",
	"rbd":          "libvirt writes nothing into its volumes",
	"scsi":         "libvirt makes no volumes in it",
	"sheepdog":     "libvirt writes nothing into its volumes",
}

// checkType refuses a pool of a type that cannot be used.
func checkType(pool, kind string) error {
	if why, is := unfit[kind]; is {
		return fmt.Errorf("storage pool %q is of type %q: %w, because %s; choose one of type dir, fs or netfs", pool, kind, ErrPoolType, why)
	}
	return nil
}

// reserveIn is how much of a volume's size is reserved in a pool when so much is asked for. What libvirt calls sparse in a
// pool of type "logical" is an LVM snapshot, which is lost when more is written to it than was reserved.
func reserveIn(l *libvirt.Libvirt, pool libvirt.StoragePool, size, reserve int64) (int64, error) {
	definition, err := poolDefinition(l, pool)
	if err != nil {
		return 0, err
	}
	if definition.Type == "logical" {
		reserve = size
	}
	return reserve, checkType(pool.Name, definition.Type)
}

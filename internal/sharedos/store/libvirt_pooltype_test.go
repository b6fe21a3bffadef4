package store

import (
	"errors"
	"strings"
	"testing"
)

func TestAPoolOfATypeThatCannotHoldLayersIsRefused(t *testing.T) {
	for _, kind := range []string{"dir", "fs", "netfs", "logical", "zfs"} {
		if err := checkType("pool", kind); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for kind, want := range map[string][]string{
		"rbd":     {"neither writes nor reads", "rbd-nbd", "CephFS"},
		"disk":    {"partitions", "type logical"},
		"iscsi":   {"LUNs", "type logical"},
		"gluster": {"lists and deletes", "source format glusterfs"},
	} {
		err := checkType("pool", kind)
		if !errors.Is(err, ErrPoolType) {
			t.Errorf("%s: got error %v", kind, err)
		}
		for _, part := range append(want, `of type "`+kind+`"`) {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v does not say %q", kind, err, part)
			}
		}
	}
}

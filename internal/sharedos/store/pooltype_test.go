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
	for _, kind := range []string{"rbd", "disk", "iscsi"} {
		err := checkType("pool", kind)
		if !errors.Is(err, ErrPoolType) || !strings.Contains(err.Error(), kind) || !strings.Contains(err.Error(), "netfs") {
			t.Errorf("%s: got error %v", kind, err)
		}
	}
}

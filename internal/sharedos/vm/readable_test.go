package vm

import (
	"errors"
	"testing"
)

func TestAnInitramfsOnABlockDeviceIsRefused(t *testing.T) {
	if err := readable("/var/lib/sharedos/pool/blob-1"); err != nil {
		t.Error(err)
	}
	if err := readable("/dev/group/blob-1"); !errors.Is(err, errBlockDevice) {
		t.Errorf("got error %v", err)
	}
}

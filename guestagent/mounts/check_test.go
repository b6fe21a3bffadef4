package mounts

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestASampleHasBothEndsAndIsSpreadOverALayer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.Int64Range(1, 5000).Draw(t, "blocks of the layer")
		blocks := rapid.IntRange(0, 300).Draw(t, "blocks of the sample")
		offsets := sample(all*readBlock, blocks, rapid.Float64Range(0, 1).Draw(t, "phase"))
		if offsets[0] != 0 || offsets[len(offsets)-1] != (all-1)*readBlock || !slices.IsSorted(offsets) {
			t.Errorf("the sample is %v", offsets)
		}
		for i, offset := range offsets {
			if offset%readBlock != 0 || i > 0 && offset == offsets[i-1] {
				t.Errorf("offset %d", offset)
			}
			// No gap is larger than two parts.
			if i > 0 && blocks > 0 && offset-offsets[i-1] > (2*all/int64(blocks)+2)*readBlock {
				t.Errorf("nothing is read between %d and %d", offsets[i-1], offset)
			}
		}
		if int64(blocks) >= all && int64(len(offsets)) != all {
			t.Errorf("%d of %d blocks are read", len(offsets), all)
		}
	})
}

// failing is a device that cannot read one block.
type failing struct {
	io.ReaderAt
	at  int64
	err error
}

func (f failing) ReadAt(buffer []byte, offset int64) (int, error) {
	if offset == f.at {
		return 0, f.err
	}
	return f.ReaderAt.ReadAt(buffer, offset)
}

func TestABlockThatCannotBeReadIsNamed(t *testing.T) {
	device := bytes.NewReader(make([]byte, 8*readBlock))
	buffer := make([]byte, readBlock)
	offsets := []int64{0, readBlock, 7 * readBlock}
	if err := readSample(t.Context(), device, buffer, offsets, func() {}); err != nil {
		t.Error(err)
	}
	err := readSample(t.Context(), failing{device, readBlock, unix.EIO}, buffer, offsets, func() {})
	if !errors.Is(err, ErrCorrupt) || !errors.Is(err, unix.EIO) {
		t.Errorf("a bad block: %v", err)
	}
	if err := readSample(t.Context(), device, buffer, []int64{8 * readBlock}, func() {}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a device that ends: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := readSample(ended, device, buffer, offsets, func() {}); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
}

func TestALayerNeedsItsDisk(t *testing.T) {
	layer := release.Layer{ID: tree.Sum([]byte("layer")), DataSize: 8 * readBlock, Size: 10 * readBlock}
	for name, test := range map[string]struct {
		disks []Disk
		want  error
	}{
		"attached":  {[]Disk{{Serial: "other"}, {Serial: LayerSerial(layer.ID), Size: layer.Size}}, nil},
		"gone":      {[]Disk{{Serial: "other", Size: layer.Size}}, ErrNoDisk},
		"truncated": {[]Disk{{Serial: LayerSerial(layer.ID), Size: layer.Size - 512}}, ErrCorrupt},
	} {
		if err := checkDisk(test.disks, layer); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for status, want := range map[string]bool{"V": false, "V 0": false, "C": true, " C\n": true, "": false} {
		if got := corrupted(status); got != want {
			t.Errorf("status %q: %v", status, got)
		}
	}
}

// A layer that was mended is read again in each refresh, and in parts by each status: a second bad block is found.
func TestALayerThatWasMendedIsReadAgainAndAgain(t *testing.T) {
	layer := release.Layer{ID: tree.Sum([]byte("layer")), DataSize: 10 * readBlock}
	bad := int64(-1)
	var read [][2]int64
	r := reread{next: map[rereadKey]int64{},
		read: func(_ context.Context, _ release.Layer, from, to int64, _ func()) error {
			read = append(read, [2]int64{from / readBlock, to / readBlock})
			if bad >= from && bad < to {
				return ErrCorrupt
			}
			return nil
		}}
	check := func(device uint64, part int64) error {
		return r.check(t.Context(), layer, device, part*readBlock, func() {})
	}
	for range 4 {
		if err := check(1, 4); err != nil {
			t.Fatal(err)
		}
	}
	if want := [][2]int64{{0, 10}, {0, 4}, {4, 8}, {8, 10}}; !slices.Equal(read, want) {
		t.Errorf("read are %v, want %v", read, want)
	}
	bad = 5 * readBlock
	if err := check(1, 4); err != nil {
		t.Errorf("a part without the bad block: %v", err)
	}
	if err := check(1, 4); !errors.Is(err, ErrCorrupt) {
		t.Errorf("the part with the second bad block: %v", err)
	}
	if err := check(1, 4); !errors.Is(err, ErrCorrupt) {
		t.Errorf("once more, the whole: %v", err)
	}
	bad = -1
	if err := check(1, 4); err != nil {
		t.Errorf("mended again: %v", err)
	}
	bad = 9 * readBlock
	if err := check(1, 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a refresh reads the whole: %v", err)
	}
	bad, read = -1, nil
	if err := check(2, 4); err != nil || !slices.Equal(read, [][2]int64{{0, 10}}) {
		t.Errorf("another device: %v, read are %v", err, read)
	}
}

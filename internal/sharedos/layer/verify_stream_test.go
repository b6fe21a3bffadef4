package layer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestAStreamIsTheLayerAndNoChangedByteIs(t *testing.T) {
	for _, blocks := range []int{0, 1, 127, 128, 16_500} {
		t.Run(fmt.Sprint(blocks, " blocks of content"), func(t *testing.T) {
			content := memory{}
			entries := []tree.Entry{rootEntry()}
			if blocks > 0 {
				entries = append(entries,
					fileEntry(content, "a",
						bytes.Repeat([]byte("shared os"), blocks*release.BlockSize/9+1)[:blocks*release.BlockSize]))
			}
			path, layer := testWorkshop(t).write(entries, content)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			read := func(offset, length int64) ([]byte, error) {
				return data[min(offset, int64(len(data))):min(offset+length, int64(len(data)))], nil
			}
			if err := VerifyStream(t.Context(), layer, read); err != nil {
				t.Fatal(err)
			}
			for _, at := range []int64{0, layer.DataSize / 2, layer.DataSize - 1, layer.DataSize + release.BlockSize,
				layer.DataSize + release.BlockSize + 31} {
				if at >= layer.Size {
					continue // a single block of data has no hash tree
				}
				data[at] ^= 1
				if err := VerifyStream(t.Context(), layer, read); !errors.Is(err, ErrDamaged) {
					t.Errorf("with another byte at %d: %v", at, err)
				}
				data[at] ^= 1
			}
			data = data[:layer.DataSize]
			if err := VerifyStream(t.Context(), layer, read); !errors.Is(err, ErrDamaged) &&
				layer.DataSize > release.BlockSize {
				t.Errorf("without its hash tree: %v", err)
			}
			other := layer
			other.ID[0] ^= 1
			if err := VerifyStream(t.Context(), other, read); !errors.Is(err, ErrDamaged) {
				t.Errorf("another layer: %v", err)
			}
		})
	}
}

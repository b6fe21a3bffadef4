package erofs

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestWhatIsNoTreeOrTooLargeIsRefused(t *testing.T) {
	root := tree.Entry{Path: tree.Root, Type: tree.Directory, Mode: 0o755}
	file := func(path string, size int64) tree.Entry {
		return tree.Entry{Path: path, Type: tree.Regular, Size: size, Digest: tree.Sum([]byte(path))}
	}
	for name, test := range map[string]struct {
		entries []tree.Entry
		want    error
	}{
		"nothing":                  {nil, tree.ErrInvalid},
		"no root":                  {[]tree.Entry{{Path: "a", Type: tree.Directory}}, tree.ErrInvalid},
		"the root is a file":       {[]tree.Entry{file(tree.Root, 1)}, tree.ErrInvalid},
		"no parent":                {[]tree.Entry{root, file("a/b", 1)}, tree.ErrInvalid},
		"a parent that comes late": {[]tree.Entry{root, file("a/b", 1), {Path: "a", Type: tree.Directory}}, tree.ErrInvalid},
		"below a file":             {[]tree.Entry{root, file("a", 1), file("a/b", 1)}, tree.ErrInvalid},
		"a file of 17 TiB":         {[]tree.Entry{root, file("a", 17<<40)}, ErrTooLarge},
		"files of 17 TiB":          {[]tree.Entry{root, file("a", 9<<40), file("b", 8<<40)}, ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Write(context.Background(), &tree.Tree{Entries: test.entries},
				io.Discard); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// An inode's number in the superblock has 16 bits, so the root's must be one of the first.
func TestTheRootComesFirst(t *testing.T) {
	entries := []tree.Entry{{Path: tree.Root, Type: tree.Directory,
		Xattrs: map[string]string{"user.large": string(make([]byte, 60_000))}}}
	for i := range 5000 {
		entries = append(entries,
			tree.Entry{Path: string(rune('a'+i/1000)) + string(rune('a'+i/100%10)) + string(rune('a'+i/10%10)) +
				string(rune('a'+i%10)), Type: tree.FIFO})
	}
	p, err := newPlan(t.Context(), &tree.Tree{Entries: entries})
	if err != nil {
		t.Fatal(err)
	}
	if slot := p.inodes[0].slot; slot > 2*BlockSize/slotSize {
		t.Errorf("the root is inode %d", slot)
	}
}

func TestInodesOverlapNowhereAndCrossNoBlock(t *testing.T) {
	shelf := newShelf(superOffset + superSize)
	taken := map[int64]bool{}
	for i := range 20_000 {
		size := 64 + i*7919%4033
		if i%1000 == 0 {
			size += 3 * BlockSize
		}
		offset := shelf.put(size)
		if offset%slotSize != 0 || offset < superOffset+superSize || offset+int64(size) > shelf.blocks*BlockSize {
			t.Fatalf("%d bytes at %d", size, offset)
		}
		if size <= BlockSize && offset/BlockSize != (offset+int64(size)-1)/BlockSize {
			t.Fatalf("%d bytes at %d cross a block", size, offset)
		}
		for slot := offset / slotSize; slot*slotSize < offset+int64(size); slot++ {
			if taken[slot] {
				t.Fatalf("slot %d is taken twice", slot)
			}
			taken[slot] = true
		}
	}
}

package release

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// piecewise returns its bytes in pieces of random length, and sometimes none.
type piecewise struct {
	rest   []byte
	random *rand.Rand
}

func (p *piecewise) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.random.IntN(5000))], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// DiffContents finds the differences of lists that are much longer than its buffer, whatever the lengths of the reads.
func TestLongListsDifferWhereTheyDo(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		old := []tree.Entry{{Path: tree.Root, Type: tree.Directory, Mode: 0o755},
			{Path: "e", Type: tree.Directory, Mode: 0o755}}
		for i := range 4000 {
			e := tree.Entry{Path: fmt.Sprintf("e/%05d", i), Type: tree.Regular, Mode: 0o644, Size: 8,
				Digest: digestOf(fmt.Sprint(i))}
			switch random.IntN(40) {
			case 0:
				e.Path += strings.Repeat("x", 200)
			case 1:
				e.Xattrs = map[string]string{"user.large": strings.Repeat("v", 40_000)}
			case 2:
				e = tree.Entry{Path: e.Path, Type: tree.Directory, Mode: 0o755}
			}
			old = append(old, e)
		}
		new := slices.Clone(old)
		var want []string
		for i := len(new) - 1; i >= 2; i-- {
			switch e := &new[i]; random.IntN(50 * (1 + int(seed%4)*10)) {
			case 0:
				e.Digest = digestOf("changed")
				if e.Type == tree.Directory {
					e.Digest, e.Mode = tree.Digest{}, 0o700
				}
				want = append(want, "changed "+e.Path)
			case 1:
				want = append(want, "removed "+e.Path)
				new = slices.Delete(new, i, i+1)
			case 2:
				added := tree.Entry{Path: e.Path + "+", Type: tree.Regular, Mode: 0o644, Digest: digestOf("added")}
				want = append(want, "added "+added.Path)
				new = slices.Insert(new, i+1, added)
			}
		}
		oldList, newList := listOf(t, old), listOf(t, new)
		var got []string
		err := DiffContents(&piecewise{oldList, random}, &piecewise{newList, random},
			func(path string, old, new *tree.Entry) error {
				switch {
				case old == nil:
					path = "added " + path
				case new == nil:
					path = "removed " + path
				default:
					path = "changed " + path
				}
				got = append(got, path)
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Fatalf("seed %d: %d differ, want %d", seed, len(got), len(want))
		}
		for _, cut := range []int{len(newList) - 3, len(newList) / 2, 70_000} {
			err := DiffContents(bytes.NewReader(newList), &piecewise{newList[:cut], random},
				func(string, *tree.Entry, *tree.Entry) error { return nil })
			if err == nil {
				t.Fatalf("seed %d: a list that ends after %d bytes of %d was taken", seed, cut, len(newList))
			}
		}
		more := append(slices.Clone(newList), "e\n"...)
		if err := DiffContents(bytes.NewReader(more), bytes.NewReader(more),
			func(string, *tree.Entry, *tree.Entry) error { return nil }); err == nil {
			t.Fatalf("seed %d: two lists that go on behind their ends were taken", seed)
		}
	}
}

func listOf(t *testing.T, entries []tree.Entry) []byte {
	t.Helper()
	var list bytes.Buffer
	if _, err := WriteContents(&list, entries); err != nil {
		t.Fatal(err)
	}
	return list.Bytes()
}

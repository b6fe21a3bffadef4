package release

import (
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// DiffContents calls changed for every path that differs between two contents lists, in a tree's order: old is
// nil when the path was added, new is nil when it was removed. The entries are valid only during the call. It
// holds one entry of each list. An error of changed ends it and is returned; after any error what changed was
// told must not be relied on, since a list is known to be whole only at its end.
func DiffContents(old, new io.Reader, changed func(path string, old, new *tree.Entry) error) error {
	from, err := startSide("old", old)
	if err != nil {
		return err
	}
	to, err := startSide("new", new)
	if err != nil {
		return err
	}
	for !from.ended || !to.ended {
		var order int
		switch {
		case from.ended:
			order = 1
		case to.ended:
			order = -1
		default:
			order = tree.Compare(from.entry.Path, to.entry.Path)
		}
		switch {
		case order < 0:
			err = changed(from.entry.Path, &from.entry, nil)
		case order > 0:
			err = changed(to.entry.Path, nil, &to.entry)
		case !tree.Equal(from.entry, to.entry):
			err = changed(to.entry.Path, &from.entry, &to.entry)
		}
		if err != nil {
			return err
		}
		if order <= 0 {
			if err := from.advance(); err != nil {
				return err
			}
		}
		if order >= 0 {
			if err := to.advance(); err != nil {
				return err
			}
		}
	}
	return nil
}

// diffSide is one of the two lists and where it is.
type diffSide struct {
	which string
	list  *ContentsReader
	entry tree.Entry
	ended bool
}

func startSide(which string, r io.Reader) (*diffSide, error) {
	side := &diffSide{which: which, list: NewContentsReader(r)}
	return side, side.advance()
}

func (s *diffSide) advance() error {
	entry, err := s.list.Next()
	if errors.Is(err, io.EOF) {
		s.ended = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("compare contents: the %s list: %w", s.which, err)
	}
	s.entry = entry
	return nil
}

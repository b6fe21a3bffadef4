package release

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// DiffContents calls changed for every path that differs between two contents lists, in a tree's order: old is
// nil when the path was added, new is nil when it was removed. The entries are valid only during the call. It
// holds one entry of each list. An error of changed ends it and is returned; after any error what changed was
// told must not be relied on, since a list is known to be whole only at its end.
//
// Lists have one form, so lines that are alike are entries that are alike: they are not looked into.
func DiffContents(old, new io.Reader, changed func(path string, old, new *tree.Entry) error) error {
	from, to := &diffSide{which: "old", list: NewContentsReader(old)}, &diffSide{which: "new", list: NewContentsReader(new)}
	if err := errors.Join(from.advance(), to.advance()); err != nil {
		return err
	}
	for !from.ended || !to.ended {
		order, alike, err := compareSides(from, to)
		if err != nil {
			return err
		}
		switch {
		case order < 0:
			err = changed(from.entry.Path, &from.entry, nil)
		case order > 0:
			err = changed(to.entry.Path, nil, &to.entry)
		case !alike && !tree.Equal(from.entry, to.entry):
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

// compareSides tells which of the two stands earlier, and parses them unless their lines are alike.
func compareSides(from, to *diffSide) (order int, alike bool, err error) {
	switch {
	case from.ended:
		return 1, false, to.parse()
	case to.ended:
		return -1, false, from.parse()
	case !from.parsed && !to.parsed && bytes.Equal(from.list.line, to.list.line):
		return 0, true, nil
	}
	if head := sameFile(from.list.line, to.list.line); head > 0 && !from.parsed && !to.parsed {
		err := to.parse()
		if err == nil {
			err = from.parseLike(&to.entry, head)
		}
		return 0, false, err
	}
	if err := errors.Join(from.parse(), to.parse()); err != nil {
		return 0, false, err
	}
	return tree.Compare(from.entry.Path, to.entry.Path), false, nil
}

// sameFile tells where in two lines what follows the path begins, if they are alike up to there: most that change are
// files whose content does. It is 0 if they are not.
func sameFile(a, b []byte) int {
	spaces := 0
	for i := 0; i < min(len(a), len(b)) && a[i] == b[i]; i++ {
		if a[i] == ' ' {
			if spaces++; spaces == fieldsWithPath {
				return i + 1
			}
		}
	}
	return 0
}

// diffSide is one of the two lists and where it is.
type diffSide struct {
	which string
	list  *ContentsReader
	// entry is that of the list's line, if it was parsed.
	entry         tree.Entry
	parsed, ended bool
}

func (s *diffSide) advance() error {
	s.parsed = false
	err := s.list.advance()
	if errors.Is(err, io.EOF) && !errors.Is(err, ErrContents) {
		s.ended = true
		return nil
	}
	return s.failed(err)
}

func (s *diffSide) parse() (err error) {
	if s.parsed {
		return nil
	}
	s.entry, err = s.list.entry()
	s.parsed = err == nil
	return s.failed(err)
}

func (s *diffSide) parseLike(other *tree.Entry, head int) (err error) {
	s.entry, err = s.list.entryLike(other, head)
	s.parsed = err == nil
	return s.failed(err)
}

func (s *diffSide) failed(err error) error {
	if err != nil {
		err = fmt.Errorf("compare contents: the %s list: %w", s.which, s.list.failure(err))
	}
	return err
}

package release

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// DiffContents calls changed for every path that differs between two contents lists, in the order of package tree: old
// is nil if the path was added, new is nil if it was removed. The entries are valid only during the call. DiffContents
// keeps one entry of each list in memory. If changed returns an error, DiffContents stops and returns it. After any
// error the caller must discard all reported changes, because a list is known to be complete only at its end.
//
// Equal entries have equal lines, because lists have one form. So equal lines are not parsed.
func DiffContents(old, new io.Reader, changed func(path string, old, new *tree.Entry) error) error {
	from, to := &diffSide{which: "old", list: NewContentsReader(old)},
		&diffSide{which: "new", list: NewContentsReader(new)}
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
		if order == 0 {
			skipSame(from.list, to.list)
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

// compareSides compares the paths of two entries, and parses them unless their lines are equal.
func compareSides(from, to *diffSide) (order int, alike bool, err error) {
	switch {
	case from.ended:
		return 1, false, to.parse()
	case to.ended:
		return -1, false, from.parse()
	case !from.parsed && !to.parsed && sameLine(from.list.line, to.list.line):
		return 0, true, nil
	}
	if from.parsed || to.parsed {
		err = errors.Join(from.parse(), to.parse())
	} else if err = to.parse(); err == nil {
		// Most changes are of a file's content, and then the lines are equal up to the end of the path.
		if behind := to.behind; behind > 0 && len(from.list.line) >= behind &&
			bytes.Equal(from.list.line[:behind], to.list.line[:behind]) {
			return 0, false, from.parseLike(&to.entry, behind)
		}
		err = from.parse()
	}
	if err != nil {
		return 0, false, err
	}
	return tree.Compare(from.entry.Path, to.entry.Path), false, nil
}

// sameLine compares two lines. It compares the last bytes first, because the digests of files are at the ends of lines.
func sameLine(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || a[len(a)-1] == b[len(b)-1]) && bytes.Equal(a, b)
}

// diffSide is one of the two lists at its current line.
type diffSide struct {
	which string
	list  *ContentsReader
	// entry is the entry of the current line, if it was parsed.
	entry         tree.Entry
	parsed, ended bool
	// behind is the offset of the field after the path in the current line; 0 if the path is the last field.
	behind int
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

func (s *diffSide) parse() error {
	if s.parsed {
		return nil
	}
	e, behind, err := parseEntry(s.list.line)
	return s.take(e, behind, err)
}

// parseLike parses a line that equals the line of another entry before the offset behind.
func (s *diffSide) parseLike(other *tree.Entry, behind int) error {
	e, err := parseLike(s.list.line, other, behind)
	return s.take(e, behind, err)
}

func (s *diffSide) take(e tree.Entry, behind int, err error) error {
	s.entry, err = s.list.checked(e, err)
	s.parsed, s.behind = err == nil, behind
	return s.failed(err)
}

func (s *diffSide) failed(err error) error {
	if err != nil {
		err = fmt.Errorf("compare contents: the %s list: %w", s.which, s.list.failure(err))
	}
	return err
}

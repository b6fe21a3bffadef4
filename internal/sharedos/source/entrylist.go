package source

import "github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"

// entryList grows without being copied: a slice that grows is there twice for a moment, which for a large tree is the moment
// that decides how much memory is needed.
type entryList struct {
	parts  [][]tree.Entry
	length int
}

// entryPart is how many entries lie together.
const entryPart = 4096

func (l *entryList) add(e tree.Entry) {
	if l.length%entryPart == 0 {
		l.parts = append(l.parts, make([]tree.Entry, 0, entryPart))
	}
	last := &l.parts[len(l.parts)-1]
	*last = append(*last, e)
	l.length++
}

func (l *entryList) at(i int) *tree.Entry { return &l.parts[i/entryPart][i%entryPart] }

// join yields all in one slice, and leaves the list empty.
func (l *entryList) join() []tree.Entry {
	all := make([]tree.Entry, 0, l.length)
	for i, part := range l.parts {
		all = append(all, part...)
		l.parts[i] = nil
	}
	*l = entryList{}
	return all
}

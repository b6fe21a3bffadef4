package tarstream

import "github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"

// entryList is a list that grows without being copied. A slice that grows exists twice for a moment, and for a large
// tree that moment determines how much memory is needed.
type entryList struct {
	chunks [][]tree.Entry
	length int
}

// chunkLength is the number of entries in a chunk.
const chunkLength = 4096

func (l *entryList) add(e tree.Entry) {
	if l.length%chunkLength == 0 {
		l.chunks = append(l.chunks, make([]tree.Entry, 0, chunkLength))
	}
	last := &l.chunks[len(l.chunks)-1]
	*last = append(*last, e)
	l.length++
}

func (l *entryList) at(i int) *tree.Entry { return &l.chunks[i/chunkLength][i%chunkLength] }

// join returns all entries in one slice and empties the list.
func (l *entryList) join() []tree.Entry {
	all := make([]tree.Entry, 0, l.length)
	for i, chunk := range l.chunks {
		all = append(all, chunk...)
		l.chunks[i] = nil
	}
	*l = entryList{}
	return all
}

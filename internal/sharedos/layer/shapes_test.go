package layer

import (
	"path/filepath"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// shapes counts what deltas were drawn, so that the property is known to have met each of them.
type shapes map[string]int

var allShapes = []string{
	"directory to regular file", "directory to symbolic link", "regular file to directory",
	"regular file to symbolic link",
	"symbolic link to directory", "symbolic link to regular file", "directory to fifo",
	"opaque directory", "whiteout of a directory", "whiteout of a file", "hard link",
	"capability", "access control list",
	"empty file", "sparse file", "long name", "block device", "fifo",
}

func (s shapes) add(before, after, delta []tree.Entry) {
	old, new := tree.Tree{Entries: before}, tree.Tree{Entries: after}
	files := map[tree.Digest]*tree.Entry{}
	for i := range delta {
		e := &delta[i]
		was, existed := old.Lookup(e.Path)
		if is, exists := new.Lookup(e.Path); exists && existed && is.Type != was.Type {
			s[was.Type.String()+" to "+is.Type.String()]++
		}
		switch {
		case IsWhiteout(e) && was.Type == tree.Directory:
			s["whiteout of a directory"]++
		case IsWhiteout(e):
			s["whiteout of a file"]++
		case e.Xattrs[opaqueName] != "":
			s["opaque directory"]++
		case e.Type == tree.Regular && e.Size == 0:
			s["empty file"]++
		case e.Type == tree.Regular && e.Size > 4096:
			s["sparse file"]++
			other := files[e.Digest]
			if files[e.Digest] = e; other != nil {
				linked := *other
				if linked.Path = e.Path; tree.Equal(linked, *e) {
					s["hard link"]++
				}
			}
		case e.Type == tree.BlockDevice, e.Type == tree.FIFO:
			s[e.Type.String()]++
		}
		for name, shape := range map[string]string{"security.capability": "capability",
			"system.posix_acl_access": "access control list"} {
			if _, ok := e.Xattrs[name]; ok {
				s[shape]++
			}
		}
		if len(filepath.Base(e.Path)) == tree.MaxName {
			s["long name"]++
		}
	}
}

// require fails unless every shape was met.
func (s shapes) require(t *testing.T) {
	t.Helper()
	for _, shape := range allShapes {
		if s[shape] == 0 {
			t.Errorf("no delta had this: %s", shape)
		}
	}
	t.Logf("deltas had: %v", map[string]int(s))
}

package etcmerge

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// In a real overlay, a file that the VM keeps does not follow the layer below any more.
func TestWhatIsKeptIsCopiedToTheUpperLayer(t *testing.T) {
	directory := t.TempDir()
	for _, name := range []string{"upper", "work", "root"} {
		must(t, os.Mkdir(directory+"/"+name, 0o755))
	}
	files{"etc/a": "1", "etc/b": "1", "etc/d/x": "1", "etc/link": "-> a", "etc/other": "1",
		"var/x": "1"}.write(t, directory+"/lower")
	must(t, unix.Mount("tmpfs", directory+"/upper", "tmpfs", 0, "")) // an overlay cannot be the upper layer of another
	t.Cleanup(func() { must(t, unix.Unmount(directory+"/upper", unix.MNT_DETACH)) })
	for _, name := range []string{"upper/upper", "upper/work"} {
		must(t, os.Mkdir(directory+"/"+name, 0o755))
	}
	options := "lowerdir=" + directory + "/lower,upperdir=" + directory + "/upper/upper,workdir=" +
		directory + "/upper/work"
	must(t, unix.Mount("overlay", directory+"/root", "overlay", 0, options))
	t.Cleanup(func() { must(t, unix.Unmount(directory+"/root", unix.MNT_DETACH)) })
	before := read(t, directory+"/root")
	must(t, CopyUp(directory+"/root", []string{"/etc/[ab]", "/etc/d", "/etc/link", "/etc/none", "/var/x"}))
	var copied []string
	for name := range read(t, directory+"/upper/upper") {
		copied = append(copied, name)
	}
	slices.Sort(copied)
	if want := "etc etc/a etc/b etc/d etc/d/x etc/link"; strings.Join(copied, " ") != want {
		t.Errorf("copied %v, want %s", copied, want)
	}
	for name, text := range read(t, directory+"/root") {
		if before[name] != text {
			t.Errorf("%s was %q and is %q", name, before[name], text)
		}
	}
	if err := CopyUp(directory, []string{"/etc/[a"}); err == nil {
		t.Error("a bad pattern was taken")
	}
}

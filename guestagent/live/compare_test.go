package live

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
)

// A file that a process uses from a swapped-out /usr is old code exactly if another content is mounted at its path: the
// same layer and inode is the same file, and files of different layers are compared.
func TestAFileInUseIsComparedWithTheMountedOne(t *testing.T) {
	disk := t.TempDir()
	memory, err := os.MkdirTemp("/dev/shm", "sharedos-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(memory); err != nil {
			t.Error(err)
		}
	})
	write := func(directory, name, text string) string {
		path := filepath.Join(directory, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // read by this test alone
			t.Fatal(err)
		}
		return path
	}
	device := func(path string) uint64 {
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err != nil {
			t.Fatal(err)
		}
		return stat.Dev
	}
	usr := &Usr{}
	c := &comparer{usr: usr, root: disk + "/",
		layers:  map[uint64]string{device(disk): "below", device(memory): "earlier"},
		present: map[uint64]bool{}}
	compare := func(c *comparer, used, name string) impact.Version {
		t.Helper()
		file, err := os.Open(used)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }() // it was only read
		var found impact.Version
		err = proc.NewScanner("/proc").Process(os.Getpid(), func(p *proc.Process) (err error) {
			found, err = c.compare(p, fmt.Sprintf("fd/%d", file.Fd()), name)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	for name, test := range map[string]struct {
		used, mounted string
		want          impact.Version
	}{
		"the same content in another layer": {"library", "library", impact.Mounted},
		"another content of the same size":  {"library", "Library", impact.Earlier},
		"another size":                      {"library", "library 2", impact.Earlier},
		"an empty file":                     {"", "", impact.Mounted},
		"content that differs behind a block": {string(make([]byte, compareChunk)) + "1",
			string(make([]byte, compareChunk)) + "2", impact.Earlier},
		"content that is alike to the last bit": {string(make([]byte, 2*compareChunk)), string(make([]byte, 2*compareChunk)), impact.Mounted},
	} {
		used := write(memory, "usr/lib/x", test.used)
		write(disk, "usr/lib/x", test.mounted)
		usr.alike = nil // files change here, and in layers never
		for range 2 {
			if got := compare(c, used, "usr/lib/x"); got != test.want {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
	same := write(disk, "usr/lib/same", "1")
	if got := compare(c, same, "usr/lib/same"); got != impact.Mounted {
		t.Errorf("the same file of one layer: %v", got)
	}
	// A layer of which two versions are visible: the inode tells them apart, and nothing is read.
	if got := compare(c, write(disk, "usr/lib/other", "1"), "usr/lib/same"); got != impact.Earlier {
		t.Errorf("another file of one layer: %v", got)
	}
	if got := compare(c, same, "usr/lib/gone"); got != impact.Earlier {
		t.Errorf("a file that is no longer there: %v", got)
	}
	if got := compare(c, same, "usr/lib/same/below"); got != impact.Earlier {
		t.Errorf("a file whose directory is a file now: %v", got)
	}
	if err := os.Symlink("same", disk+"/usr/lib/link"); err != nil {
		t.Fatal(err)
	}
	if got := compare(c, same, "usr/lib/link"); got != impact.Earlier {
		t.Errorf("a link in place of it: %v", got)
	}
	unknown := &comparer{usr: usr, root: disk + "/", layers: map[uint64]string{}, present: map[uint64]bool{}}
	if got := compare(unknown, same, "usr/lib/gone"); got != impact.NotCompared {
		t.Errorf("a file of another file system: %v", got)
	}
	unknown.present[device(disk)] = true
	if got := compare(unknown, same, "usr/lib/gone"); got != impact.Mounted {
		t.Errorf("a file of the mounted /usr: %v", got)
	}
	if got := compare(c, disk, "usr/lib/same"); got != impact.NotCompared {
		t.Errorf("a directory: %v", got)
	}
}

// The layers of the device numbers come from what was recorded of each /usr of this boot.
func TestTheLayersOfAFileAreKnownFromTheRecord(t *testing.T) {
	record := usrRecord{}
	record.add(stackRecord{Layers: []string{"a"}, Devices: []uint64{10}, Files: []uint64{10}})
	record.add(stackRecord{Layers: []string{"a", "b"}, Devices: []uint64{20, 21, 22}, Files: []uint64{21, 22}})
	record.add(stackRecord{Layers: []string{"a", "b", "c"}, Devices: []uint64{30, 31, 33}, Files: []uint64{31, 0, 33}})
	c := (&Usr{}).comparer(record, proc.DeviceOf(20))
	for device, want := range map[uint64]string{10: "a", 21: "a", 22: "b", 31: "a", 33: "c", 0: "", 20: ""} {
		if got := c.layers[device]; got != want {
			t.Errorf("device %d is of layer %q, want %q", device, got, want)
		}
	}
	if !c.present[20] || !c.present[22] || c.present[31] || c.present[10] {
		t.Errorf("present are %v", c.present)
	}
	// A number that is used again means that its earlier file system is gone.
	record.add(stackRecord{Layers: []string{"d"}, Devices: []uint64{22}, Files: []uint64{22}})
	if c = (&Usr{}).comparer(record, proc.DeviceOf(22)); c.layers[21] != "" || c.layers[22] != "d" ||
		len(record.Stacks) != 3 {
		t.Errorf("%v, %v", c.layers, record.Stacks)
	}
}

// By the record is known through which files and file systems a layer is used.
func TestHowALayerShowsIsKnownFromTheRecord(t *testing.T) {
	record := usrRecord{}
	record.add(stackRecord{Layers: []string{"a", "b", "c"}, Devices: []uint64{20, 21, 22},
		Files: []uint64{21, 22, mounts.NoFiles}})
	record.add(stackRecord{Layers: []string{"a", "b"}, Devices: []uint64{30, 31}, Files: []uint64{31, 0}})
	for layer, want := range map[string]string{
		"a": "[{20 [21]} {30 [31]}]",
		"b": "[{20 [22]} {30 [30 31]}]", // no file of it was found in the second: it may be any
		"c": "[{20 []}]",
		"d": "[]",
	} {
		if got := fmt.Sprint(record.shown(layer)); got != want {
			t.Errorf("layer %s shows as %s, want %s", layer, got, want)
		}
	}
	if got := fmt.Sprint(record.whole("b"), record.whole("d")); got != "[{20 [20 21 22]} {30 [30 31]}] []" {
		t.Errorf("whole, it is %s", got)
	}
	if c := (&Usr{}).comparer(record, proc.DeviceOf(20)); len(c.layers) != 3 {
		t.Errorf("the numbers of files are %v", c.layers)
	}
	// Of a layer of a stack that was forgotten it is not known who uses it.
	for i := range uint64(maxStacks - 1) {
		record.add(stackRecord{Layers: []string{"a"}, Devices: []uint64{100 + i}})
	}
	if got := fmt.Sprint(record.whole("a"), record.whole("c"), record.whole("b")); got != "[] [] []" {
		t.Errorf("after its stack was forgotten, it is %s", got)
	}
}

package rootfs_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/addition"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

// What an added program needs and neither the base nor the component has, wherever it is, is known.
func TestWhatAddedProgramsNeedIsThere(t *testing.T) {
	own, err := os.ReadFile("/bin/true") // a program that needs libc
	sourcetest.Must(t, err)
	var foreign bytes.Buffer
	sourcetest.Must(t, binary.Write(&foreign, binary.LittleEndian, elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: uint16(elf.ET_EXEC),
		Machine: uint16(elf.EM_S390), Version: 1, Ehsize: 64,
	}))
	library := []sourcetest.Item{
		sourcetest.Program("opt/acme/lib/libc.so.6", "library"),
		sourcetest.Program("lib64/ld-linux-x86-64.so.2", "loader"),
	}
	for name, test := range map[string]struct {
		items []sourcetest.Item
		lacks string
	}{
		"a script for what is there": {[]sourcetest.Item{sourcetest.Program("usr/bin/x",
			"#! /usr/sbin/mkfs.ext4 -x\n")}, ""},
		"a script for what is not": {[]sourcetest.Item{sourcetest.Program("usr/bin/x", "#!/usr/bin/ruby\n")},
			"/usr/bin/ruby"},
		"an example": {[]sourcetest.Item{sourcetest.Program("usr/share/doc/x/examples/x",
			"#!/usr/bin/ruby\n")}, ""},
		"a script found by env": {[]sourcetest.Item{sourcetest.Program("usr/bin/env", "env"),
			sourcetest.Program("usr/bin/x", "#!/usr/bin/env -S A=1 mkfs.ext4 -v\n")}, ""},
		"a script that env does not find": {[]sourcetest.Item{sourcetest.Program("usr/bin/env", "env"),
			sourcetest.Program("usr/bin/x", "#!/usr/bin/env node\n")}, "node"},
		"a text that only looks like one": {[]sourcetest.Item{sourcetest.File("usr/share/x", "#!/usr/bin/ruby\n")}, ""},
		"a program without its library": {[]sourcetest.Item{sourcetest.Program("usr/bin/x", string(own))},
			"libc.so.6"},
		"a program with its library":      {append(library, sourcetest.Program("usr/bin/x", string(own))), ""},
		"a program for another processor": {[]sourcetest.Item{sourcetest.Program("usr/bin/x", foreign.String())}, "S390"},
		"what begins like a program":      {[]sourcetest.Item{sourcetest.Program("usr/bin/x", "\x7fELF")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			system, err := sourcetest.ReadSystem(t,
				sourcetest.Bytes(sourcetest.Tar(t,
					append(sourcetest.Bootable("6.1"), sourcetest.Program("usr/sbin/mkfs.ext4", "mkfs"))...)), nil)
			sourcetest.Must(t, err)
			from, err := addition.Files{Source: sourcetest.Bytes(sourcetest.Tar(t, test.items...))}.On(t.Context(),
				source.Base{Name: "os", Tree: system.Tree})
			sourcetest.Must(t, err)
			read, err := rootfs.ReadAddition(t.Context(), from, system.Tree, t.TempDir(), nil)
			if err == nil {
				sourcetest.Must(t, read.Close())
			}
			switch {
			case test.lacks == "S390":
				if !errors.Is(err, source.ErrRefused) || !strings.Contains(err.Error(), test.lacks) ||
					!strings.Contains(err.Error(), "/usr/bin/x ") {
					t.Errorf("got %v, want ErrRefused that names /usr/bin/x and %s", err, test.lacks)
				}
			case err != nil:
				t.Error(err)
			case test.lacks == "" && len(read.Needs) > 0:
				t.Errorf("it needs %+v", read.Needs)
			case test.lacks != "":
				if len(read.Needs) != 1 || read.Needs[0].File != "usr/bin/x" ||
					!slices.Contains(append(read.Needs[0].Libraries, read.Needs[0].Program), test.lacks) {
					t.Errorf("it needs %+v, want %s for usr/bin/x", read.Needs, test.lacks)
				}
				if !slices.ContainsFunc(read.Notes, func(note string) bool {
					return strings.HasPrefix(note, "/usr/bin/x ") && strings.Contains(note, test.lacks) &&
						strings.Contains(note, "another component")
				}) {
					t.Errorf("the notes are %q", read.Notes)
				}
			}
		})
	}
}

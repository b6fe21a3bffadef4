package rootfs

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxProgram is the largest program that is looked into, in bytes.
const maxProgram = 256 << 20

// needs looks for what added programs need and the whole tree lacks: libraries, interpreters, a processor of another
// architecture. A library counts as present wherever in the tree it is, since a program may have its own places to look
// in. Files that a package ships depend on what their package says, so what they lack is a note; for other files it is
// an error, which wraps source.ErrRefused and lists everything.
func needs(base, full *tree.Tree, architecture string) (notes []string, _ error) {
	shipped, _, err := shippedFiles(full)
	if err != nil {
		return nil, err
	}
	n := needed{tree: full, names: map[string]bool{}, machine: machines[architecture]}
	for i := range full.Entries {
		if e := &full.Entries[i]; e.Type != tree.Directory {
			n.names[path.Base(e.Path)] = true
		}
	}
	var refused []error
	for i := range full.Entries {
		e := &full.Entries[i]
		if was, has := base.Lookup(e.Path); e.Type != tree.Regular || e.Size == 0 || e.Size > maxProgram || has && tree.Equal(*was, *e) {
			continue
		}
		if below(e.Path, "usr/share/doc") {
			continue // examples
		}
		lacks, err := n.lacks(e)
		switch {
		case err != nil:
			return nil, fmt.Errorf("look for what /%s needs: %w", e.Path, err)
		case lacks == "":
		case shipped[e.Path]:
			notes = append(notes, "/"+e.Path+" "+lacks)
		default:
			refused = append(refused, fmt.Errorf("/%s %s: %w; add what it needs to the component or to its base", e.Path, lacks, source.ErrRefused))
		}
	}
	return notes, errors.Join(refused...)
}

// machines are the processors by the names of Debian's architectures.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

type needed struct {
	tree *tree.Tree
	// names are those of all files.
	names   map[string]bool
	machine elf.Machine
}

// lacks says what a file needs and the tree does not have; "" if there is nothing.
func (n *needed) lacks(e *tree.Entry) (_ string, err error) {
	file, err := n.tree.Content.Open(e.Digest)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	head := bufio.NewReader(file)
	magic, err := head.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	switch {
	case bytes.HasPrefix(magic, []byte("#!")) && e.Mode&0o111 != 0:
		line, err := head.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", nil //nolint:nilerr // the kernel reads no line as long as that
		}
		return n.lacksInterpreter(string(line[2:])), nil
	case string(magic) == elf.ELFMAG:
		data, err := io.ReadAll(head)
		if err != nil {
			return "", err
		}
		return n.lacksLibrary(data, e.Mode&0o111 != 0), nil
	}
	return "", nil
}

// lacksInterpreter is lacks for the first line of a script.
func (n *needed) lacksInterpreter(line string) string {
	words := strings.Fields(line)
	if len(words) == 0 || !strings.HasPrefix(words[0], "/") {
		return ""
	}
	if _, err := n.tree.Resolve(strings.TrimPrefix(words[0], "/")); err != nil {
		return fmt.Sprintf("is a script for %s, which is not there", words[0])
	}
	if path.Base(words[0]) != "env" {
		return ""
	}
	for _, word := range words[1:] {
		if strings.HasPrefix(word, "-") || strings.Contains(word, "=") {
			continue // options and variables of env(1)
		}
		if !program(n.tree, word) && !n.names[word] {
			return fmt.Sprintf("is a script for %s, which is not there", word)
		}
		return ""
	}
	return ""
}

// lacksLibrary is lacks for a program, which is executable, or a library.
func (n *needed) lacksLibrary(data []byte, executable bool) string {
	parsed, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return "" // it is no program that the kernel would start
	}
	if parsed.Type != elf.ET_EXEC && parsed.Type != elf.ET_DYN {
		return ""
	}
	if parsed.Machine != n.machine {
		if !executable {
			return "" // firmware, for example
		}
		return fmt.Sprintf("is a program for %s", strings.TrimPrefix(parsed.Machine.String(), "EM_"))
	}
	libraries, err := parsed.ImportedLibraries()
	if err != nil {
		return ""
	}
	missing := slices.DeleteFunc(libraries, func(name string) bool { return n.names[path.Base(name)] })
	if len(missing) > 0 {
		return "needs " + strings.Join(missing, ", ") + ", which is not there"
	}
	for _, segment := range parsed.Progs {
		if segment.Type != elf.PT_INTERP || segment.Filesz > 4096 {
			continue
		}
		name, err := io.ReadAll(segment.Open())
		if err != nil {
			return ""
		}
		loader := strings.TrimRight(string(name), "\x00")
		if _, err := n.tree.Resolve(strings.TrimPrefix(loader, "/")); err != nil {
			return fmt.Sprintf("needs the loader %s, which is not there", loader)
		}
	}
	return ""
}

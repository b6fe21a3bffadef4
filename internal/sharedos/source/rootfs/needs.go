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

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxProgram is the largest program that is looked into, in bytes.
const maxProgram = 256 << 20

// needs looks for what added programs need and the whole tree lacks: libraries and interpreters. A
// library counts as present wherever in the tree it is, since a program may have its own places to
// look in. Files that a package ships depend on what their package says, so what they lack is a note
// only. What other files lack is a note and a need, which another component of a stack can meet. A
// program for another processor is an error, which wraps source.ErrRefused and lists all of them.
func needs(base, full *tree.Tree, architecture string) (notes []string, lacking []release.Need, _ error) {
	shipped, _, err := shippedFiles(full)
	if err != nil {
		return nil, nil, err
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
		if was, has := base.Lookup(e.Path); e.Type != tree.Regular || e.Size == 0 || e.Size > maxProgram ||
			has && tree.Equal(*was, *e) {
			continue
		}
		if below(e.Path, "usr/share/doc") {
			continue // examples
		}
		need, foreign, err := n.lacks(e)
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("look for what /%s needs: %w", e.Path, err)
		case foreign != "" && !shipped[e.Path]:
			refused = append(refused, fmt.Errorf("/%s is a program for %s: %w", e.Path, foreign, source.ErrRefused))
		case foreign != "":
			notes = append(notes, fmt.Sprintf("/%s is a program for %s", e.Path, foreign))
		case need == nil:
		case shipped[e.Path]:
			notes = append(notes, NeedText(*need)+", which is not there")
		default:
			notes = append(notes,
				NeedText(*need)+", which neither it nor its base has: another component of each VM has to bring it")
			lacking = append(lacking, *need)
		}
	}
	return notes, lacking, errors.Join(refused...)
}

// NeedText says for a user what a file needs.
func NeedText(need release.Need) string {
	if need.Program != "" {
		return fmt.Sprintf("/%s is to be run by %s", need.File, need.Program)
	}
	return fmt.Sprintf("/%s needs %s", need.File, strings.Join(need.Libraries, ", "))
}

// machines are the processors by the names of Debian's architectures.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

type needed struct {
	tree *tree.Tree
	// names are those of all files.
	names   map[string]bool
	machine elf.Machine
}

// lacks says what a file needs and the tree does not have, nil if there is nothing, and the
// processor that a program is for if that is another one.
func (n *needed) lacks(e *tree.Entry) (need *release.Need, foreign string, err error) {
	file, err := n.tree.Content.Open(e.Digest)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	head := bufio.NewReader(file)
	magic, err := head.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	switch {
	case bytes.HasPrefix(magic, []byte("#!")) && e.Mode&0o111 != 0:
		line, err := head.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, "", nil //nolint:nilerr // the kernel reads no line as long as that
		}
		if program := n.lacksInterpreter(string(line[2:])); program != "" {
			return &release.Need{File: e.Path, Program: program}, "", nil
		}
	case string(magic) == elf.ELFMAG:
		data, err := io.ReadAll(head)
		if err != nil {
			return nil, "", err
		}
		need, foreign = n.lacksLibrary(data, e.Mode&0o111 != 0)
		if need != nil {
			need.File = e.Path
		}
	}
	return need, foreign, nil
}

// lacksInterpreter returns the interpreter that the first line of a script names and the tree does
// not have; "" if there is none.
func (n *needed) lacksInterpreter(line string) string {
	words := strings.Fields(line)
	if len(words) == 0 || !strings.HasPrefix(words[0], "/") {
		return ""
	}
	if _, err := n.tree.Resolve(strings.TrimPrefix(words[0], "/")); err != nil {
		return words[0]
	}
	if path.Base(words[0]) != "env" {
		return ""
	}
	for _, word := range words[1:] {
		if strings.HasPrefix(word, "-") || strings.Contains(word, "=") {
			continue // options and variables of env(1)
		}
		if !program(n.tree, word) && !n.names[word] {
			return word
		}
		return ""
	}
	return ""
}

// lacksLibrary is lacks for a program, which is executable, or a library.
func (n *needed) lacksLibrary(data []byte, executable bool) (need *release.Need, foreign string) {
	parsed, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, "" // it is no program that the kernel would start
	}
	if parsed.Type != elf.ET_EXEC && parsed.Type != elf.ET_DYN {
		return nil, ""
	}
	if parsed.Machine != n.machine {
		if !executable {
			return nil, "" // firmware, for example
		}
		return nil, strings.TrimPrefix(parsed.Machine.String(), "EM_")
	}
	libraries, err := parsed.ImportedLibraries()
	if err != nil {
		return nil, ""
	}
	missing := slices.DeleteFunc(libraries, func(name string) bool { return name == "" || n.names[path.Base(name)] })
	for i, name := range missing {
		missing[i] = path.Base(name)
	}
	if len(missing) > 0 {
		return &release.Need{Libraries: missing}, ""
	}
	for _, segment := range parsed.Progs {
		if segment.Type != elf.PT_INTERP || segment.Filesz > 4096 {
			continue
		}
		name, err := io.ReadAll(segment.Open())
		if err != nil {
			return nil, ""
		}
		loader := strings.TrimRight(string(name), "\x00")
		if _, err := n.tree.Resolve(strings.TrimPrefix(loader, "/")); err != nil {
			return &release.Need{Program: loader}, ""
		}
	}
	return nil, ""
}

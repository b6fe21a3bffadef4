package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

// Edit changes one place of an archive.
type Edit struct {
	kind   editKind
	path   string
	mode   fs.FileMode
	text   string
	suffix string
	from   string
}

type editKind string

const (
	writeFile  editKind = "write"
	writeLink  editKind = "link"
	removePath editKind = "remove"
	appendTo   editKind = "append"
	copyFile   editKind = "copy"
	hangKernel editKind = "hang"
)

// Write writes a file of root's at a path without a leading slash. It replaces what is there.
func Write(path string, mode fs.FileMode, text string) Edit {
	return Edit{kind: writeFile, path: path, mode: mode, text: text}
}

// Link puts a symbolic link at a path without a leading slash.
func Link(path, target string) Edit { return Edit{kind: writeLink, path: path, text: target} }

// Remove removes a path without a leading slash, with everything below it.
func Remove(path string) Edit { return Edit{kind: removePath, path: path} }

// Append appends bytes to the one regular file whose path ends in suffix, such as "/libssl.so.3". A program or
// library with more bytes behind its last section has another digest and works as before.
func Append(suffix, text string) Edit { return Edit{kind: appendTo, suffix: suffix, text: text} }

// Copy writes a copy of the regular file from, with more bytes at its end, at a path. Both paths have no leading
// slash.
func Copy(path, from, more string) Edit {
	return Edit{kind: copyFile, path: path, from: from, text: more}
}

// Hang makes the kernel loop forever when it is started by kexec.
func Hang() Edit { return Edit{kind: hangKernel, path: "boot/vmlinuz-"} }

// String identifies the edit: it is part of what a release is made from.
func (e Edit) String() string {
	return fmt.Sprintf("%s %q %q %q %o %q", e.kind, e.path, e.suffix, e.from, e.mode, e.text)
}

// Apply copies an uncompressed tar stream with the edits carried out. An Append or a Copy that
// finds no file is an error.
func Apply(from io.Reader, to io.Writer, edits []Edit) error {
	in, out := tar.NewReader(from), tar.NewWriter(to)
	e := &editor{edits: edits, out: out, seen: map[string]bool{".": true}, found: make([]bool, len(edits)),
		copies: map[int]string{}}
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the archive to edit: %w", err)
		}
		if err := e.copy(header, in); err != nil {
			return err
		}
	}
	if err := e.finish(); err != nil {
		return err
	}
	return out.Close()
}

type editor struct {
	edits []Edit
	out   *tar.Writer
	seen  map[string]bool
	// found says which edits have found their file. copies has the content that is to be copied.
	found  []bool
	copies map[int]string
}

// copy copies one entry, unless it is replaced or removed.
func (e *editor) copy(header *tar.Header, content io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
	if name == "" {
		name = "."
	}
	more := ""
	for i, edit := range e.edits {
		switch edit.kind {
		case appendTo:
			if !e.found[i] && header.Typeflag == tar.TypeReg && strings.HasSuffix("/"+name, edit.suffix) {
				e.found[i] = true
				more += edit.text
			}
		case hangKernel:
			if header.Typeflag != tar.TypeReg || !strings.HasPrefix(name, edit.path) {
				continue
			}
			image, err := io.ReadAll(content)
			if err == nil {
				err = hang(image)
			}
			if err != nil {
				return fmt.Errorf("edit %s: %w", name, err)
			}
			e.found[i], content = true, bytes.NewReader(image)
		case removePath:
			if name == edit.path || strings.HasPrefix(name, edit.path+"/") {
				return nil
			}
		case copyFile:
			if name != edit.from || header.Typeflag != tar.TypeReg {
				continue
			}
			text, err := io.ReadAll(content)
			if err != nil {
				return fmt.Errorf("copy %s: %w", name, err)
			}
			e.found[i], e.copies[i], content = true, string(text), bytes.NewReader(text)
		default:
			if name == edit.path {
				return nil
			}
		}
	}
	e.seen[name] = true
	header.Size += int64(len(more))
	if err := e.out.WriteHeader(header); err != nil {
		return fmt.Errorf("edit %s: %w", name, err)
	}
	if _, err := io.Copy(e.out, io.MultiReader(content, strings.NewReader(more))); err != nil {
		return fmt.Errorf("edit %s: %w", name, err)
	}
	return nil
}

// hang writes an endless loop at the address at which kexec enters an x86 kernel: 512 bytes behind the set-up code,
// whose number of sectors is at 0x1f1 (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
func hang(image []byte) error {
	const count, sector, entry = 0x1f1, 512, 0x200
	if len(image) <= count {
		return errors.New("it is no kernel")
	}
	at := (int(image[count])+1)*sector + entry
	loop := []byte{0xeb, 0xfe} // jmp to itself
	if len(image) < at+len(loop) {
		return errors.New("it is no kernel")
	}
	copy(image[at:], loop)
	return nil
}

// finish writes the new entries.
func (e *editor) finish() error {
	for i, edit := range e.edits {
		header := &tar.Header{Name: edit.path, Mode: int64(edit.mode.Perm()),
			ModTime: time.Unix(1_700_000_000, 0), Format: tar.FormatPAX}
		switch edit.kind {
		case appendTo:
			if !e.found[i] {
				return fmt.Errorf("edit the archive: it has no file *%s", edit.suffix)
			}
			continue
		case copyFile:
			if !e.found[i] {
				return fmt.Errorf("edit the archive: it has no file %s", edit.from)
			}
			edit.text = e.copies[i] + edit.text
			header.Typeflag, header.Size, header.Mode = tar.TypeReg, int64(len(edit.text)), 0o755
		case hangKernel:
			if !e.found[i] {
				return errors.New("edit the archive: it has no kernel")
			}
			continue
		case removePath:
			continue
		case writeLink:
			header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, edit.text, 0o777
		default:
			header.Typeflag, header.Size = tar.TypeReg, int64(len(edit.text))
			if edit.mode&fs.ModeSetuid != 0 {
				header.Mode |= 0o4000
			}
		}
		if err := e.parents(path.Dir(edit.path)); err != nil {
			return err
		}
		if err := e.out.WriteHeader(header); err != nil {
			return fmt.Errorf("add %s: %w", edit.path, err)
		}
		if header.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(e.out, edit.text); err != nil {
				return fmt.Errorf("add %s: %w", edit.path, err)
			}
		}
	}
	return nil
}

// parents writes the parent directories of a new entry.
func (e *editor) parents(directory string) error {
	if e.seen[directory] {
		return nil
	}
	if err := e.parents(path.Dir(directory)); err != nil {
		return err
	}
	e.seen[directory] = true
	header := &tar.Header{Name: directory + "/", Typeflag: tar.TypeDir, Mode: 0o755,
		ModTime: time.Unix(1_700_000_000, 0), Format: tar.FormatPAX}
	if err := e.out.WriteHeader(header); err != nil {
		return fmt.Errorf("add directory %s: %w", directory, err)
	}
	return nil
}

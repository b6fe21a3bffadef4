package debian

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Bounds of what is read of dpkg's database, in bytes.
const (
	maxStatusFile = 64 << 20
	maxInfoFile   = 64 << 20
)

// dpkgDir is dpkg's database in a normalised tree.
const dpkgDir = "usr/lib/sysimage/dpkg"

// plainName matches the names of packages (deb-control(5)).
var plainName = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]+$`)

// repacker makes packages out of installed ones, as the program dpkg-repack does: dpkg's database has their control
// information, and the tree their files. So packages can be installed again, together with others, wherever the archive
// has moved on to.
type repacker struct {
	tree *tree.Tree
	// foreign are the numbers of accounts that a package's script has made: no package has files of them.
	foreignUsers, foreignGroups map[uint32]bool
	stanzas                     map[string]string
	diverted                    map[string]diversion
}

// diversion says where a file went, and which package has the right to the original place.
type diversion struct{ to, by string }

func newRepacker(t *tree.Tree, architecture string, users, groups map[uint32]bool) (*repacker, error) {
	r := &repacker{tree: t, foreignUsers: users, foreignGroups: groups, stanzas: map[string]string{},
		diverted: map[string]diversion{}}
	status, err := t.ReadFile(dpkgDir+"/status", maxStatusFile)
	if err != nil {
		return nil, fmt.Errorf("read the package database: %w", err)
	}
	for stanza := range strings.SplitSeq(string(status), "\n\n") {
		fields := fieldsOf(stanza)
		name := fields["Package"]
		if !strings.HasSuffix(fields["Status"], " installed") {
			continue
		}
		if !plainName.MatchString(name) {
			return nil, fmt.Errorf("read the package database: %q is not the name of a package: %w",
				source.Shorten(name), source.ErrMalformed)
		}
		// Names are as rootfs.Packages has them: with the architecture if it is a foreign one.
		if arch := fields["Architecture"]; arch != architecture && arch != "all" {
			name += ":" + arch
		}
		r.stanzas[name] = stanza
	}
	const file = dpkgDir + "/diversions"
	if _, ok := t.Lookup(file); !ok {
		return r, nil
	}
	// Three lines each: the path, where it is diverted to, and the package (or ":") that diverts it.
	diversions, err := t.ReadFile(file, maxInfoFile)
	if err != nil {
		return nil, fmt.Errorf("read which files are diverted: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(diversions)), "\n")
	for i := 0; i+2 < len(lines); i += 3 {
		r.diverted[lines[i]] = diversion{lines[i+1], lines[i+2]}
	}
	return r, nil
}

// fieldsOf returns the fields of a stanza (deb-control(5)) with the first line of each.
func fieldsOf(stanza string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(stanza) {
		if name, value, ok := strings.Cut(line, ":"); ok && line[0] != ' ' && line[0] != '\t' {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}

// stateFields are fields of dpkg's database that no package has (dpkg's lib/dpkg/parse.c).
var stateFields = []string{"Status", "Conffiles", "Config-Version", "Triggers-Pending", "Triggers-Awaited"}

// control returns the control file of a package: its stanza without dpkg's state.
func control(stanza string) string {
	var text strings.Builder
	dropped := false
	for line := range strings.Lines(stanza) {
		if line = strings.TrimRight(line, "\n"); line == "" {
			continue
		}
		if line[0] != ' ' && line[0] != '\t' {
			name, _, _ := strings.Cut(line, ":")
			dropped = slices.Contains(stateFields, name)
		}
		if !dropped {
			text.WriteString(line + "\n")
		}
	}
	return text.String()
}

// write writes one package into a directory, and returns the name of the file.
func (r *repacker) write(name, dir string) (_ string, err error) {
	stanza, ok := r.stanzas[name]
	if !ok {
		return "", fmt.Errorf("package %s is not in dpkg's database: %w", name, source.ErrMalformed)
	}
	fields := fieldsOf(stanza)
	info := dpkgDir + "/info/" + fields["Package"]
	if _, ok := r.tree.Lookup(info + ".list"); !ok || strings.Contains(name, ":") {
		info = dpkgDir + "/info/" + fields["Package"] + ":" + fields["Architecture"]
	}
	var controlTar bytes.Buffer
	if err := r.writeControl(&controlTar, info, control(stanza)); err != nil {
		return "", fmt.Errorf("package %s: %w", name, err)
	}
	file, err := os.OpenFile(filepath.Join(dir, strings.ReplaceAll(name, ":", "_")+".deb"),
		os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := io.WriteString(file, "!<arch>\n"); err != nil {
		return "", err
	}
	copied := func(data []byte) func(io.Writer) error {
		return func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		}
	}
	for _, member := range []struct {
		name  string
		write func(io.Writer) error
	}{
		{"debian-binary", copied([]byte("2.0\n"))}, {"control.tar", copied(controlTar.Bytes())},
		{"data.tar", func(w io.Writer) error { return r.writeData(w, name, info) }},
	} {
		if err := writeMember(file, member.name, member.write); err != nil {
			return "", fmt.Errorf("package %s: %w", name, err)
		}
	}
	return file.Name(), nil
}

// memberHead is the size in bytes of the head of a member of an archive of ar.
const memberHead = 60

// writeMember writes one member of an archive of ar (deb(5)). Its head, which has the size, is written last.
func writeMember(file *os.File, name string, write func(io.Writer) error) error {
	start, err := file.Seek(memberHead, io.SeekCurrent)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(file, 1<<20)
	if err := errors.Join(write(buffered), buffered.Flush()); err != nil {
		return err
	}
	end, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	head := fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", end-start)
	if len(head) != memberHead {
		return fmt.Errorf("%s of %d bytes does not fit into a package", name, end-start)
	}
	if _, err := file.WriteAt([]byte(head), start-memberHead); err != nil {
		return err
	}
	if (end-start)%2 == 1 { // the next member begins at an even offset
		_, err = file.Write([]byte{'\n'})
	}
	return err
}

func (r *repacker) writeControl(w io.Writer, info, text string) error {
	out := tar.NewWriter(w)
	add := func(name string, mode uint32, data []byte) error {
		header := &tar.Header{Name: "./" + name, Typeflag: tar.TypeReg, Mode: int64(mode), Size: int64(len(data)),
			ModTime: time.Unix(0, 0), Format: tar.FormatGNU}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		_, err := out.Write(data)
		return err
	}
	if err := add("control", 0o644, []byte(text)); err != nil {
		return err
	}
	first, _ := r.tree.Index(info + ".")
	for _, e := range r.tree.Entries[first:] {
		member, ok := strings.CutPrefix(e.Path, info+".")
		if !ok {
			break
		}
		if member == "list" || strings.Contains(member, ".") || e.Type != tree.Regular {
			continue
		}
		data, err := r.tree.ReadFile(e.Path, maxInfoFile)
		if err != nil {
			return err
		}
		if err := add(member, e.Mode, data); err != nil {
			return err
		}
	}
	return out.Close()
}

// writeData writes the files of a package in the order of dpkg's list of them.
func (r *repacker) writeData(w io.Writer, name, info string) error {
	list, err := r.tree.ReadFile(info+".list", maxInfoFile)
	if err != nil {
		return err
	}
	paths := strings.Split(strings.TrimRight(string(list), "\n"), "\n")
	parents := map[string]bool{}
	for _, p := range paths {
		parents[path.Dir(p)] = true
	}
	out := tar.NewWriter(w)
	buffer := make([]byte, tarstream.CopyBuffer)
	for _, p := range paths {
		if err := r.writeFile(out, name, p, parents[p], buffer); err != nil {
			return fmt.Errorf("%q: %w", p, err)
		}
	}
	return out.Close()
}

func (r *repacker) writeFile(out *tar.Writer, name, listed string, parent bool, buffer []byte) (err error) {
	at := listed
	if moved, ok := r.diverted[at]; ok && moved.by != name {
		at = moved.to
	}
	e := r.find(at)
	switch {
	// What dpkg leaves out by its configuration (path-exclude) is in its list nevertheless.
	case e == nil && parent:
		e = &tree.Entry{Type: tree.Directory, Mode: 0o755, ModTime: time.Unix(0, 0)}
	case e == nil:
		e = &tree.Entry{Type: tree.Regular, Mode: 0o644, ModTime: time.Unix(0, 0), Digest: tree.Sum(nil)}
	case parent && e.Type != tree.Directory, listed == "/.":
		// /lib is a directory for packages, and a link in the tree.
		e = &tree.Entry{Type: tree.Directory, Mode: 0o755, ModTime: e.ModTime}
	}
	copied := *e
	copied.Path, copied.Xattrs = strings.TrimPrefix(listed, "/"), nil
	if r.foreignUsers[copied.UID] {
		copied.UID = 0
	}
	if r.foreignGroups[copied.GID] {
		copied.GID = 0
	}
	header := tarstream.Header(copied)
	header.Format = tar.FormatGNU // dpkg reads no other extensions
	if header.Name = "./" + header.Name; listed == "/." {
		header.Name = "./"
	}
	header.ModTime = header.ModTime.Truncate(time.Second)
	if err := out.WriteHeader(header); err != nil || e.Type != tree.Regular || e.Size == 0 {
		return err
	}
	file, err := r.tree.Content.Open(e.Digest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = io.CopyBuffer(out, file, buffer)
	return err
}

// find returns the entry of an absolute path, through links to directories; nil if there is none.
func (r *repacker) find(p string) *tree.Entry {
	if p == "/." {
		root, _ := r.tree.Lookup(tree.Root)
		return root
	}
	directory, err := r.tree.Resolve(strings.TrimPrefix(path.Dir(p), "/"))
	if path.Dir(p) == "/" {
		directory, err = &tree.Entry{Path: tree.Root}, nil
	}
	if err != nil {
		return nil
	}
	at := path.Join(directory.Path, path.Base(p))
	e, ok := r.tree.Lookup(at)
	if !ok {
		return nil
	}
	return e
}

package etcmerge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Baseline is what one stack has of all paths that are not of the OS alone: the old side of the next carry. It is on
// the private disk, because the layers of that stack may be gone by then: a stack may share none with the one before.
type Baseline struct {
	// Stack is the key of the stack (release.Stack.Key).
	Stack string
	// Unlisted is true if what the stack has is not known: only that this VM's /etc belongs to it.
	Unlisted bool
	// Partial is true if it is not known to which release this VM's files of CarriedByOS belong, because an agent that
	// did not carry them has refreshed the VM. The next carry brings all of them.
	Partial bool

	// entries are sorted by path. contents holds the files that are merged by content, by path.
	entries  []tree.Entry
	contents map[string][]byte
	// settled is the stack of the carry that was settled last when the baseline was written.
	settled string
	// ofComponents are the paths that components of the stack have and its base has not. left are those that stayed
	// here when their component went, as the component had them.
	ofComponents map[string]bool
	left         map[string]tree.Entry
	// purge are the paths that Purge has yet to remove, as a component had them.
	purge map[string]tree.Entry
}

// ErrBaseline means that there is no baseline, or none that can be used.
var ErrBaseline = errors.New("no usable baseline of /etc")

const (
	baselineName = "baseline"
	// baselineMagic begins the first line, which continues with the digest of everything after it.
	baselineMagic = "sharedos-baseline 1 "
	maxBaseline   = 64 << 20
)

// baselineHead is the second line of a baseline's file, as JSON. A contents list (package release) follows.
type baselineHead struct {
	Stack    string            `json:"stack"`
	Unlisted bool              `json:"unlisted,omitempty"`
	Partial  bool              `json:"partial,omitempty"`
	Settled  string            `json:"settled,omitempty"`
	Contents map[string][]byte `json:"contents,omitempty"`
	// OfComponents is sorted.
	OfComponents []string         `json:"of_components,omitempty"`
	Left         []*recordedEntry `json:"left,omitempty"`
	Purge        []*recordedEntry `json:"purge,omitempty"`
}

// mergedByContent reports whether a carry merges this file by its content, so that a baseline has to include that.
func mergedByContent(name string) bool { return accountFiles[name] != nil }

// inBaseline reports whether a carry looks at a path: whether it is not of the OS alone.
func inBaseline(name string) bool {
	return tree.OwnerOf(name) != tree.OwnedByOS && strings.Contains(name, "/")
}

// baselineTops are the directories of a release below which such paths are.
var baselineTops = []string{"etc", "var", "home", "root", "srv"}

// ListTree reads the baseline of a stack from its mounted tree.
func ListTree(name, stack string) (baseline *Baseline, err error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	entries := map[string]*tree.Entry{}
	for _, top := range baselineTops {
		if err := readBelow(root, top, entries); err != nil {
			return nil, fmt.Errorf("list %s: %w", name, err)
		}
	}
	b := &Baseline{Stack: stack, contents: map[string][]byte{}}
	for _, entry := range entries {
		if entry == nil || !inBaseline(entry.Path) {
			continue
		}
		if err := b.addContent(entry, root); err != nil {
			return nil, fmt.Errorf("list %s: %w", name, err)
		}
		b.entries = append(b.entries, *entry)
	}
	b.sort()
	return b, nil
}

func (b *Baseline) sort() {
	slices.SortFunc(b.entries, func(x, y tree.Entry) int { return tree.Compare(x.Path, y.Path) })
}

func (b *Baseline) addContent(entry *tree.Entry, root *os.Root) error {
	if entry.Type != tree.Regular || !mergedByContent(entry.Path) {
		return nil
	}
	data, err := readAt(root, entry.Path)
	if err == nil && tree.Sum(data) != entry.Digest {
		err = fmt.Errorf("the layers do not have at %s what the contents list says", entry.Path)
	}
	b.contents[entry.Path] = data
	return err
}

// Differences returns what a carry from this baseline to another one has to bring, parents first.
func (b *Baseline) Differences(next *Baseline) []Difference {
	var differences []Difference
	old, new := b.entries, next.entries
	for len(old) > 0 || len(new) > 0 {
		var order int
		switch {
		case len(old) == 0:
			order = 1
		case len(new) == 0:
			order = -1
		default:
			order = tree.Compare(old[0].Path, new[0].Path)
		}
		var was, is *tree.Entry
		if order <= 0 {
			was, old = &old[0], old[1:]
		}
		if order >= 0 {
			is, new = &new[0], new[1:]
		}
		switch {
		case was == nil:
			differences = append(differences, NewDifference(is.Path, nil, is))
		case is == nil:
			differences = append(differences, NewDifference(was.Path, was, nil))
		case !alike(was, is), b.Partial && tree.OwnerOf(is.Path) == tree.CarriedByOS:
			differences = append(differences, NewDifference(is.Path, was, is))
		}
	}
	return differences
}

// after returns the baseline of the stack to which the differences lead, whose tree is at root. base is the tree of its
// base, nil if the stack has no components. left are the paths that stay although the stack has them no more, and purge
// those that are removed once the carry is settled.
func (b *Baseline) after(differences []Difference, root, base *os.Root, stack string, left,
	purge []*tree.Entry) (*Baseline, error) {
	if b.Unlisted { // what /etc has of that stack stays unknown
		return &Baseline{Stack: b.Stack, Unlisted: true, settled: stack}, nil
	}
	next := &Baseline{Stack: stack, settled: stack, contents: map[string][]byte{}, ofComponents: map[string]bool{},
		left: maps.Clone(b.left)}
	if next.left == nil {
		next.left = map[string]tree.Entry{}
	}
	for _, entry := range left {
		next.left[entry.Path] = *entry
	}
	changed := map[string]bool{}
	for _, d := range differences {
		changed[d.Path] = true
		if d.New == nil || !inBaseline(d.Path) {
			continue
		}
		if err := next.addContent(d.New, root); err != nil {
			return nil, err
		}
		delete(next.left, d.Path)
		if base != nil {
			switch _, err := base.Lstat(d.Path); {
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
				next.ofComponents[d.Path] = true
			case err != nil:
				return nil, err
			}
		}
		entry := *clone(d.New)
		entry.Xattrs = carriedOnly(entry.Xattrs)
		next.entries = append(next.entries, entry)
	}
	for _, entry := range b.entries {
		if changed[entry.Path] {
			continue
		}
		next.entries = append(next.entries, entry)
		if base != nil && b.ofComponents[entry.Path] {
			next.ofComponents[entry.Path] = true
		}
		if data, has := b.contents[entry.Path]; has {
			next.contents[entry.Path] = data
		}
	}
	next.purge = b.toPurge(next, differences, purge)
	next.sort()
	return next, nil
}

// encode returns the content of the baseline's file.
func (b *Baseline) encode() ([]byte, error) {
	first := baselineHead{
		Stack: b.Stack, Unlisted: b.Unlisted, Partial: b.Partial, Settled: b.settled, Contents: b.contents,
		OfComponents: slices.Sorted(maps.Keys(b.ofComponents)),
	}
	for _, name := range slices.Sorted(maps.Keys(b.left)) {
		entry := b.left[name]
		first.Left = append(first.Left, recorded(&entry))
	}
	for _, name := range slices.Sorted(maps.Keys(b.purge)) {
		entry := b.purge[name]
		first.Purge = append(first.Purge, recorded(&entry))
	}
	head, err := json.Marshal(first)
	if err != nil {
		return nil, fmt.Errorf("encode the baseline of /etc: %w", err)
	}
	var body bytes.Buffer
	body.Write(append(head, '\n'))
	list := release.NewContentsWriter(&body)
	if err := list.Add(&tree.Entry{Path: tree.Root, Type: tree.Directory, Mode: 0o755}); err != nil {
		return nil, fmt.Errorf("encode the baseline of /etc: %w", err)
	}
	for i := range b.entries {
		if err := list.Add(&b.entries[i]); err != nil {
			return nil, fmt.Errorf("encode the baseline of /etc: %w", err)
		}
	}
	if _, err := list.Close(); err != nil {
		return nil, fmt.Errorf("encode the baseline of /etc: %w", err)
	}
	return append([]byte(baselineMagic+tree.Sum(body.Bytes()).Hex()+"\n"), body.Bytes()...), nil
}

// leftAlone reports whether a path is not in the upper directory, so that this VM has what its old stack had.
func (c Carrier) leftAlone(name string) bool {
	if c.Upper == "" {
		return false
	}
	_, err := os.Lstat(filepath.Join(c.Upper, name))
	return errors.Is(err, fs.ErrNotExist)
}

// Digest identifies what the baseline lists, whichever way it was made.
func (b *Baseline) Digest() string {
	sum := tree.NewHasher()
	for _, entry := range b.entries {
		entry.ModTime = time.Time{}
		if entry.Type == tree.Symlink {
			entry.Mode = 0
		}
		sum.Add(entry)
	}
	for _, name := range slices.Sorted(maps.Keys(b.contents)) {
		sum.Add(tree.Entry{Path: name, Digest: tree.Sum(b.contents[name])})
	}
	return sum.Digest().Hex()
}

// decodeHead reads a baseline's file up to its list. Everything that is wrong with it is ErrBaseline.
func decodeHead(data []byte) (b *Baseline, list []byte, err error) {
	first, rest, _ := bytes.Cut(data, []byte{'\n'})
	if string(first) != baselineMagic+tree.Sum(rest).Hex() {
		return nil, nil, fmt.Errorf("%w: it was not written to its end, or was changed", ErrBaseline)
	}
	line, list, _ := bytes.Cut(rest, []byte{'\n'})
	var head baselineHead
	if err := json.Unmarshal(line, &head); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrBaseline, err)
	}
	b = &Baseline{
		Stack: head.Stack, Unlisted: head.Unlisted, Partial: head.Partial,
		settled: head.Settled, contents: head.Contents,
		ofComponents: map[string]bool{}, left: map[string]tree.Entry{}, purge: map[string]tree.Entry{},
	}
	for _, entry := range head.Purge {
		if entry != nil && inBaseline(entry.Path) {
			b.purge[entry.Path] = *entry.entry()
		}
	}
	for _, name := range head.OfComponents {
		b.ofComponents[name] = true
	}
	for _, entry := range head.Left {
		if entry != nil {
			b.left[entry.Path] = *entry.entry()
		}
	}
	return b, list, nil
}

// decodeBaseline reads a baseline's file. Everything that is wrong with it is ErrBaseline.
func decodeBaseline(data []byte) (*Baseline, error) {
	b, list, err := decodeHead(data)
	if err != nil {
		return nil, err
	}
	reader := release.NewContentsReader(bytes.NewReader(list))
	for {
		entry, err := reader.Next()
		if errors.Is(err, io.EOF) && !errors.Is(err, release.ErrContents) {
			return b, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBaseline, err)
		}
		if entry.Path == tree.Root {
			continue
		}
		if !inBaseline(entry.Path) {
			return nil, fmt.Errorf("%w: it lists /%s", ErrBaseline, entry.Path)
		}
		b.entries = append(b.entries, *clone(&entry))
	}
}

// baselinePath is the file of the baseline at which /etc stands.
func (c Carrier) baselinePath() string { return filepath.Join(filepath.Dir(c.Record), baselineName) }

// Baseline reads the baseline at which /etc stands; ErrBaseline if there is none, or none that can be used. An
// agent of an earlier version settles a carry and writes no baseline: the one from before is outdated then.
func (c Carrier) Baseline() (*Baseline, error) { return c.readBaseline(decodeBaseline) }

// BaselineHead is Baseline without what it lists.
func (c Carrier) BaselineHead() (*Baseline, error) {
	return c.readBaseline(func(data []byte) (*Baseline, error) {
		baseline, _, err := decodeHead(data)
		return baseline, err
	})
}

func (c Carrier) readBaseline(decode func(data []byte) (*Baseline, error)) (*Baseline, error) {
	// A carry that is being settled has brought a baseline, which is not in its place yet.
	baseline, err := readBaseline(filepath.Join(c.settled().Record, baselineName), decode)
	if !errors.Is(err, fs.ErrNotExist) {
		return baseline, err
	}
	if baseline, err = readBaseline(c.baselinePath(), decode); err != nil {
		return nil, err
	}
	ends, found, err := c.Settled()
	if err != nil {
		return nil, err
	}
	if found && ends.To != baseline.Stack && ends.To != baseline.settled {
		return nil, fmt.Errorf("%w: it is of stack %s, and /etc was carried to stack %s since",
			ErrBaseline, baseline.Stack, ends.To)
	}
	return baseline, nil
}

func readBaseline(name string, decode func(data []byte) (*Baseline, error)) (*Baseline, error) {
	data, err := fileio.Read(name, maxBaseline)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fileio.ErrTooLong):
		return nil, fmt.Errorf("%w: %w", ErrBaseline, err)
	case err != nil:
		return nil, fmt.Errorf("read the baseline of /etc: %w", err)
	}
	return decode(data)
}

// WriteBaseline makes baseline the one at which /etc stands. When it returns nil the baseline is on the disk.
func (c Carrier) WriteBaseline(baseline *Baseline) error {
	ends, _, err := c.Settled()
	if err != nil {
		return err
	}
	written := *baseline
	written.settled = ends.To
	data, err := written.encode()
	if err != nil {
		return err
	}
	return fileio.Replace(c.baselinePath(), data, 0o600)
}

// placeBaseline makes the baseline of the carry that was settled the one at which /etc stands, unless that was done.
func (c Carrier) placeBaseline() error {
	err := os.Rename(filepath.Join(c.settled().Record, baselineName), c.baselinePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return fileio.SyncDirectory(filepath.Dir(c.Record))
}

// Entry returns what the stack has at a path, which is relative to the root; nil if it has nothing there.
func (b *Baseline) Entry(name string) *tree.Entry {
	at, found := slices.BinarySearchFunc(b.entries, name,
		func(e tree.Entry, name string) int { return tree.Compare(e.Path, name) })
	if !found {
		return nil
	}
	return clone(&b.entries[at])
}

package publish

import (
	"context"
	"crypto/sha256"
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

	"github.com/google/renameio/v2"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// The cache has a directory for each base, and in it an entry for each release that was built: a directory that is
// named after the inputs of the build. An entry is filled under another name, and renamed when everything in it is on
// disk. So it is complete or absent. It is checked nevertheless when it is read, and a damaged one is removed and built
// again.
const (
	// buildVersion changes whenever the same source yields another release than before.
	buildVersion = 8

	releasesDir   = "releases"
	componentsDir = "components"
	derivedDir    = "derived"
	newPrefix     = ".new-"

	recordFile   = "record.json"
	manifestFile = "manifest"
	layerFile    = "layer"
	contentsFile = "contents"
	imageFile    = "kernel"
	modulesFile  = "modules"

	maxRecordFile = 4 << 20
	// keepBuilt and keepUnchanged are how many of the newest entries of a base are kept.
	keepBuilt     = 4
	keepUnchanged = 64
	// keepDerived is how many derived releases of a kind are kept, and keepUsed how long one is
	// kept in any case after it was used: an apply uses what a plan has built.
	keepDerived = 16
	keepUsed    = 24 * time.Hour
)

// errMiss means that the cache has no usable entry for a key.
var errMiss = errors.New("not in the cache")

// cacheKey has the inputs of a build.
type cacheKey struct {
	Build       int
	Name        string
	Fingerprint string
	Previous    tree.Digest
	MaxChain    int
	MaxDelta    int
	PinAccounts bool
	// BuiltOn is the base release of a component; it is omitted for a base.
	BuiltOn tree.Digest `json:",omitzero"`
	// SharedSecrets is omitted if there are none, so that the key is the one of earlier versions.
	SharedSecrets []string `json:",omitempty"`
}

// record is what an entry of the cache has in addition to the release.
type record struct {
	// Unchanged is the id of the previous release if the source yields that one again.
	Unchanged *tree.Digest `json:"unchanged,omitempty"`
	// Layer is true if the release has a layer that the previous one does not have.
	Layer  bool    `json:"layer"`
	Change *Change `json:"change,omitempty"`
	// Secrets are files that the build has made and that the release does not have.
	Secrets []rootfs.Secret `json:"secrets,omitempty"`
	// Notes say what was corrected in what the source yields.
	Notes []string `json:"notes,omitempty"`
}

// cached is an entry of the cache that was checked.
type cached struct {
	directory string
	record    record
	manifest  *release.Manifest // nil if the record says Unchanged
	id        tree.Digest
}

// needsLower reports whether the release has layers that are not in the entry.
func (c *cached) needsLower(kind release.Kind) bool {
	if kind != release.Base && c.manifest != nil {
		return false // all of it is one layer
	}
	return c.manifest == nil || !c.record.Layer || len(c.manifest.Layers) > 1
}

// baseDir is the directory of a base, a component or a derived release.
func (p *Publisher) baseDir(name string) string {
	directory := releasesDir
	switch kind := p.kind(); {
	case kind == release.Component:
		directory = componentsDir
	case kind.Derived():
		directory = filepath.Join(derivedDir, string(kind))
	}
	return filepath.Join(p.Cache, directory, name)
}

func (p *Publisher) cachePath(key cacheKey) (string, error) {
	text, err := json.Marshal(key)
	if err != nil {
		return "", fmt.Errorf("name a cache entry: %w", err)
	}
	return filepath.Join(p.baseDir(key.Name), tree.Digest(sha256.Sum256(text)).Hex()), nil
}

// load returns the entry of a key; errMiss if there is none. It removes a damaged one.
func (p *Publisher) load(key cacheKey) (*cached, error) {
	path, err := p.cachePath(key)
	if err != nil {
		return nil, err
	}
	entry, err := readCached(path, p.kind(), key)
	switch {
	case errors.Is(err, fs.ErrNotExist) && entry == nil:
		return nil, errMiss
	case err != nil:
		p.log().Warn("a cache entry is damaged and will be built again", "path", path, "error", err)
		if err := os.RemoveAll(path); err != nil {
			return nil, fmt.Errorf("remove a damaged cache entry: %w", err)
		}
		return nil, errMiss
	}
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return nil, fmt.Errorf("mark a cache entry as used: %w", err)
	}
	return entry, nil
}

// readCached reads and checks an entry. If there is none, it returns nil and fs.ErrNotExist. With any other error it
// returns an entry that is not nil.
func readCached(path string, kind release.Kind, key cacheKey) (*cached, error) {
	if _, err := os.Stat(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return &cached{}, err
	}
	entry := &cached{directory: path}
	text, err := readBounded(filepath.Join(path, recordFile), maxRecordFile)
	if err != nil {
		return entry, err
	}
	if err := json.Unmarshal(text, &entry.record); err != nil {
		return entry, err
	}
	if unchanged := entry.record.Unchanged; unchanged != nil {
		if *unchanged != key.Previous || unchanged.IsZero() {
			return entry, fmt.Errorf("it is unchanged from %s, but follows %s", unchanged, key.Previous)
		}
		entry.id = *unchanged
		return entry, nil
	}
	encoded, err := readBounded(filepath.Join(path, manifestFile), release.MaxManifest)
	if err != nil {
		return entry, err
	}
	if entry.manifest, err = release.Decode(encoded); err != nil {
		return entry, err
	}
	entry.id = release.ID(encoded)
	m := entry.manifest
	if m.Kind != kind || m.Name != key.Name || m.Previous != key.Previous || m.BuiltOn != key.BuiltOn {
		return entry, fmt.Errorf("it is of %s %q after %s, not of %s %q after %s", m.Kind, m.Name, m.Previous,
			kind, key.Name, key.Previous)
	}
	if entry.record.Layer {
		// Publish verifies the layer before it uploads it.
		info, err := os.Stat(filepath.Join(path, layerFile))
		if err != nil {
			return entry, err
		}
		if top := m.Layers[len(m.Layers)-1]; info.Size() != top.Size {
			return entry, fmt.Errorf("the layer has %d bytes instead of %d", info.Size(), top.Size)
		}
	}
	for name, blob := range blobFiles(m) {
		if err := checkFile(filepath.Join(path, name), blob); err != nil {
			return entry, err
		}
	}
	return entry, nil
}

// blobFiles returns the blobs of a release by their file names in the cache.
func blobFiles(m *release.Manifest) map[string]release.Blob {
	files := map[string]release.Blob{contentsFile: m.Contents}
	if m.Kernel != nil {
		files[imageFile], files[modulesFile] = m.Kernel.Image, m.Kernel.Modules
	}
	return files
}

func checkFile(path string, blob release.Blob) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := io.Copy(io.Discard, release.Verified(file, blob)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func readBounded(path string, limit int64) (_ []byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return data, nil
}

// begin creates a directory for a new entry. It removes those of interrupted builds. The caller holds the lock of the
// base.
func (p *Publisher) begin(name string) (string, error) {
	parent := p.baseDir(name)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", fmt.Errorf("create the cache directory: %w", err)
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return "", fmt.Errorf("read the cache directory: %w", err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), newPrefix) {
			if err := os.RemoveAll(filepath.Join(parent, entry.Name())); err != nil {
				return "", fmt.Errorf("remove the files of an interrupted build: %w", err)
			}
		}
	}
	directory, err := os.MkdirTemp(parent, newPrefix)
	if err != nil {
		return "", fmt.Errorf("create a cache entry: %w", err)
	}
	return directory, nil
}

// commit renames a filled directory when everything in it is on disk, and returns its new path.
func (p *Publisher) commit(directory string, key cacheKey, r record) (string, error) {
	path, err := p.cachePath(key)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("write a cache entry: %w", err)
	}
	if err := writeFile(filepath.Join(directory, recordFile), text); err != nil {
		return "", fmt.Errorf("write a cache entry: %w", err)
	}
	// An existing entry was found damaged, or has the same content.
	if err := os.RemoveAll(path); err != nil {
		return "", fmt.Errorf("replace a cache entry: %w", err)
	}
	if err := errors.Join(syncDir(directory), os.Rename(directory, path), syncDir(filepath.Dir(path))); err != nil {
		return "", fmt.Errorf("write a cache entry: %w", err)
	}
	if err := p.prune(key.Name); err != nil {
		return "", err
	}
	return path, p.pruneDerived()
}

// complete writes the manifest of a release that was built in a directory, and makes the directory an entry.
func (p *Publisher) complete(directory string, key cacheKey, manifest *release.Manifest, r record) (*cached, error) {
	encoded, err := manifest.Encode()
	if err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(directory, manifestFile), encoded); err != nil {
		return nil, fmt.Errorf("write the manifest: %w", err)
	}
	path, err := p.commit(directory, key, r)
	if err != nil {
		return nil, err
	}
	return &cached{directory: path, record: r, manifest: manifest, id: release.ID(encoded)}, nil
}

// prune removes all but the newest entries of a base.
func (p *Publisher) prune(name string) error {
	parent := p.baseDir(name)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("remove old cache entries: %w", err)
	}
	used := map[string]time.Time{}
	var built, unchanged []string
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !entry.IsDir() || strings.HasPrefix(entry.Name(), newPrefix) {
			continue // it was removed meanwhile, or is no entry
		}
		path := filepath.Join(parent, entry.Name())
		used[path] = info.ModTime()
		if _, err := os.Stat(filepath.Join(path, manifestFile)); err == nil {
			built = append(built, path)
		} else {
			unchanged = append(unchanged, path)
		}
	}
	newestFirst := func(a, b string) int { return used[b].Compare(used[a]) }
	slices.SortFunc(built, newestFirst)
	slices.SortFunc(unchanged, newestFirst)
	for _, path := range slices.Concat(built[min(len(built), keepBuilt):],
		unchanged[min(len(unchanged), keepUnchanged):]) {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove old cache entries: %w", err)
		}
	}
	return nil
}

// pruneDerived removes derived releases that were not used for long. Each has a name of its own, so
// that prune keeps it.
func (p *Publisher) pruneDerived() error {
	if !p.kind().Derived() {
		return nil
	}
	parent := p.baseDir("")
	names, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("remove old cache entries: %w", err)
	}
	used := map[string]time.Time{}
	for _, name := range names {
		if !name.IsDir() {
			continue // a lock
		}
		path := filepath.Join(parent, name.Name())
		entries, err := os.ReadDir(path)
		if err != nil {
			continue // it was removed meanwhile
		}
		for _, one := range append(entries, name) {
			if info, err := one.Info(); err == nil && info.ModTime().After(used[path]) {
				used[path] = info.ModTime()
			}
		}
	}
	paths := slices.SortedFunc(maps.Keys(used), func(a, b string) int { return used[b].Compare(used[a]) })
	for _, path := range paths[min(len(paths), keepDerived):] {
		if time.Since(used[path]) > keepUsed {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("remove old cache entries: %w", err)
			}
		}
	}
	return nil
}

func writeFile(path string, data []byte) error {
	return renameio.WriteFile(path, data, 0o600, renameio.WithTempDir(filepath.Dir(path)))
}

func syncDir(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}

// rememberUnchanged adds an entry which says that a source yields the newest release, so that it need not be read
// again.
func (p *Publisher) rememberUnchanged(ctx context.Context, key cacheKey) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	directory, err := p.begin(key.Name)
	if err != nil {
		return err
	}
	if _, err := p.commit(directory, key, record{Unchanged: &key.Previous}); err != nil {
		return errors.Join(err, os.RemoveAll(directory))
	}
	return nil
}

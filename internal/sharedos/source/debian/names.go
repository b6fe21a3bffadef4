package debian

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
)

// ErrNoPackage means that none of the archives has a package that is to be installed.
var ErrNoPackage = errors.New("no archive has the package")

// maxIndex bounds a package index in bytes, compressed or not; that of Debian's main component has 60 MB.
const maxIndex = 512 << 20

// withNames runs build. At the same time it looks for the packages in the indexes of the archives, and ends build if
// one is missing: apt tells that only after it has read all indexes, in a step of its own.
func (in *input) withNames(ctx context.Context, progress source.Progress, build func(context.Context) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	looking, stop := context.WithCancel(ctx)
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		if missing := in.missing(looking); len(missing) > 0 {
			end(fmt.Errorf("%w %s: check its name, and the suite, components and repositories", ErrNoPackage,
				strings.Join(missing, ", ")))
		}
	}()
	err := build(ctx)
	stop()
	<-looked
	if cause := context.Cause(ctx); errors.Is(cause, ErrNoPackage) {
		progress("looking for the packages in the archives", 0, 0)
		return cause
	}
	return err
}

// missing returns the packages that no index has, also not as what a package provides. It is empty
// if an index cannot be read: apt tells why.
func (in *input) missing(ctx context.Context) []string {
	if len(in.packageFiles) > 0 || in.repositories {
		return nil // these may be the packages; and other archives may have indexes of their own for some
	}
	wanted := map[string]bool{}
	for _, name := range in.Packages {
		plain, _, _ := strings.Cut(name, "=")
		plain, _, _ = strings.Cut(plain, "/")
		if plain, arch, _ := strings.Cut(plain, ":"); arch == "" || arch == in.Architecture {
			wanted[plain] = true
		}
	}
	client, err := aptClient(ctx)
	if err != nil {
		return nil
	}
	for _, s := range in.Suites {
		for i, component := range s.Components {
			if len(wanted) == 0 || s.removeNames(ctx, client, component, s.Indexes[i], in.Architecture, wanted) != nil {
				return nil
			}
		}
	}
	return slices.Sorted(maps.Keys(wanted))
}

// removeNames removes from wanted what the index of a component has. The index must have a digest, compressed or not.
func (s suite) removeNames(ctx context.Context, client *http.Client, component, digest, arch string,
	wanted map[string]bool) error {
	var failures []error
	for _, compression := range []string{".xz", ".gz"} {
		found, err := indexNames(ctx, client,
			s.Site+"/dists/"+s.Name+"/"+component+"/binary-"+arch+"/Packages"+compression, digest, wanted)
		if err == nil {
			for _, name := range found {
				delete(wanted, name)
			}
			return nil
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

func indexNames(ctx context.Context, client *http.Client, address, digest string,
	wanted map[string]bool) (found []string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: the mirror answers %s", address, response.Status)
	}
	stored, plain := sha256.New(), sha256.New()
	in := io.TeeReader(io.LimitReader(response.Body, maxIndex), stored)
	unpacked, free, err := tarstream.Unpack(in)
	if err != nil {
		return nil, err
	}
	defer free()
	lines := bufio.NewScanner(io.TeeReader(io.LimitReader(unpacked, maxIndex), plain))
	lines.Buffer(make([]byte, 64<<10), 4<<20)
	for lines.Scan() {
		line := lines.Bytes()
		if name, ok := bytes.CutPrefix(line, []byte("Package: ")); ok {
			if text := string(bytes.TrimSpace(name)); wanted[text] {
				found = append(found, text)
			}
		} else if provided, ok := bytes.CutPrefix(line, []byte("Provides: ")); ok {
			for one := range bytes.SplitSeq(provided, []byte(",")) {
				text, _, _ := strings.Cut(strings.TrimSpace(string(one)), " ")
				if text, _, _ = strings.Cut(text, ":"); wanted[text] {
					found = append(found, text)
				}
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	if hex.EncodeToString(stored.Sum(nil)) != digest && hex.EncodeToString(plain.Sum(nil)) != digest {
		return nil, fmt.Errorf("%s: it is not the index of the Release file: %w", address, source.ErrCorrupt)
	}
	return found, nil
}

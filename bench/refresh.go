package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/probe"
)

// Paths and units of the benchmark in a guest. The paths are on the private disk, since the operating system
// changes.
const (
	guestDir  = "/root/bench"
	guestTool = guestDir + "/guest"
	guestList = guestDir + "/paths"
	guestSeen = guestDir + "/seen"
)

// refresh patches the VMs while a reader in each of them opens files all the time, and a client uses a service that
// the patch does not affect.
func (f *fleet) refresh(ctx context.Context) error {
	before, err := f.release(ctx)
	if err != nil {
		return err
	}
	f.work.Variables["additional_suites"] = []string{"trixie-updates", "trixie-security"}
	// The base is published first, because the reader needs to know the files of both releases.
	if _, err := f.apply(ctx, "-target=sharedos_base.debian"); err != nil {
		return err
	}
	after, err := f.release(ctx)
	if err != nil {
		return err
	}
	paths, err := f.delta(ctx, before, after)
	if err != nil {
		return err
	}
	probes := map[string]*probe.Probe{}
	defer func() {
		for _, p := range probes {
			p.Stop()
		}
	}()
	for name, at := range f.vms {
		f.tell("starting a reader and a service in " + name)
		if err := f.occupy(ctx, at, paths); err != nil {
			return err
		}
		if probes[name], err = probe.TCP(ctx, at.greeter(), 5*time.Millisecond); err != nil {
			return err
		}
	}
	if _, err := f.apply(ctx); err != nil {
		return err
	}
	var opens guestOpens
	for name, at := range f.vms {
		seen := probes[name].Stop()
		delete(probes, name)
		f.results.add("failed requests, unaffected service, "+name, float64(seen.Failures), "requests", 0, 0)
		f.tell(fmt.Sprintf("%s: %d requests, longest gap %s, first failure: %v", name, seen.Requests,
			seen.LongestGap, seen.FirstFailure))
		if err := f.collect(ctx, at, &opens); err != nil {
			return err
		}
	}
	f.tell(fmt.Sprintf("the readers opened %d files, first failure: %q", opens.Opens, opens.First))
	if opens.Opens < 1000 {
		return fmt.Errorf("the readers opened %d files only: that shows nothing", opens.Opens)
	}
	f.results.add("failed opens over the swaps", float64(opens.Failed), "opens", 0, 0)
	return nil
}

// delta compares the size of the second release's layer with that of the files that differ. It returns paths for
// the reader: files of both releases, some changed, some not.
func (f *fleet) delta(ctx context.Context, before, after tree.Digest) ([]string, error) {
	old, err := f.contents(ctx, before)
	if err != nil {
		return nil, err
	}
	const perKind = 200
	var changed, same []string
	var changedBytes int64
	entries, err := f.contents(ctx, after)
	if err != nil {
		return nil, err
	}
	for path, entry := range entries {
		if entry.Type != tree.Regular {
			continue
		}
		was, existed := old[path]
		kind := &same
		if !existed || was.Digest != entry.Digest {
			changedBytes += entry.Size
			kind = &changed
		}
		if existed && was.Type == tree.Regular && strings.HasPrefix(path, "usr/") && len(*kind) < perKind {
			*kind = append(*kind, "/"+path)
		}
	}
	if changedBytes == 0 {
		return nil, errors.New("the archive's security and updates suites change nothing: there is no patch to measure")
	}
	manifest, err := f.host.Publisher.Get(ctx, after)
	if err != nil {
		return nil, err
	}
	top := manifest.Layers[len(manifest.Layers)-1]
	f.results.add("delta of the patch, hash tree included", float64(top.Size), "bytes", float64(changedBytes),
		1.15*float64(changedBytes))
	return append(changed, same...), nil
}

// contents reads a release's contents list, by path.
func (f *fleet) contents(ctx context.Context, id tree.Digest) (map[string]tree.Entry, error) {
	manifest, err := f.host.Publisher.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	blob, err := f.host.Store.GetBlob(ctx, manifest.Contents)
	if err != nil {
		return nil, err
	}
	entries := map[string]tree.Entry{}
	reader := release.NewContentsReader(bytes.NewReader(blob))
	for {
		entry, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		entries[entry.Path] = entry
	}
}

// occupy starts the reader and the service in a guest.
func (f *fleet) occupy(ctx context.Context, at endpoint, paths []string) (err error) {
	tool, err := os.Open(f.tool)
	if err != nil {
		return fmt.Errorf("open the program for the guests: %w", err)
	}
	defer func() { _ = tool.Close() }() // it was only read
	for _, step := range []struct {
		command string
		stdin   io.Reader
	}{
		{"mkdir -p " + guestSeen + " && cat > " + guestTool + " && chmod 755 " + guestTool, tool},
		{"cat > " + guestList, strings.NewReader(strings.Join(paths, "\n") + "\n")},
		{"systemd-run --unit=bench-greeter " + guestTool + " serve 8007", nil},
		{"systemd-run --unit=bench-reader " + guestTool + " read " + guestList + " " + guestSeen, nil},
	} {
		if _, err := f.key.Run(ctx, at.ssh(), step.command, step.stdin); err != nil {
			return err
		}
	}
	return nil
}

// guestOpens is the result that command guest writes for a reader.
type guestOpens struct {
	Opens  int64  `json:"opens"`
	Failed int64  `json:"failed"`
	First  string `json:"first"`
}

// collect ends the reader of a guest and adds its result.
func (f *fleet) collect(ctx context.Context, at endpoint, total *guestOpens) error {
	text, err := f.key.Run(ctx, at.ssh(), "systemctl stop bench-reader && cat "+guestSeen+"/*", nil)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	for {
		var seen guestOpens
		if err := decoder.Decode(&seen); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read what the reader in the guest saw: %w", err)
		}
		total.Opens += seen.Opens
		total.Failed += seen.Failed
		if total.First == "" {
			total.First = seen.First
		}
	}
}

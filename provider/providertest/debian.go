package providertest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/addition"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

// Kernels of the systems that a debian source results in, without and with additional suites.
const (
	MainKernel    = "6.12.1-cloud-amd64"
	PatchedKernel = "6.12.2-cloud-amd64"
)

// SetDebianArchive sets a text that stands for the content of Debian's archive. Another text is another input of a
// debian source, which results in another system.
func (w *World) SetDebianArchive(content string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.archive = content
}

// Built returns how often a source was read.
func (w *World) Built() int { return int(w.built.Load()) }

// counted counts how often a source is read.
type counted struct {
	source.Source
	count *atomic.Int64
}

func (c counted) Open(ctx context.Context, progress source.Progress) (io.ReadCloser, error) {
	c.count.Add(1)
	return c.Source.Open(ctx, progress)
}

// String names the source.
func (c counted) String() string { return fmt.Sprint(c.Source) }

// TarLimits returns the limits of the source.
func (c counted) TarLimits() source.Limits {
	if limited, ok := c.Source.(interface{ TarLimits() source.Limits }); ok {
		return limited.TarLimits()
	}
	return source.Limits{}
}

// readable replaces a debian source, which would download packages, by one that makes a small system, and a debian
// addition by one that adds small packages. Others are used as they are.
func (w *World) readable(spec publish.Spec) publish.Spec {
	w.mu.Lock()
	defer w.mu.Unlock()
	if made, ok := spec.Source.(*debian.Source); ok {
		spec.Source = smallDebian{made, w.archive}
	}
	if made, ok := spec.Addition.(debian.Addition); ok {
		spec.Addition = addition.Files{Source: smallPackages{smallDebian{made.Source, w.archive}}}
	}
	if spec.Source != nil {
		spec.Source = counted{spec.Source, &w.built}
	}
	if spec.Addition != nil {
		spec.Addition = countedAddition{spec.Addition, &w.built}
	}
	return spec
}

// countedAddition counts how often the source of an addition is read.
type countedAddition struct {
	source.Addition
	count *atomic.Int64
}

func (c countedAddition) On(ctx context.Context, base source.Base) (source.Source, error) {
	on, err := c.Addition.On(ctx, base)
	return counted{on, c.count}, err
}

// smallPackages has a file, a unit and a list of files for each package. It does not change the package database of the
// base, so that two components with different packages go together.
type smallPackages struct{ smallDebian }

// Open implements source.Source.
func (d smallPackages) Open(ctx context.Context, progress source.Progress) (io.ReadCloser, error) {
	files := sourcetest.System{}
	for _, name := range d.Packages {
		files["usr/bin/"+name] = "component " + d.archive
		files["usr/lib/systemd/system/"+name+".service"] = "[Service]\nExecStart=/usr/bin/" + name + "\n"
	}
	progress("mmdebstrap: installing", 1, 2)
	stream, err := files.Tar()
	return io.NopCloser(bytes.NewReader(stream)), err
}

type smallDebian struct {
	*debian.Source
	archive string
}

func (d smallDebian) patched() bool { return d.AdditionalSuites == nil || len(d.AdditionalSuites) > 0 }

// Fingerprint implements source.Source.
func (d smallDebian) Fingerprint(ctx context.Context) (string, error) {
	local, err := d.LocalFingerprint(ctx)
	if err != nil {
		return "", err
	}
	inputs, err := json.Marshal([]any{
		d.Suite, d.patched(), d.Components, slices.Sorted(slices.Values(d.Packages)), d.Mirror,
		d.Triggers, d.archive, local,
	})
	return string(inputs), err
}

// Open implements source.Source.
func (d smallDebian) Open(ctx context.Context, progress source.Progress) (io.ReadCloser, error) {
	kernel, version := MainKernel, "1-main"
	if d.patched() {
		kernel, version = PatchedKernel, "1-patched"
	}
	system := sourcetest.NewSystem(kernel)
	if !slices.Contains(d.Packages, "ifupdown") {
		system["usr/lib/systemd/systemd-networkd"] = "networkd"
	}
	for _, name := range slices.Sorted(slices.Values(d.Packages)) {
		system.Install(name, version)
		system["usr/bin/"+name] = version + " " + d.archive
	}
	local, err := d.LocalFingerprint(ctx)
	if err != nil {
		return nil, err
	}
	if local != "" {
		system["usr/share/local"] = local
	}
	progress("mmdebstrap: installing", 1, 2)
	stream, err := system.Tar()
	return io.NopCloser(bytes.NewReader(stream)), err
}

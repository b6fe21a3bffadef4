package addition_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/addition"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// lay lays items over a small base and returns the whole tree.
func lay(t *testing.T, items ...sourcetest.Item) (*tree.Tree, error) {
	t.Helper()
	base := sourcetest.ReadTar(t, sourcetest.Tar(t,
		sourcetest.Link("lib", "usr/lib"), sourcetest.Dir("usr/lib"), sourcetest.File("usr/bin/app", "1"),
		sourcetest.File("etc/app.conf", "base"),
		sourcetest.Link("etc/alias", "app.conf")))
	from, err := addition.Files{Source: sourcetest.Bytes(sourcetest.Tar(t, items...))}.On(t.Context(),
		source.Base{Name: "os", Tree: base})
	sourcetest.Must(t, err)
	read, closed, err := sourcetest.Read(t, from)
	if err == nil {
		t.Cleanup(func() { sourcetest.Must(t, closed()) })
	}
	return read, err
}

func text(t *testing.T, of *tree.Tree, path string) string {
	t.Helper()
	data, err := of.ReadFile(path, 1<<10)
	sourcetest.Must(t, err)
	return string(data)
}

func TestFilesAreLaidOverABase(t *testing.T) {
	opt := sourcetest.Dir("usr")
	opt.Mode, opt.Uid = 0o700, 1000 // as the owner of an archive has it
	whole, err := lay(t, opt, sourcetest.File("usr/bin/app", "2"), sourcetest.File("opt/new/file", "new"),
		sourcetest.File("etc/alias", "own"))
	sourcetest.Must(t, err)
	if got := text(t, whole, "usr/bin/app") + text(t, whole, "opt/new/file") + text(t, whole, "etc/app.conf") +
		text(t, whole, "etc/alias"); got != "2newbaseown" {
		t.Errorf("the files have %q", got)
	}
	usr, ok := whole.Lookup("usr")
	if !ok || usr.Mode != 0o755 || usr.UID != 0 {
		t.Errorf("a directory of the base has mode %o and owner %d", usr.Mode, usr.UID)
	}
	if added, ok := whole.Lookup("opt/new"); !ok || added.Type != tree.Directory {
		t.Error("a directory of the component is missing")
	}
}

// An error names what the user has given.
func TestFilesHaveTheNameOfTheirSource(t *testing.T) {
	given := archive.Source{Path: "/srv/component.tar"}
	from, err := addition.Files{Source: given}.On(t.Context(), source.Base{Name: "os"})
	sourcetest.Must(t, err)
	if got, want := fmt.Sprint(from), fmt.Sprint(given); got != want {
		t.Errorf("it is named %q, want %q", got, want)
	}
}

func TestWhatWouldHideTheBaseIsRefused(t *testing.T) {
	for name, items := range map[string][]sourcetest.Item{
		"/usr/bin": {sourcetest.File("usr/bin", "x")},
		"/lib":     {sourcetest.Dir("lib"), sourcetest.File("lib/x.so", "x")},
		"/lib ":    {sourcetest.Link("lib", "opt/lib")},
	} {
		_, err := lay(t, items...)
		if !errors.Is(err, source.ErrRefused) || !strings.Contains(err.Error(), strings.TrimSpace(name)+" is a ") ||
			!strings.Contains(err.Error(), `"os"`) {
			t.Errorf("%v: got %v, want ErrRefused that names %s", slices.Collect(names(items)), err, name)
		}
	}
}

func names(items []sourcetest.Item) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, item := range items {
			if !yield(item.Name) {
				return
			}
		}
	}
}

package publish

import (
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
)

const privateKey = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"

// A key that each build makes anew is in no release, so that it does not make one, and the cache knows it, too.
func TestASecretOfABuildIsInNoReleaseAndMakesNone(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	paths := func(prepared *Prepared) (all []string) {
		for _, s := range prepared.Secrets {
			all = append(all, s.Path)
		}
		return all
	}
	want := []string{"etc/app.key"}
	first := publish(t, p, newSystem().With("etc/app.key", privateKey))
	if !slices.Equal(paths(first), want) {
		t.Errorf("left out are %v", paths(first))
	}
	// Publish moves the entry of the cache on, so the next release is prepared twice: built, and from the cache.
	next := sourceOf(t, newSystem().With("etc/app.key", strings.Replace(privateKey, "AAAA", "BBBB", 1),
		"usr/bin/server", "version 2"))
	for range 2 {
		if prepared := prepare(t, p, next); !slices.Equal(paths(prepared), want) || prepared.Unchanged {
			t.Errorf("left out are %v, unchanged: %v", paths(prepared), prepared.Unchanged)
		}
	}
	if next.opened.Load() != 1 {
		t.Errorf("the source was read %d times", next.opened.Load())
	}
	same := sourceOf(t, newSystem().With("etc/app.key", strings.Replace(privateKey, "AAAA", "CCCC", 1)))
	for range 2 {
		if prepared := prepare(t, p, same); !prepared.Unchanged || !slices.Equal(paths(prepared), want) {
			t.Errorf("another key makes a release: %+v, left out are %v", prepared.Change, paths(prepared))
		}
	}
	shared, err := p.Prepare(t.Context(), Spec{Name: "os", Source: same, SharedSecrets: []string{"/etc/app.key"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if shared.Unchanged || len(shared.Secrets) > 0 || shared.Change.Added.Entries != 1 {
		t.Errorf("shared: %+v, left out are %v", shared.Change, paths(shared))
	}
}

func TestTextsOfSecretsSayWhoMakesThem(t *testing.T) {
	got := rootfs.SecretsText([]rootfs.Secret{{Path: "etc/a", What: "key", Made: true},
		{Path: "etc/b", What: "password"}})
	if want := []string{"/etc/a (key): each VM makes its own", "/etc/b (password)"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

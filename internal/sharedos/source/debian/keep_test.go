package debian_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// What a build has fetched is kept by digest and name, and nothing else in the same directory is.
func TestDebianKeepsWhatWasFetched(t *testing.T) {
	w := newDebianWorld(t)
	d := w.source()
	packages := filepath.Join(d.CacheDir, "packages")
	sourcetest.Must(t, os.MkdirAll(filepath.Join(packages, ".fetched"), 0o700))
	sourcetest.Must(t, os.WriteFile(filepath.Join(packages, ".fetched", "torn_1_all.deb"), []byte("half"), 0o600))
	w.mmdebstrap(sourcetest.Tar(t, sourcetest.Bootable("6.1")...), fmt.Sprintf(
		"cd %s/.fetched\necho a >a_1%%3a2_all.deb\n>lock\n/bin/mkdir partial\n/bin/ln -s /etc/shadow b_1_all.deb",
		packages))
	_, err := sourcetest.ReadSystem(t, d, nil)
	sourcetest.Must(t, err)
	kept, err := os.ReadDir(packages)
	sourcetest.Must(t, err)
	if want := tree.Sum([]byte("a\n")).Hex() + "_a_1%3a2_all.deb"; len(kept) != 1 || kept[0].Name() != want {
		t.Errorf("kept %v, want %s", kept, want)
	}
}

// The hook gives apt what the indexes name by digest, under the name that apt looks for, and nothing else.
func TestKeepHookGivesWhatTheIndexesName(t *testing.T) {
	bin, root, packages := t.TempDir(), t.TempDir(), t.TempDir()
	keep := func(name, content, named string) string {
		if named == "" {
			named = tree.Sum([]byte(content)).Hex()
		}
		sourcetest.Must(t, os.WriteFile(filepath.Join(packages, named+"_"+name), []byte(content), 0o600))
		return named
	}
	stanza := func(name, version, arch, digest string) string {
		return fmt.Sprintf("Package: %s\nArchitecture: %s\nVersion: %s\nDepends: x (= 1)\nSize: 3\nSHA256: %s\n\n",
			name, arch, version, digest)
	}
	lists := stanza("good", "1:2+b1", "all", keep("good_1%3a2+b1_all.deb", "good", "")) +
		stanza("older", "2", "all", tree.Sum([]byte("newer")).Hex()) +
		stanza("twice", "1", "all", keep("twice_1_all.deb", "twice", "")) +
		stanza("twice", "1", "all", strings.Repeat("1", 64)) +
		stanza("same", "1", "all", keep("same_1_all.deb", "same", "")) +
		stanza("same", "1", "all", tree.Sum([]byte("same")).Hex()) +
		stanza("spoilt", "1", "all", keep("spoilt_1_all.deb", "spoilt", strings.Repeat("2", 64)))
	keep("older_1_all.deb", "older", "")
	list := filepath.Join(root, "list")
	sourcetest.Must(t, os.WriteFile(list, []byte(lists), 0o600))
	// mmdebstrap takes an update for complete if these are there.
	sourcetest.Must(t, os.MkdirAll(filepath.Join(root, "var/cache/apt"), 0o700))
	run := func(update string) {
		t.Helper()
		script := fmt.Sprintf(
			"#!/bin/sh\ncase $1 in update) >%[1]s/var/cache/apt/pkgcache.bin; %[2]s ;; *) echo %[3]s ;; esac\n", root,
			update, list)
		sourcetest.Must(t, os.WriteFile(filepath.Join(bin, "apt-get"), []byte(script), 0o700))
		cmd := exec.CommandContext(t.Context(), "sh", "-c", debian.KeepScript, "keep.sh", root, packages)
		cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "MMDEBSTRAP_APT_CONFIG=/dev/null"}
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	}
	given := func() string {
		found, err := filepath.Glob(filepath.Join(root, "var/cache/apt/archives/*"))
		sourcetest.Must(t, err)
		for i := range found {
			found[i] = filepath.Base(found[i])
		}
		return strings.Join(found, " ")
	}
	run("false")
	if _, err := os.Stat(filepath.Join(root, "var/cache/apt/pkgcache.bin")); err == nil || given() != "" {
		t.Errorf("after an update that failed: apt has %q, and its cache seems complete: %v", given(), err == nil)
	}
	run("true")
	if want := "good_1%3a2+b1_all.deb same_1_all.deb"; given() != want {
		t.Errorf("apt has %q, want %q", given(), want)
	}
	listed, err := os.ReadFile(filepath.Join(root, "var/cache/apt/kept"))
	if err != nil || len(strings.Fields(string(listed))) != 2 {
		t.Errorf("listed as kept: %q, %v", listed, err)
	}
}

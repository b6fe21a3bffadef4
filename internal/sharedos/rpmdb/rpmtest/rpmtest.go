// Package rpmtest has databases for tests that rpm itself wrote. It needs rpm and rpmbuild.
package rpmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Database has rpm build packages and install them into a database of their own, and returns the database's file.
func Database(t testing.TB, specs ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	run := func(name string, arguments ...string) {
		t.Helper()
		command := exec.CommandContext(t.Context(), name, arguments...)
		command.Env = append(os.Environ(), "HOME="+dir)
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v: %s", name, strings.Join(arguments, " "), err, output)
		}
	}
	for i, spec := range specs {
		path := filepath.Join(dir, fmt.Sprintf("%d.spec", i))
		if err := os.WriteFile(path,
			[]byte(spec+"License: none\nSummary: test\n%description\n%files\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		run("rpmbuild", "-bb", "--quiet", "--define", "_topdir "+dir, "--define",
			"_rpmdir "+filepath.Join(dir, "rpms"), path)
	}
	built, err := filepath.Glob(filepath.Join(dir, "rpms", "*", "*.rpm"))
	if err != nil || len(built) != len(specs) {
		t.Fatalf("%d packages of %d, %v", len(built), len(specs), err)
	}
	db := filepath.Join(dir, "db")
	run("rpm", append([]string{"--dbpath", db, "--define", "_db_backend sqlite", "-i", "--nodeps", "--justdb",
		"--ignorearch", "--force"}, built...)...)
	file, err := os.ReadFile(filepath.Join(db, "rpmdb.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Spec is what a package without architecture is built from; more are further lines.
func Spec(name, version, release, more string) string {
	return fmt.Sprintf("Name: %s\nVersion: %s\nRelease: %s\nBuildArch: noarch\n%s", name, version, release, more)
}

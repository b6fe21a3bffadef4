package main

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a program in a directory and returns what it says.
func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, args...)
	command.Dir = dir
	said, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, said)
	}
	return string(said)
}

// copySource copies the files of the repository into a new directory below another one.
func copySource(t *testing.T, below string) string {
	t.Helper()
	root := strings.TrimSpace(run(t, ".", "git", "rev-parse", "--show-toplevel"))
	files := run(t, root, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	to := filepath.Join(t.TempDir(), below)
	for file := range strings.SplitSeq(strings.TrimRight(files, "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(root, file))
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		}
		must(t, err)
		must(t, os.MkdirAll(filepath.Join(to, filepath.Dir(file)), 0o755))
		must(t, os.WriteFile(filepath.Join(to, file), content, 0o600))
	}
	return to
}

// newKey makes a signing key in a GnuPG of its own, which the programs of this test use.
func newKey(t *testing.T) string {
	t.Helper()
	home, err := os.MkdirTemp("", "gnupg") // short: gpg-agent makes sockets in it
	must(t, err)
	t.Setenv("GNUPGHOME", home)
	t.Cleanup(func() {
		// The context of the test has ended.
		must(t, errors.Join(exec.CommandContext(context.WithoutCancel(t.Context()), "gpgconf", "--kill", "all").Run(),
			os.RemoveAll(home)))
	})
	run(t, ".", "gpg", "--batch", "--passphrase", "", "--quick-generate-key", "release@example.net",
		"ed25519", "sign", "never")
	return "release@example.net"
}

// Two builds in different directories are the same bit by bit, and are what a registry takes.
func TestAReleaseIsReproducible(t *testing.T) {
	key := newKey(t)
	var dirs []string
	for _, below := range []string{"a", "another/directory/with a space"} {
		source := copySource(t, below)
		made, err := makeRelease(t.Context(),
			options{version: "v1.2.3", key: key, source: source, out: filepath.Join(source, "bin/release")})
		must(t, err)
		dirs = append(dirs, made)
	}
	const prefix = "terraform-provider-sharedos_1.2.3_"
	for _, name := range []string{prefix + "linux_amd64.zip", prefix + "manifest.json", prefix + "SHA256SUMS"} {
		first, err := os.ReadFile(filepath.Join(dirs[0], name))
		must(t, err)
		second, err := os.ReadFile(filepath.Join(dirs[1], name))
		must(t, err)
		if !bytes.Equal(first, second) {
			t.Errorf("two builds differ in %s", name)
		}
	}
	run(t, dirs[0], "sha256sum", "--check", "--strict", prefix+"SHA256SUMS")
	run(t, dirs[0], "gpg", "--batch", "--verify", prefix+"SHA256SUMS.sig", prefix+"SHA256SUMS")
	if files, err := os.ReadDir(dirs[0]); err != nil || len(files) != 4 {
		t.Errorf("the release has %v, %v", files, err)
	}

	archive, err := zip.OpenReader(filepath.Join(dirs[0], prefix+"linux_amd64.zip"))
	must(t, err)
	defer func() { _ = archive.Close() }() // it was only read
	var names []string
	for _, file := range archive.File {
		names = append(names, file.Name)
	}
	if strings.Join(names, " ") != "terraform-provider-sharedos_v1.2.3 LICENSE" || archive.File[0].Mode() != 0o755 {
		t.Fatalf("the zip has %q, the first with mode %v", names, archive.File[0].Mode())
	}
	unpacked := t.TempDir()
	must(t, os.CopyFS(unpacked, archive))
	provider := filepath.Join(unpacked, names[0])
	must(t, os.Chmod(provider, 0o755)) //nolint:gosec // it is a program
	if said := run(t, unpacked, provider, "report", "--help"); !strings.Contains(said,
		"Usage: terraform-provider-sharedos report") {
		t.Errorf("the provider says %s", said)
	}
	content, err := os.ReadFile(provider)
	must(t, err)
	if bytes.Contains(content, []byte(dirs[0])) || !bytes.Contains(content, []byte("1.2.3")) {
		t.Error("the provider has the directory that it was built in, or lacks its version")
	}
}

func TestAReleaseNeedsAVersionAndAKey(t *testing.T) {
	newKey(t)
	taken := t.TempDir()
	must(t, os.Mkdir(filepath.Join(taken, "1.2.3"), 0o755))
	for _, c := range []struct {
		o    options
		said string
	}{
		{options{version: "5f21c61-dirty", key: "k"}, "VERSION=1.2.3"},
		{options{version: "1.2", key: "k"}, "VERSION=1.2.3"},
		{options{version: "1.2.3"}, "KEY="},
		{options{version: "1.2.3", key: "k", out: taken}, "1.2.3 exists"},
	} {
		if _, err := makeRelease(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.said) {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
	file := filepath.Join(t.TempDir(), "sums")
	must(t, os.WriteFile(file, nil, 0o600))
	if err := sign(t.Context(), "nobody@example.net", file); err == nil ||
		!strings.Contains(err.Error(), "nobody@example.net") {
		t.Errorf("a key that is not there: %v", err)
	}
}

// terraform init finds what make install-plugin has put where it looks by itself. The test installs
// no provider: init does not run it.
func TestInitFindsTheInstalledPlugin(t *testing.T) {
	terraform := os.Getenv("TERRAFORM")
	for _, program := range []string{"terraform", "tofu"} {
		if found, err := exec.LookPath(program); err == nil && terraform == "" {
			terraform = found
		}
	}
	if terraform == "" {
		t.Fatal("neither terraform nor tofu is in PATH")
	}
	t.Setenv("TF_CLI_CONFIG_FILE", os.DevNull)
	home, work := t.TempDir(), t.TempDir()
	provider := filepath.Join(t.TempDir(), "provider")
	must(t, os.WriteFile(provider, []byte("provider"), 0o755)) //nolint:gosec // it is a program
	for _, version := range []string{"abcdef0-dirty", "v1.2.3"} {
		run(t, "..", "make", "-o", "build", "install-plugin", "PROVIDER="+provider, "VERSION="+version,
			"PLUGINS="+filepath.Join(home, ".terraform.d/plugins"))
		must(t, os.WriteFile(filepath.Join(work, "main.tf"),
			[]byte("terraform {\n  required_providers {\n    sharedos = { source = \"sharedos/sharedos\" }\n  }\n}\n"),
			0o600))
		t.Setenv("HOME", home)
		want := "0.0.1"
		if strings.HasPrefix(version, "v") {
			want = version[1:]
		}
		if said := run(t, work, terraform, "init", "-upgrade", "-no-color"); !strings.Contains(said,
			"sharedos/sharedos v"+want) {
			t.Errorf("with version %s, init says %s", version, said)
		}
	}
}

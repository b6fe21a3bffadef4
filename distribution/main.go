// Command distribution makes the files of a version that a registry of Terraform providers takes: a zip with
// the provider for linux/amd64, a manifest, their SHA-256 sums, and a detached OpenPGP signature of the sums.
//
// Everything but the signature is reproducible bit by bit: it depends on the source, the version
// and the version of Go, and neither on the directory nor on the time of the build.
//
//	distribution -version 1.2.3 -key FINGERPRINT [-source DIRECTORY] [-out DIRECTORY]
package main

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	program  = "terraform-provider-sharedos"
	platform = "linux_amd64"
	// manifest says that the provider speaks version 6 of Terraform's plugin protocol (docs of the
	// Terraform Registry, "Publishing").
	manifest = "{\n  \"version\": 1,\n  \"metadata\": {\n    \"protocol_versions\": [\"6.0\"]\n  }\n}\n"
	agent    = "internal/sharedos/bootimage/agent/agent-linux-amd64"
)

// semantic matches a version as https://semver.org has it, without build metadata, which registries do not take.
var semantic = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)

// options say what is made.
type options struct {
	version string
	// key names the signing key in the caller's GnuPG, best by its fingerprint.
	key string
	// source is the directory with the source, and out the one that gets a directory named after the version.
	source, out string
}

func main() {
	log.SetFlags(0)
	var o options
	flag.StringVar(&o.version, "version", "", "version, such as 1.2.3")
	flag.StringVar(&o.key, "key", "", "fingerprint of the OpenPGP key that signs")
	flag.StringVar(&o.source, "source", ".", "`directory` with the source")
	flag.StringVar(&o.out, "out", "bin/release", "`directory` that gets a directory with the files")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	made, err := makeRelease(ctx, o)
	if err != nil {
		log.Fatalf("Unable to make the release: %v", err)
	}
	fmt.Println(made)
}

// makeRelease makes the files and returns their directory, which appears when all of them are complete.
func makeRelease(ctx context.Context, o options) (_ string, err error) {
	o.version = strings.TrimPrefix(o.version, "v")
	if !semantic.MatchString(o.version) {
		return "", fmt.Errorf("%q is not a version of the form 1.2.3: name one, with VERSION=1.2.3", o.version)
	}
	if o.key == "" {
		return "", errors.New(
			"no key is named that signs: name one of yours (gpg --list-secret-keys), with KEY=<fingerprint>")
	}
	final := filepath.Join(o.out, o.version)
	if _, err := os.Stat(final); !errors.Is(err, os.ErrNotExist) {
		return "", errors.Join(fmt.Errorf("%s exists: a version is made once; remove it if it was not published",
			final), err)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(o.out, ".making-*")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	sums, err := unsigned(ctx, o, dir)
	if err != nil {
		return "", err
	}
	if err := sign(ctx, o.key, sums); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	return final, os.Rename(dir, final)
}

// unsigned makes everything but the signature in a directory, and returns the path of the sums.
func unsigned(ctx context.Context, o options, dir string) (string, error) {
	binary := filepath.Join(dir, "binary")
	if err := build(ctx, o, binary); err != nil {
		return "", err
	}
	prefix := program + "_" + o.version + "_"
	names := []string{prefix + platform + ".zip", prefix + "manifest.json"}
	if err := pack(filepath.Join(dir, names[0]), o, binary); err != nil {
		return "", err
	}
	if err := os.Remove(binary); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, names[1]), []byte(manifest), 0o644); err != nil { //nolint:gosec // it is published
		return "", err
	}
	var lines bytes.Buffer
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&lines, "%x  %s\n", sha256.Sum256(content), name)
	}
	sums := filepath.Join(dir, prefix+"SHA256SUMS")
	return sums, os.WriteFile(sums, lines.Bytes(), 0o644) //nolint:gosec // it is published
}

// build builds the agent, and the provider in which it is embedded.
func build(ctx context.Context, o options, binary string) error {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	for _, one := range []struct{ output, of string }{{agent, "./guestagent"}, {binary, "."}} {
		command := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w -buildid= -X main.version="+o.version,
			"-o", one.output, one.of)
		command.Dir = o.source
		command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOEXPERIMENT=",
			"GOFLAGS=-trimpath -buildvcs=false -mod=readonly")
		if said, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", one.of, err, said)
		}
	}
	return nil
}

// epoch is the time of all files in the zip: the first that a zip can have.
var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// pack writes the zip: the provider under the name that Terraform expects, and the licence.
func pack(target string, o options, binary string) (err error) {
	file, err := os.Create(target)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	writer := zip.NewWriter(file)
	for _, one := range []struct {
		name, from string
		mode       os.FileMode
	}{{program + "_v" + o.version, binary, 0o755}, {"LICENSE", filepath.Join(o.source, "LICENSE"), 0o644}} {
		header := &zip.FileHeader{Name: one.name, Method: zip.Deflate, Modified: epoch}
		header.SetMode(one.mode)
		entry, err := writer.CreateHeader(header)
		if err != nil {
			return err
		}
		from, err := os.Open(one.from)
		if err != nil {
			return err
		}
		_, err = io.Copy(entry, from)
		if err = errors.Join(err, from.Close()); err != nil {
			return fmt.Errorf("pack %s: %w", one.name, err)
		}
	}
	return writer.Close()
}

// sign writes a detached binary signature next to a file, and verifies it.
func sign(ctx context.Context, key, file string) error {
	signature := file + ".sig"
	for _, args := range [][]string{
		{"--local-user", key, "--detach-sign", "--output", signature, file},
		{"--verify", signature, file},
	} {
		if said, err := exec.CommandContext(ctx, "gpg",
			append([]string{"--batch"}, args...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("sign with the key %q: gpg %s: %w\n%s", key, args[0], err, bytes.TrimSpace(said))
		}
	}
	return nil
}

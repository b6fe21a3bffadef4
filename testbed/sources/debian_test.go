package sources

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// packageOf builds a Debian package with one program, and returns the path of the file.
func packageOf(t *testing.T, name, depends string) string {
	t.Helper()
	dir := t.TempDir()
	control := fmt.Sprintf(
		"Package: %s\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example.com>\nDescription: a test\n",
		name)
	if depends != "" {
		control += "Depends: " + depends + "\n"
	}
	for path, text := range map[string]string{"DEBIAN/control": control,
		"usr/bin/" + name: "#!/bin/sh\necho " + name + "\n"} {
		at := filepath.Join(dir, path)
		must(t, os.MkdirAll(filepath.Dir(at), 0o755))
		must(t, os.WriteFile(at, []byte(text), 0o755))
	}
	deb := filepath.Join(t.TempDir(), name+"_1.0_all.deb")
	run(t, "", "dpkg-deb", "--root-owner-group", "--build", dir, deb)
	return deb
}

// repository serves one package as a signed archive on 127.0.0.1, and returns its address, its key, and how often the
// package was fetched.
func repository(t *testing.T, deb, control string) (uri, key string, fetched *atomic.Int32) {
	t.Helper()
	data, err := os.ReadFile(deb)
	must(t, err)
	hexSum := func(b []byte) string {
		digest := sha256.Sum256(b)
		return hex.EncodeToString(digest[:])
	}
	index := fmt.Appendf(nil, "%sFilename: pool/%s\nSize: %d\nSHA256: %s\n\n", control,
		filepath.Base(deb), len(data), hexSum(data))
	released := fmt.Sprintf(
		"Origin: Own\nLabel: Own\nSuite: own\nCodename: own\nDate: %s\nArchitectures: amd64 all\nComponents: main\nSHA256:\n %s %d main/binary-amd64/Packages\n",
		time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 MST"), hexSum(index), len(index))
	entity, err := openpgp.NewEntity("Own archive", "", "own@example.com", nil)
	must(t, err)
	var signed, public bytes.Buffer
	w, err := clearsign.Encode(&signed, entity.PrivateKey, nil)
	must(t, err)
	_, err = w.Write([]byte(released))
	must(t, errors.Join(err, w.Close()))
	w, err = armor.Encode(&public, openpgp.PublicKeyType, nil)
	must(t, err)
	must(t, errors.Join(entity.Serialize(w), w.Close()))

	served := map[string][]byte{
		"/dists/own/InRelease": signed.Bytes(), "/dists/own/main/binary-amd64/Packages": index,
		"/pool/" + filepath.Base(deb): data,
	}
	fetched = &atomic.Int32{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/pool/") {
			fetched.Add(1)
		}
		body, ok := served[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}))
	t.Cleanup(server.Close)
	return server.URL, public.String(), fetched
}

// The real mmdebstrap and apt install packages of the user's own, from a file and from an archive with a signing key of
// its own. An ordinary user runs them here; in all other tests root does. A second build, of other packages, fetches
// only what the first one did not.
func TestDebianTakesPackagesOfOnesOwn(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	const control = "Package: own-library\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example.com>\nDescription: a test\n"
	uri, key, fetched := repository(t, packageOf(t, "own-library", ""), control)
	deb := packageOf(t, "own-program", "own-library")
	must(t, os.Chmod(filepath.Dir(filepath.Dir(deb)), 0o755)) // directories of a test can only be entered by root
	own := &debian.Source{
		Suite: "trixie", AdditionalSuites: []string{}, Packages: []string{"own-library"}, Mode: "unshare",
		Repositories: []debian.Repository{{URI: uri, Suite: "own", Key: key}},
	}
	must(t, madeByNobody(ctx, t, own).Close())
	kept, err := os.ReadDir(filepath.Join(own.CacheDir, "packages"))
	must(t, err)
	own.PackageFiles = []string{deb}
	own.Files = []debian.File{{Path: "/etc/own/motd", Content: "hello", Mode: 0o640, GID: 4}}
	stream := madeByNobody(ctx, t, own)
	if after, err := os.ReadDir(filepath.Join(own.CacheDir, "packages")); err != nil || len(after) != len(kept) ||
		len(kept) < 50 || fetched.Load() != 1 {
		t.Errorf(
			"%d packages are kept after the first build and %d after the second, %v; %d were fetched of the archive on 127.0.0.1",
			len(kept), len(after), err, fetched.Load())
	}
	full, spool, err := tarstream.Read(ctx, stream, t.TempDir(), source.Limits{})
	must(t, errors.Join(stream.Close(), err))
	defer func() { must(t, spool.Close()) }()
	// Owners, set-user-ID bits and special modes are the same as in a tree that root makes.
	if e, ok := full.Lookup("usr/bin/su"); !ok || e.Mode != 0o4755 || e.UID != 0 || e.GID != 0 {
		t.Errorf("su: %+v", e)
	}
	if e, ok := full.Lookup("etc/shadow"); !ok || e.Mode != 0o640 || e.UID != 0 || e.GID != 42 {
		t.Errorf("shadow: %+v", e)
	}
	for path, mode := range map[string]uint32{"usr/bin/own-library": 0o755,
		"usr/bin/own-program": 0o755, "etc/own/motd": 0o640} {
		if e, ok := full.Lookup(path); !ok || e.Type != tree.Regular || e.Mode != mode {
			t.Errorf("%s: %+v", path, e)
		}
	}
	packages, err := rootfs.Packages(full)
	must(t, err)
	for _, name := range []string{"own-library", "own-program"} {
		if !slices.ContainsFunc(packages,
			func(p release.Package) bool { return p.Name == name && p.Version == "1.0" }) {
			t.Errorf("package %s is not installed", name)
		}
	}
	// apt in a guest uses the same archives, and the tree does not show where the package files were on this
	// machine.
	lists := ""
	for _, e := range full.Entries {
		if strings.HasPrefix(e.Path, "etc/apt/sources.list") && e.Type == tree.Regular {
			text, err := full.ReadFile(e.Path, 1<<20)
			must(t, err)
			lists += string(text)
		}
	}
	if !strings.Contains(lists, "URIs: "+uri) || !strings.Contains(lists, "BEGIN PGP PUBLIC KEY BLOCK") ||
		strings.Contains(lists, "/tmp/") {
		t.Errorf("apt's sources in the tree are:\n%s", lists)
	}
}

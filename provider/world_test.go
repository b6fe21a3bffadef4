package provider_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi/agenttest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newWorld returns an empty host.
func newWorld(t *testing.T) *providertest.World {
	t.Helper()
	world, err := providertest.New(t.TempDir())
	must(t, err)
	t.Cleanup(world.Off)
	return world
}

// guest returns the agent in a VM.
func guest(t *testing.T, world *providertest.World, name string) *agenttest.Agent {
	t.Helper()
	agent, err := world.Guests.Agent(name)
	must(t, err)
	return agent
}

// check runs steps of Terraform on a world. The destroy at the end must leave nothing on it.
func check(t *testing.T, world *providertest.World, steps ...resource.TestStep) {
	t.Helper()
	checkAll(t, world, func(*terraform.State) error {
		left, err := world.Left(t.Context())
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("after the destroy these are left: %v", left)
		}
		return err
	}, steps...)
}

// checkAll runs steps of Terraform on a world, and calls destroyed after the destroy at the end.
func checkAll(t *testing.T, world *providertest.World, destroyed resource.TestCheckFunc, steps ...resource.TestStep) {
	t.Helper()
	resource.ParallelTest(t,
		resource.TestCase{ProtoV6ProviderFactories: serve(world), Steps: steps, CheckDestroy: destroyed})
}

// image is an archive of a root file system. A plan knows its release.
type image struct {
	t    *testing.T
	path string
}

// newImage writes an archive of the first version.
func newImage(t *testing.T) image {
	t.Helper()
	i := image{t, filepath.Join(t.TempDir(), "rootfs.tar")}
	i.set("1")()
	return i
}

// set replaces the archive by another version, with another kernel.
func (i image) set(version string) func() {
	return func() {
		i.t.Helper()
		system := sourcetest.NewSystem("6.12."+version).With("usr/bin/server", "version "+version,
			"usr/lib/systemd/systemd-networkd", "networkd")
		stream, err := system.Tar()
		must(i.t, err)
		must(i.t, os.WriteFile(i.path, stream, 0o600))
	}
}

// base is a base that is read from the archive.
func (i image) base() string { return archive("own", i.path) }

// unpack writes the content of the archive into a new directory.
func (i image) unpack(dir string) error {
	file, err := os.Open(i.path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // it refers to a directory
	for stream := tar.NewReader(file); ; {
		header, err := stream.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Clean(header.Name)
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		switch header.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeSymlink:
			err = root.Symlink(header.Linkname, name)
		case tar.TypeReg:
			var content []byte
			if content, err = io.ReadAll(stream); err == nil {
				err = root.WriteFile(name, content, header.FileInfo().Mode().Perm())
			}
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}

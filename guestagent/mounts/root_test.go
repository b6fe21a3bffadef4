package mounts

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
)

// rootParts are layers as plain directories, a private disk as a tmpfs, and a target.
func rootParts(t *testing.T, layers ...map[string]string) (string, Root) {
	t.Helper()
	base := filepath.Join(t.TempDir(), "b")
	must(t, os.Mkdir(base, 0o755))
	must(t, unix.Mount("b", base, "tmpfs", 0, ""))
	t.Cleanup(func() {
		if err := unix.Unmount(base, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", base, err)
		}
	})
	root := Root{Private: filepath.Join(base, "private"), Kernel: "7.0.1-running"}
	for i, files := range layers {
		layer := filepath.Join(base, "layer", string(rune('a'+i)))
		must(t, os.MkdirAll(layer, 0o755))
		for name, content := range files {
			must(t, os.MkdirAll(filepath.Join(layer, filepath.Dir(name)), 0o755))
			must(t, os.WriteFile(filepath.Join(layer, name), []byte(content), 0o644))
		}
		// A mount of its own, as a layer has.
		must(t, unix.Mount(layer, layer, "", unix.MS_BIND, ""))
		root.Layers = append(root.Layers, layer)
	}
	for _, directory := range []string{RootUpper, RootWork, "var/lib", "home", "root-home", "srv"} {
		must(t, os.MkdirAll(filepath.Join(root.Private, directory), 0o755))
	}
	target := filepath.Join(base, "target")
	must(t, os.Mkdir(target, 0o755))
	return target, root
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

func TestAssembledRootHasUsrAndPrivateTreesOfTheirOwn(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for name, layers := range map[string][]map[string]string{
		"one layer":  {{"usr/bin/tool": "new", "etc/conf": "release"}},
		"two layers": {{"usr/bin/tool": "old", "etc/conf": "release"}, {"usr/bin/tool": "new"}},
	} {
		t.Run(name, func(t *testing.T) {
			target, root := rootParts(t, layers...)
			must(t, os.WriteFile(filepath.Join(root.Private, "root-home/mine"), []byte("mine"), 0o600))
			must(t, AssembleRoot(context.Background(), target, root))

			if got := readAll(t, filepath.Join(target, "usr/bin/tool")); got != "new" {
				t.Errorf("tool is %q", got)
			}
			if got := readAll(t, filepath.Join(target, "root/mine")); got != "mine" {
				t.Errorf("file of the private disk is %q", got)
			}
			if err := os.WriteFile(filepath.Join(target, "usr/bin/tool"), nil, 0o644); !errors.Is(err, unix.EROFS) {
				t.Errorf("writing below /usr: %v, want EROFS", err)
			}
			must(t, os.WriteFile(filepath.Join(target, "etc/conf"), []byte("changed here"), 0o644))
			if got := readAll(t, filepath.Join(root.Private, RootUpper, "etc/conf")); got != "changed here" {
				t.Errorf("the private disk has %q", got)
			}
			if got := readAll(t, filepath.Join(root.Layers[0], "etc/conf")); got != "release" {
				t.Errorf("the layer has %q", got)
			}
			must(t, os.WriteFile(filepath.Join(target, "var/lib/state"), []byte("state"), 0o600))
			if got := readAll(t, filepath.Join(root.Private, "var/lib/state")); got != "state" {
				t.Errorf("the private disk has %q", got)
			}

			table, err := proc.OwnMountTable()
			must(t, err)
			for _, place := range []string{"usr", "var", "home", "root", "srv"} {
				mount := table.At(filepath.Join(target, place))
				if mount == nil || mount.PeerGroup() != "" {
					t.Errorf("/%s is not a mount in no peer group: %+v", place, mount)
				}
			}
		})
	}
}

func TestARootOutlivesTheExchangeOfItsLayers(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	target, root := rootParts(t,
		map[string]string{"usr/bin/tool": "1", "etc/conf": "1", "etc/other": "1", "etc/d/a": "1"},
		map[string]string{"usr/bin/tool": "2", "etc/conf": "2", "etc/other": "2", "etc/d/a": "2", "etc/d/b": "2"})
	first, second := root, root
	first.Layers, second.Layers = root.Layers[:1], root.Layers[1:]

	must(t, AssembleRoot(context.Background(), target, first))
	must(t, os.WriteFile(filepath.Join(target, "etc/conf"), []byte("mine"), 0o644))
	must(t, os.Chmod(filepath.Join(target, "etc/d"), 0o711))
	if err := os.Rename(filepath.Join(target, "etc/d"),
		filepath.Join(target, "etc/moved")); !errors.Is(err, unix.EXDEV) {
		t.Errorf("renaming a directory of a layer: %v, want EXDEV", err)
	}
	must(t, unix.Unmount(target, unix.MNT_DETACH))

	must(t, AssembleRoot(context.Background(), target, second))
	for name, want := range map[string]string{"usr/bin/tool": "2", "etc/conf": "mine", "etc/other": "2",
		"etc/d/a": "2", "etc/d/b": "2"} {
		if got := readAll(t, filepath.Join(target, name)); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
}

func TestTheRunningKernelsModulesComeFromAnotherLayerIfTheyMust(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	target, root := rootParts(t,
		map[string]string{"usr/lib/modules/7.0.1-running/modules.dep": "running"},
		map[string]string{"usr/lib/modules/8.0.0-next/modules.dep": "next", "usr/bin/tool": "next", "etc/conf": "next"})
	root.Modules = filepath.Join(root.Layers[0], "usr")
	root.Layers = root.Layers[1:]
	must(t, unix.Mount("run", "/run", "tmpfs", 0, ""))
	must(t, os.MkdirAll(LayersDir, 0o700))
	must(t, AssembleRoot(context.Background(), target, root))
	for name, want := range map[string]string{
		"usr/lib/modules/7.0.1-running/modules.dep": "running",
		"usr/lib/modules/8.0.0-next/modules.dep":    "next",
		"usr/bin/tool":                              "next",
	} {
		if got := readAll(t, filepath.Join(target, name)); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
}

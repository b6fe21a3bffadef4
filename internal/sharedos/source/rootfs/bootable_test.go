package rootfs_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

const elfHeader = "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00"

func TestCheckBootableFindsTheKernel(t *testing.T) {
	k, err := rootfs.CheckBootable(sourcetest.ReadTar(t, sourcetest.Tar(t, sourcetest.Bootable("6.12.9-amd64")...)))
	want := rootfs.KernelInfo{
		Release: "6.12.9-amd64", ImagePath: "boot/vmlinuz-6.12.9-amd64", ModulesDir: "usr/lib/modules/6.12.9-amd64",
	}
	if err != nil || k != want {
		t.Errorf("%+v, %v, want %+v", k, err, want)
	}
}

func TestCheckBootableNamesAllThatIsMissing(t *testing.T) {
	for name, c := range map[string]struct {
		without []string
		want    []string
	}{
		"merged /usr":      {[]string{"lib", "bin"}, []string{"/bin is not", "/lib is not", "systemd as /sbin/init"}},
		"systemd":          {[]string{"usr/lib/systemd/systemd"}, []string{"systemd-sysv"}},
		"mkfs.ext4":        {[]string{"usr/sbin/mke2fs"}, []string{"e2fsprogs"}},
		"kernel image":     {[]string{"boot/vmlinuz-6.1"}, []string{"no kernel", "linux-image-cloud-amd64"}},
		"lists of modules": {[]string{"usr/lib/modules/6.1/modules.dep"}, []string{"modules.dep", "depmod 6.1"}},
		"the file of erofs": {[]string{"usr/lib/modules/6.1/kernel/fs/erofs/erofs.ko.zst"},
			[]string{"module erofs of kernel 6.1"}},
		"two of many things": {[]string{"usr/lib/modules/6.1/kernel/drivers/md/dm-verity.ko.xz", "usr/sbin/mkfs.ext4"}, []string{"dm_verity", "mkfs.ext4"}},
	} {
		t.Run(name, func(t *testing.T) {
			items := slices.DeleteFunc(sourcetest.Bootable("6.1"),
				func(i sourcetest.Item) bool { return slices.Contains(c.without, i.Name) })
			_, err := rootfs.CheckBootable(sourcetest.ReadTar(t, sourcetest.Tar(t, items...)))
			var missing *rootfs.MissingError
			if !errors.Is(err, rootfs.ErrNotBootable) || !errors.As(err, &missing) {
				t.Fatalf("error %v, want a MissingError", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %v\nsays nothing of %q", err, want)
				}
			}
		})
	}
	t.Run("everything", func(t *testing.T) {
		items := append(sourcetest.Bootable("6.1")[:3], sourcetest.File("bin/sh", ""),
			sourcetest.Dir("lib"), sourcetest.Dir("sbin"))
		_, err := rootfs.CheckBootable(sourcetest.ReadTar(t, sourcetest.Tar(t, items...)))
		var missing *rootfs.MissingError
		if !errors.As(err, &missing) {
			t.Fatalf("error %v, want a MissingError", err)
		}
		// Three links, systemd, mkfs.ext4, and the seven modules that are files.
		if len(missing.Missing) != 12 {
			t.Errorf("%d missing, want 12: %v", len(missing.Missing), err)
		}
		for _, m := range missing.Missing {
			if m.Remedy == "" {
				t.Errorf("%q: no remedy", m.What)
			}
		}
	})
}

func TestKernelIsTheNewestWithAnImage(t *testing.T) {
	for want, releases := range map[string][]string{
		"6.12.117+deb13-cloud-amd64": {"6.12.94+deb13-cloud-amd64", "6.12.117+deb13-cloud-amd64"},
		"6.12.10":                    {"6.12.10", "6.12.9"},
		"6.12":                       {"6.12~rc1", "6.12"},
		"6.12.1":                     {"6.12", "6.12.1"},
		"6.12-b":                     {"6.12-a", "6.12-b"},
		"6.012.1":                    {"6.11.9", "6.012.1"},
	} {
		items := []sourcetest.Item{sourcetest.File("usr/lib/modules/99/modules.dep", ""),
			sourcetest.File("boot/vmlinuz-98", "")}
		for _, r := range releases {
			items = append(items, sourcetest.Kernel(r)...)
		}
		k, err := rootfs.Kernel(sourcetest.ReadTar(t, sourcetest.Tar(t, items...)))
		if err != nil || k.Release != want {
			t.Errorf("of %q: %q, %v, want %q", releases, k.Release, err, want)
		}
	}
}

func TestPackagesAreTheInstalledOnes(t *testing.T) {
	want := []release.Package{
		{Name: "dpkg", Version: "1.22"}, {Name: "tzdata", Version: "2026a"}, {Name: "zlib1g", Version: "1:1.3"},
		{Name: "zlib1g:i386", Version: "1:1.3"},
	}
	full := sourcetest.ReadTar(t, sourcetest.Tar(t, sourcetest.File("var/lib/dpkg/status", sourcetest.DpkgStatus)))
	got, err := rootfs.Packages(full)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	n, err := rootfs.Normalise(full)
	if err != nil {
		t.Fatal(err)
	}
	if got, err = rootfs.Packages(n); err != nil || !slices.Equal(got, want) {
		t.Errorf("after normalising: %v, %v, want %v", got, err, want)
	}
	if got, err = rootfs.Packages(sourcetest.ReadTar(t, sourcetest.Tar(t, sourcetest.Dir("./")))); err != nil ||
		got != nil {
		t.Errorf("without a database: %v, %v", got, err)
	}
	for name, status := range map[string]string{
		"no version": "Package: a\nStatus: install ok installed\n",
		"no colon":   "Package: a\nStatus\n",
		"twice":      strings.Repeat("Package: a\nVersion: 1\nStatus: install ok installed\n\n", 2),
	} {
		if got, err := rootfs.Packages(sourcetest.ReadTar(t,
			sourcetest.Tar(t, sourcetest.File("var/lib/dpkg/status", status)))); !errors.Is(err, source.ErrMalformed) {
			t.Errorf("%s: %v, %v, want ErrMalformed", name, got, err)
		}
	}
}

func TestAccountsMapNamesToNumbers(t *testing.T) {
	accounts := func(passwd string) (map[string]uint32, map[string]uint32, error) {
		return rootfs.Accounts(sourcetest.ReadTar(t,
			sourcetest.Tar(t, sourcetest.File("etc/passwd", passwd), sourcetest.File("etc/group", "adm:x:4:\n"))))
	}
	users, groups, err := accounts(
		"# comment\nroot:x:0:0::/root:/bin/sh\n\n+nis\nwww:x:33:33::/:/bin/sh\nwww:x:34:34::/:/bin/sh")
	if err != nil || len(users) != 2 || users["root"] != 0 || users["www"] != 33 ||
		len(groups) != 1 || groups["adm"] != 4 {
		t.Errorf("%v, %v, %v", users, groups, err)
	}
	for _, bad := range []string{"root", "root:x:zero:0", "root:x:-1:0", "root:x:4294967296:0", ":x:1:1"} {
		if _, _, err := accounts(bad); !errors.Is(err, source.ErrMalformed) ||
			!strings.Contains(err.Error(), "line 1") {
			t.Errorf("%q: %v, want ErrMalformed with the line", bad, err)
		}
	}
	if _, _, err := rootfs.Accounts(sourcetest.ReadTar(t, sourcetest.Tar(t, sourcetest.Dir("etc")))); err == nil {
		t.Error("a tree without accounts has some")
	}
}

func TestOSReleaseIsThePrettyName(t *testing.T) {
	for text, want := range map[string]string{
		"PRETTY_NAME=\"A \\\"B\\\" \\$1\"\n": `A "B" $1`,
		"PRETTY_NAME='A B'":                  "A B",
		"NAME=x\nPRETTY_NAME=plain\n":        "plain",
		"NAME=x\n":                           "Linux",
	} {
		tr := sourcetest.ReadTar(t,
			sourcetest.Tar(t, sourcetest.Link("etc/os-release", "../usr/lib/os-release"),
				sourcetest.File("usr/lib/os-release", text)))
		if got, err := rootfs.OSRelease(tr); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, bad := range []string{"PRETTY_NAME=\x1b[2J", "PRETTY_NAME=\xff", "PRETTY_NAME=" + strings.Repeat("x", 300)} {
		if _, err := rootfs.OSRelease(sourcetest.ReadTar(t,
			sourcetest.Tar(t, sourcetest.File("etc/os-release", bad)))); !errors.Is(err, source.ErrMalformed) {
			t.Errorf("%q: %v, want ErrMalformed", bad, err)
		}
	}
}

func TestArchitectureIsThatOfSystemd(t *testing.T) {
	for header, want := range map[string]string{
		elfHeader:                            "amd64",
		elfHeader[:18] + "\xb7\x00":          "arm64",
		elfHeader[:18] + "\xf3\x00":          "",
		"#!/bin/sh\nexec something else\n\n": "",
		"short":                              "",
	} {
		got, err := rootfs.Architecture(sourcetest.ReadTar(t,
			sourcetest.Tar(t, sourcetest.Program("sbin/init", header))))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", header, got, err, want)
		}
	}
}

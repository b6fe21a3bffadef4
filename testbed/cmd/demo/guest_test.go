package main

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestOtherPackagesAreFound(t *testing.T) {
	packages := []release.Package{{Name: "libssl3t64:amd64", Version: "3.5"}, {Name: "nginx", Version: "1.26"},
		{Name: "zlib1g", Version: "1.3"}}
	wrong := otherPackages(packages,
		"libssl3t64 3.5 installed\nnginx 1.25 installed\nzlib1g 1.3 config-files\nnew 1 installed\n")
	want := []string{"new 1 instead of none", "nginx 1.25 instead of 1.26", "zlib1g  instead of 1.3"}
	if !slices.Equal(wrong, want) {
		t.Errorf("%q", wrong)
	}
}

func TestOtherFilesAreFound(t *testing.T) {
	files := []tree.Entry{
		{Path: "usr/bin/a b", Mode: 0o4755, Size: 7}, {Path: "usr/bin/mode", Mode: 0o755, GID: 5, Size: 8}, {Path: "usr/bin/gone", Mode: 0o644},
	}
	wrong := otherFiles(files, "4755 0 0 7 /usr/bin/a b\n755 0 0 8 /usr/bin/mode\n")
	want := []string{`/usr/bin/mode is "755 0 0 8" instead of "755 0 5 8"`,
		`/usr/bin/gone is "" instead of "644 0 0 0"`}
	if !slices.Equal(wrong, want) {
		t.Errorf("%q", wrong)
	}
}

func TestOldCodeIsFoundInProc(t *testing.T) {
	is, was := tree.Sum([]byte("new")), tree.Sum([]byte("old"))
	code := map[string]tree.Digest{"/usr/bin/nginx": is, "/usr/lib/libssl.so": is}
	listed := `lrwxrwxrwx 1 root root 0 Nov 29 17:00 /proc/7/exe -> /usr/bin/nginx
lrwxrwxrwx 1 root root 0 Nov 29 17:00 /proc/8/exe -> /bin/nginx
lrwxrwxrwx 1 root root 0 Nov 29 17:00 /proc/9/exe -> /usr/bin/other

/proc/7/map_files:
total 0
lr-------- 1 root root 64 Nov 29 17:00 55d0-55d1 -> /usr/bin/nginx
lr-------- 1 root root 64 Nov 29 17:00 7f00-7f01 -> /usr/lib/libssl.so
lr-------- 1 root root 64 Nov 29 17:00 7f01-7f02 -> /usr/lib/libssl.so
`
	uses := mappedCode(listed, code)
	want := map[string]string{"/proc/7/exe": "/usr/bin/nginx", "/proc/8/exe": "/usr/bin/nginx",
		"/proc/7/map_files/7f00-7f01": "/usr/lib/libssl.so"}
	if fmt.Sprint(uses) != fmt.Sprint(want) {
		t.Fatalf("%v", uses)
	}
	sums := is.Hex() + "  /proc/7/exe\n" + was.Hex() + "  /proc/8/exe\n" + is.Hex() +
		"  /proc/7/map_files/7f00-7f01\n" + was.Hex() + "  /proc/1/exe\n"
	wrong, same, told := otherCode(uses, code, sums, nil)
	if same != 2 || told != 0 || !slices.Equal(wrong, []string{"/proc/8/exe is another /usr/bin/nginx"}) {
		t.Errorf("%q, %d the same, %d told", wrong, same, told)
	}
	wrong, same, told = otherCode(uses, code, sums, []string{"dbus.service 8 /usr/bin/nginx"})
	if same != 2 || told != 1 || len(wrong) > 0 {
		t.Errorf("reported: %q, %d the same, %d told", wrong, same, told)
	}
}

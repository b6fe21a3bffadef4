package main_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestReadmeShowsTheQuickstart(t *testing.T) {
	_, rest, found := strings.Cut(read(t, "README.md"), "```hcl\n")
	shown, _, closed := strings.Cut(rest, "```\n")
	if !found || !closed {
		t.Fatal("README.md has no HCL block")
	}
	if diff := cmp.Diff(read(t, "examples/quickstart/main.tf"), shown); diff != "" {
		t.Errorf("README.md and examples/quickstart/main.tf differ (-example +README):\n%s", diff)
	}
}

func TestDocumentedMakeTargetsExist(t *testing.T) {
	makefile := read(t, "GNUmakefile")
	command := regexp.MustCompile("(?m)(?:^|`)make ([a-z-]+)")
	for _, document := range []string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		for _, match := range command.FindAllStringSubmatch(read(t, document), -1) {
			if !strings.Contains(makefile, "\n"+match[1]+":") {
				t.Errorf("%s mentions make %s, but GNUmakefile has no such target", document, match[1])
			}
		}
	}
}

func TestCIRunsTheTestCommandOfTheReadme(t *testing.T) {
	if !strings.Contains(read(t, "README.md"), "\nmake test ") {
		t.Error("README.md does not contain the command make test")
	}
	if !strings.Contains(read(t, ".ci/run"), "\nexec make test\n") {
		t.Error(".ci/run does not end with exec make test")
	}
}

// At three in the morning, nobody finds out that a guide is wrong.
func TestTheRecoveryGuideNamesWhatTheCodeMakes(t *testing.T) {
	guide := read(t, "templates/guides/recovery.md")
	disk, err := store.DiskName("web-a", "01234567-89ab-4def-8123-456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	if mark := regexp.MustCompile(`vm-web-a\.[0-9a-f]{16}`); mark.FindString(guide) == "" || !mark.MatchString(disk) {
		t.Errorf("the guide does not name a private disk like %s", disk)
	}
	for what, name := range map[string]string{
		"the agent's unit":     "systemctl restart " + strings.TrimSuffix(boot.AgentUnit, ".service") + " ",
		"the agent's state":    "| `" + filepath.Base(mounts.StateDir) + "` |",
		"the root's own files": "| `" + mounts.RootUpper + "` |",
		"a further disk":       "`" + string(store.FurtherDiskVolume) + "-web-a.0123456789abcdef.data`",
		"a layer":              "`" + string(store.LayerVolume) + "-`",
		"a blob":               "`" + string(store.BlobVolume) + "-`",
		"a manifest":           "`" + string(store.ReleaseVolume) + "-`",
		"a history":            "`" + string(store.HeadVolume) + "-`",
		"a lock":               "`" + string(store.LockVolume) + "-…`",
	} {
		if !strings.Contains(guide, name) {
			t.Errorf("the guide does not name %s as %q", what, name)
		}
	}
}

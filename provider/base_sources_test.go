package provider

import (
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// sourceSamples has a value for every attribute of every source of sharedos_base.
var sourceSamples = map[string]struct {
	at    path.Path
	value any
}{
	"debian.suite":                   {path.Root("debian").AtName("suite"), "sid"},
	"debian.additional_suites":       {path.Root("debian").AtName("additional_suites"), []string{}},
	"debian.components":              {path.Root("debian").AtName("components"), []string{"contrib"}},
	"debian.packages":                {path.Root("debian").AtName("packages"), []string{"nginx"}},
	"debian.mirror":                  {path.Root("debian").AtName("mirror"), "http://127.0.0.1/debian"},
	"debian.check_valid_until":       {path.Root("debian").AtName("check_valid_until"), false},
	"debian.mirror_key":              {path.Root("debian").AtName("mirror_key"), "key"},
	"debian.package_files":           {path.Root("debian").AtName("package_files"), []string{"a.deb"}},
	"debian.mode":                    {path.Root("debian").AtName("mode"), "root"},
	"debian.triggers":                {path.Root("debian").AtName("triggers").AtMapKey("a"), "b"},
	"debian.repositories.uri":        {repositoryPath.AtName("uri"), "http://127.0.0.1/own"},
	"debian.repositories.suite":      {repositoryPath.AtName("suite"), "stable"},
	"debian.repositories.components": {repositoryPath.AtName("components"), []string{"main"}},
	"debian.repositories.key":        {repositoryPath.AtName("key"), "key"},
	"debian.files.content":           {overlayPath.AtName("content"), "hello"},
	"debian.files.from":              {overlayPath.AtName("from"), "motd"},
	"debian.files.mode":              {overlayPath.AtName("mode"), "0600"},
	"debian.files.uid":               {overlayPath.AtName("uid"), int64(7)},
	"debian.files.gid":               {overlayPath.AtName("gid"), int64(7)},
	"archive.path":                   {path.Root("archive").AtName("path"), "rootfs.tar"},
	"archive.url":                    {path.Root("archive").AtName("url"), "http://127.0.0.1/rootfs.tar"},
	"archive.sha256":                 {path.Root("archive").AtName("sha256"), strings.Repeat("2", 64)},
	"disk_image.path":                {path.Root("disk_image").AtName("path"), "disk.raw"},
	"disk_image.url":                 {path.Root("disk_image").AtName("url"), "http://127.0.0.1/disk.raw"},
	"disk_image.sha256":              {path.Root("disk_image").AtName("sha256"), strings.Repeat("2", 64)},
	"disk_image.partition":           {path.Root("disk_image").AtName("partition"), int64(2)},
	"directory.path":                 {path.Root("directory").AtName("path"), "rootfs"},
	"directory.owner":                {path.Root("directory").AtName("owner"), "root"},
	"directory.uid_map.on_disk":      {uidPath.AtName("on_disk"), int64(7)},
	"directory.uid_map.in_tree":      {uidPath.AtName("in_tree"), int64(7)},
	"directory.uid_map.count":        {uidPath.AtName("count"), int64(7)},
	"directory.gid_map.on_disk":      {gidPath.AtName("on_disk"), int64(7)},
	"directory.gid_map.in_tree":      {gidPath.AtName("in_tree"), int64(7)},
	"directory.gid_map.count":        {gidPath.AtName("count"), int64(7)},
	"oci.reference":                  {path.Root("oci").AtName("reference"), "127.0.0.1/os:2"},
	"oci.layout":                     {path.Root("oci").AtName("layout"), "image"},
	"oci.plain_http":                 {path.Root("oci").AtName("plain_http"), true},
	"oci.triggers":                   {path.Root("oci").AtName("triggers").AtMapKey("a"), "b"},
}

var (
	repositoryPath = path.Root("debian").AtName("repositories").AtListIndex(0)
	overlayPath    = path.Root("debian").AtName("files").AtMapKey("/etc/motd")
	uidPath        = path.Root("directory").AtName("uid_map").AtListIndex(0)
	gidPath        = path.Root("directory").AtName("gid_map").AtListIndex(0)
)

// plainSource is a base or a component with one source and one element in each collection of objects.
func plainSource[Model any](t *testing.T, of resource.Resource, name string) testPlan[Model] {
	t.Helper()
	plan := newPlan[Model](t, of)
	plan.set(path.Root("name"), "own")
	switch name {
	case "debian":
		plan.set(path.Root("debian").AtName("suite"), "trixie")
		plan.set(repositoryPath.AtName("uri"), "http://127.0.0.1/")
		plan.set(overlayPath.AtName("mode"), "0644")
	case "oci":
		plan.set(path.Root("oci").AtName("reference"), "127.0.0.1/os:1")
	case "directory":
		for _, at := range []path.Path{uidPath, gidPath} {
			plan.set(at.AtName("on_disk"), int64(1))
			plan.set(at.AtName("in_tree"), int64(1))
			plan.set(at.AtName("count"), int64(1))
		}
	case "archive", "disk_image":
		plan.set(path.Root(name).AtName("url"), "http://127.0.0.1/")
		plan.set(path.Root(name).AtName("sha256"), strings.Repeat("1", 64))
	}
	return plan
}

func openedText(t *testing.T, of released) string {
	t.Helper()
	in, diags := inputOf(t.Context(), of, "cache")
	if diags.HasError() {
		t.Fatal(diags)
	}
	if of.kind() == componentKind {
		return text(t, in.Addition)
	}
	return text(t, in.Source)
}

// This test fails for a new attribute of a source that is not used.
func TestEveryAttributeOfASourceIsUsed(t *testing.T) {
	eachSource(t, newBaseResource(), func(plan *testPlan[baseModel]) released { return plan.model() })
	eachSource(t, newComponentResource(), func(plan *testPlan[componentModel]) released {
		plan.set(path.Root("base"), tree.Digest{1}.String())
		return plan.model()
	})
}

func eachSource[Model any](t *testing.T, of resource.Resource, model func(*testPlan[Model]) released) {
	t.Helper()
	kind := any(new(Model)).(released)
	for _, s := range kind.sources() {
		eachLeaf(s.name(), s.attribute(kind.kind().kind).Attributes, func(name string, _ schema.Attribute) {
			t.Run(string(kind.kind().kind)+"."+name, func(t *testing.T) {
				sample, ok := sourceSamples[name]
				if !ok {
					t.Fatal("sourceSamples has no value for it")
				}
				plain := plainSource[Model](t, of, s.name())
				plan := plain
				plan.set(sample.at, sample.value)
				if name == "oci.triggers" {
					return // a new value has the tag resolved again, which is no matter of the source
				}
				if openedText(t, model(&plan)) == openedText(t, model(&plain)) {
					t.Error("the source is the same with another value")
				}
				if sameSource(model(&plan), model(&plain)) {
					t.Error("another value is no change of the source")
				}
			})
		})
	}
}

func TestComputedAttributesOfABaseAreForgottenAndCarried(t *testing.T) {
	plan := newPlan[baseModel](t, newBaseResource())
	state := plan.model()
	state.Retain, state.SourceDigest = types.Int64Value(3), types.StringValue("sha256:1")
	manifest := &release.Manifest{Sequence: 1, Layers: []release.Layer{{ID: tree.Digest{1}, Size: 4096}}}
	if diags := state.describe(t.Context(), nil, tree.Digest{2}, manifest, chain{8, 50}); diags.HasError() {
		t.Fatal(diags)
	}
	planned := *state
	if err := forget(t.Context(), &planned); err != nil {
		t.Fatal(err)
	}
	unknown := func() (names []string) {
		plan.setAll(&planned)
		for name := range plan.attributes() {
			if plan.at(path.Root(name)) == "<unknown>" {
				names = append(names, name)
			}
		}
		return names
	}
	if got := unknown(); len(got) != len(namesOf(planned.attributes()).computed) ||
		!planned.Retain.Equal(state.Retain) {
		t.Errorf("these are forgotten: %v, want %v", got, namesOf(planned.attributes()).computed)
	}
	carry(&planned, state)
	if got := unknown(); len(got) != 0 {
		t.Errorf("after all was carried, these are unknown: %v", got)
	}
}

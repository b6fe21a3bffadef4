package provider_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Import blocks and -generate-config-out give a configuration that plans empty, whatever the objects are made with.
func TestGeneratedConfigurationPlansEmpty(t *testing.T) {
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	first := newSession(t, world, own.base()+tool.component(`retain = 3`)+`
resource "sharedos_vm" "web" {
  name       = "web"
  base       = sharedos_base.debian.release
  components = [sharedos_component.tool.release]
  memory     = "512MiB"
  disk       = { size = "4GiB" }
  title      = "Web"
  running    = false
`+detailed+`
}
resource "sharedos_vm" "plain" {
  name   = "plain"
  base   = sharedos_base.debian.release
  memory = "512MiB"
  disk   = { size = "1GiB" }
}
`)
	first.run("apply", "-auto-approve", "-no-color")
	second := newSession(t, world, `
import {
  to = sharedos_base.own
  id = "own"
}
import {
  to = sharedos_component.tool
  id = "tool"
}
import {
  to = sharedos_vm.web
  id = "web"
}
import {
  to = sharedos_vm.plain
  id = "plain"
}
`)
	said := second.run("plan", "-no-color", "-generate-config-out=generated.tf")
	if !strings.Contains(said, "4 to import, 0 to add, 0 to change, 0 to destroy") {
		t.Fatal(said)
	}
	generated, err := os.ReadFile(filepath.Join(second.dir, "generated.tf"))
	must(t, err)
	second.run("apply", "-auto-approve", "-no-color")
	if said := second.run("plan", "-no-color", "-detailed-exitcode"); !strings.Contains(said, "No changes") {
		t.Errorf("with the configuration\n%s\nthe plan is\n%s", generated, said)
	}
	// The configuration that was generated can be given a source, which is compared with what there is.
	before, base, found := strings.Cut(string(generated), `resource "sharedos_base" "own"`)
	sourced := strings.Replace(base, "archive        = null", `archive = { path = "`+own.path+`" }`, 1)
	if !found || sourced == base {
		t.Fatalf("the base has no place for a source:\n%s", generated)
	}
	text := before + `resource "sharedos_base" "own"` + sourced
	must(t, os.WriteFile(filepath.Join(second.dir, "generated.tf"), []byte(text), 0o600))
	second.run("apply", "-auto-approve", "-no-color")
	if said := second.run("plan", "-no-color", "-detailed-exitcode"); !strings.Contains(said, "No changes") {
		t.Errorf("with a source the plan is\n%s", said)
	}
}

// An object without a source keeps its releases, and is not made.
func TestAnObjectWithoutASource(t *testing.T) {
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	s := newSession(t, world,
		own.base()+component("tool", "")+`resource "sharedos_base" "other" { name = "sourceless" }`)
	command, output := s.command("plan", "-no-color")
	err := command.Run()
	for _, want := range []*regexp.Regexp{
		says(`Unable to create base "sourceless"`, "it does not exist yet",
			"none of debian, archive, directory, oci, disk_image is set", "Set one of them"),
		says(`Unable to create component "tool"`, "it does not exist yet",
			"none of debian, archive, directory, oci is set", "Set one of them"),
	} {
		if err == nil || !want.MatchString(output.String()) {
			t.Errorf("%v: the plan does not say %s:\n%s", err, want, output)
		}
	}
	s.configure(own.base() + tool.component(""))
	s.run("apply", "-auto-approve", "-no-color")
	for object, config := range map[string]string{
		`base "own"`:       `resource "sharedos_base" "debian" { name = "own" }` + tool.component(""),
		`component "tool"`: own.base() + component("tool", ""),
	} {
		s.configure(config)
		command, output := s.command("plan", "-no-color")
		if err := command.Run(); err == nil ||
			!says("Unable to plan "+object, "its source was removed", "Set one of them").MatchString(output.String()) {
			t.Errorf("%v: the plan that takes the source of %s away says\n%s", err, object, output)
		}
	}
	s.configure(`resource "sharedos_base" "debian" { name = "own" }` + component("tool", ""))
	// What was imported needs none.
	s.run("state", "rm", "sharedos_component.tool", "sharedos_base.debian")
	s.run("import", "-no-color", "sharedos_base.debian", "own")
	s.run("import", "-no-color", "sharedos_component.tool", "tool")
	if said := s.run("plan", "-no-color", "-detailed-exitcode"); !strings.Contains(said, "No changes") {
		t.Errorf("the plan after an import says\n%s", said)
	}
	// Its base has a new release, which the component cannot be built on without a source.
	own.set("2")()
	s.configure(own.base() + component("tool", ""))
	command, output = s.command("plan", "-no-color")
	if err := command.Run(); err == nil ||
		!says(`Unable to plan component "tool"`, "what its releases are made from has changed",
			"Set one of them").MatchString(output.String()) {
		t.Errorf("%v\n%s", err, output)
	}
}

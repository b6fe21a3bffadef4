package matrix

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const introduction = `---
page_title: "Fault matrix - Shared OS"
subcategory: ""
description: |-
  Which faults a refresh survives, at which step each was tried, and how it ends.
---

# Fault matrix

Whatever goes wrong during a refresh, a VM ends on the stack that it ran or on the one that it was to run, never between,
and the next apply converges. Each row below is a test: this page is made of the tables that the tests hold
themselves to. A row that ends otherwise fails its test, and one that no test tries fails the run.

"Real guest" is a Debian VM under QEMU and libvirt; "mount namespace" is the host's kernel, in a mount namespace of the
test's own; "in process" is the code against a model of a VM.
`

// Page is the documentation of all declarations below the root of a module.
func Page(root string) (string, error) {
	packages, err := Packages(root)
	if err != nil {
		return "", err
	}
	var page strings.Builder
	page.WriteString(introduction)
	for _, directory := range packages {
		if _, err := Declared(filepath.Join(root, directory)); err != nil {
			return "", err
		}
		text, err := os.ReadFile(filepath.Join(root, directory, Declaration))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&page, "\n%s\n\nTested by package `%s`.\n", strings.TrimSpace(string(text)), directory)
	}
	return page.String(), nil
}

// Packages lists the directories of the packages that declare faults, sorted, below the root of a module.
func Packages(root string) ([]string, error) {
	var packages []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && name != "." || name == "bin") {
			return fs.SkipDir
		}
		if directory, is := strings.CutSuffix(filepath.ToSlash(name), "/"+Declaration); is {
			packages = append(packages, directory)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for declared faults: %w", err)
	}
	if len(packages) == 0 {
		return nil, errors.New("look for declared faults: no package declares any")
	}
	return packages, nil
}

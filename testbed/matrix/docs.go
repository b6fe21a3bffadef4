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

Whatever fails during a refresh, the VM ends either on its old stack or on the new one, never on a mixture, and the next apply
converges. Each row below is checked by a test, and this page is generated from the tables that the tests use. If a row ends in
another way, its test fails. If no test covers a row, the test run fails.

The last column says where the outcome was observed: "real guest" is a Debian VM under QEMU and libvirt, "mount namespace" is
the host's kernel in a separate mount namespace, and "in process" is the code with a model of a VM.
`

// Page returns the documentation page made from all declarations below root, the root directory of a module.
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

// Packages lists the directories, relative to root, of the packages that declare faults. They are sorted.
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

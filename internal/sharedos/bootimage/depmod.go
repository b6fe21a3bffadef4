package bootimage

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// moduleIndex is the index that depmod(8) makes of a kernel's modules.
type moduleIndex struct {
	// directory of the modules in the tree.
	directory string
	// paths by module name, relative to directory.
	paths map[string]string
	// dependencies by path.
	dependencies map[string][]string
	builtin      map[string]bool
}

// load is a module to load.
type load struct {
	name, path string
	use        Use
}

// readIndex reads modules.dep and modules.builtin of a kernel release (modules.dep(5)).
func readIndex(t *tree.Tree, kernelRelease string) (moduleIndex, error) {
	index := moduleIndex{
		directory:    path.Join("usr/lib/modules", kernelRelease),
		paths:        map[string]string{},
		dependencies: map[string][]string{},
		builtin:      map[string]bool{},
	}
	name := path.Join(index.directory, "modules.dep")
	dep, found, err := readFile(t, name, maxIndex)
	if err != nil {
		return index, err
	}
	if !found {
		return index, fmt.Errorf("%w: the tree has no %s: install the kernel's modules and run depmod", ErrKernel, name)
	}
	for line := range strings.Lines(string(dep)) {
		module, dependencies, ok := strings.Cut(line, ":")
		if !ok {
			return index, fmt.Errorf("%s: line %q has no colon", name, strings.TrimSpace(line))
		}
		index.paths[moduleName(module)] = module
		index.dependencies[module] = strings.Fields(dependencies)
	}
	builtin, _, err := readFile(t, path.Join(index.directory, "modules.builtin"), maxIndex)
	if err != nil {
		return index, err
	}
	for line := range strings.Lines(string(builtin)) {
		index.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return index, nil
}

// moduleName returns the kernel's name of the module in a file: without directory and suffixes, and with "_" for "-".
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// closure returns the modules to load, each once and after its dependencies, and the names of those that are neither
// built in nor exist as a file.
func (x moduleIndex) closure(modules []wantedModule) (loads []load, missing []string) {
	position := map[string]int{}
	add := func(file string, use Use) {
		if i, listed := position[file]; listed {
			// A module that is optional by itself may be required as a dependency.
			if binds[use] > binds[loads[i].use] {
				loads[i].use = use
			}
			return
		}
		position[file] = len(loads)
		loads = append(loads, load{name: moduleName(file), path: file, use: use})
	}
	for _, module := range modules {
		file, known := x.paths[module.name]
		if known {
			// modules.dep lists all dependencies, including indirect ones, with the deepest last.
			for _, dependency := range slices.Backward(x.dependencies[file]) {
				add(dependency, module.use)
			}
			add(file, module.use)
			continue
		}
		if !x.builtin[module.name] && module.use != Optional && !module.absent {
			missing = append(missing, module.name)
		}
	}
	return loads, missing
}

// readFile reads a file of at most limit bytes. It is no error if the tree does not have the file.
func readFile(t *tree.Tree, name string, limit int64) (data []byte, found bool, err error) {
	data, err = t.ReadFile(name, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return data, err == nil, err
}

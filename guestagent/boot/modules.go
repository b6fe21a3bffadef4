package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
)

// The modules in the initramfs, as package bootimage lays them out: the list has a file and its use on each line.
const (
	modulesDir     = "/modules"
	modulesList    = modulesDir + "/load-order"
	maxModulesList = 64 << 10
)

// moduleUse is bootimage.Use, which this binary does not import for its size.
type moduleUse string

const (
	bootModule     moduleUse = ""
	optionalModule moduleUse = "optional"
	deviceModule   moduleUse = "device"
)

// module is one line of the list.
type module struct {
	file string
	use  moduleUse
}

// parseModules reads a list of modules.
func parseModules(list []byte) ([]module, error) {
	var modules []module
	for line := range strings.Lines(string(list)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
			continue
		case len(fields) == 1:
			fields = append(fields, string(bootModule))
		}
		m := module{file: fields[0], use: moduleUse(fields[1])}
		known := m.use == bootModule || m.use == optionalModule || m.use == deviceModule
		if len(fields) > 2 || !known || filepath.Base(m.file) != m.file {
			return nil, fmt.Errorf("list of modules: %q is not a file and its use", strings.TrimSpace(line))
		}
		modules = append(modules, m)
	}
	return modules, nil
}

// readModules reads the initramfs's list. One without a list belongs to a kernel that has everything built in.
func readModules() ([]module, error) {
	list, err := fileio.Read(modulesList, maxModulesList)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseModules(list)
}

// loadBootModules loads what init needs itself.
func loadBootModules() error {
	modules, err := readModules()
	if err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	for _, m := range modules {
		if m.use == deviceModule {
			continue
		}
		if err := loadModule(m.file); err != nil && m.use != optionalModule {
			return fmt.Errorf("load module %s: %w", m.file, err)
		}
	}
	return nil
}

// loadDeviceModules loads what udev would, if it found it.
func loadDeviceModules() error {
	modules, err := readModules()
	if err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	for _, m := range modules {
		if m.use != deviceModule {
			continue
		}
		if err := loadModule(m.file); err != nil {
			say("load module %s: %v", m.file, err)
		}
	}
	return nil
}

func loadModule(name string) (err error) {
	file, err := os.Open(filepath.Join(modulesDir, name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

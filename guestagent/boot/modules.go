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

// The modules in the initramfs, as package bootimage writes them. Each line of the list has a file and its use.
const (
	modulesDir     = "/modules"
	modulesList    = modulesDir + "/load-order"
	maxModulesList = 64 << 10
)

// moduleUse is bootimage.Use. The agent does not import that package, which embeds the agent.
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

// readModules reads the list. An initramfs without a list is for a kernel that has everything built in.
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

// loadBootModules loads the modules that init itself needs.
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

// loadDeviceModules loads the modules that udev would load if the system had them.
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

package boot

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The modules in the initramfs, as package bootimage lays them out.
const (
	modulesDir  = "/modules"
	modulesList = modulesDir + "/load-order"
	// optionalModule after a name on the list: the VM does without it.
	optionalModule = "optional"
	maxModulesList = 64 << 10
)

// loadModules loads the modules of the initramfs in the order of its list. An initramfs without a list belongs to
// a kernel that has everything built in.
func loadModules() error {
	list, err := readBounded(modulesList, maxModulesList)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(list)); lines.Scan(); {
		name, rest, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if name == "" {
			continue
		}
		err := loadModule(filepath.Join(modulesDir, filepath.Base(name)))
		if err != nil && rest != optionalModule {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

func loadModule(path string) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

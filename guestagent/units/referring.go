package units

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
)

// unitDirs are the directories of unit files (systemd.unit(5)).
var unitDirs = []string{
	"/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient",
	"/run/systemd/generator.early",
	"/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator", "/usr/local/lib/systemd/system",
	"/usr/lib/systemd/system", "/run/systemd/generator.late",
}

// maxUnitFile bounds a unit file that is read, in bytes.
const maxUnitFile = 1 << 20

// Referring returns those of the units whose files refer to other files: they name environment files, were made by a
// generator, or are symbolic links. Only for these systemd has to be asked, which takes milliseconds for each unit.
func Referring(names []string) ([]string, error) {
	return referring(unitDirs, names)
}

func referring(directories, names []string) ([]string, error) {
	// Listing the directories is cheaper than looking for each name: most units have files in only one directory.
	entries := make([]map[string]fs.DirEntry, len(directories))
	for i, directory := range directories {
		listed, err := os.ReadDir(directory)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		entries[i] = make(map[string]fs.DirEntry, len(listed))
		for _, entry := range listed {
			entries[i][entry.Name()] = entry
		}
	}
	var found []string
	for _, name := range names {
		for i, directory := range directories {
			refers, err := refersIn(directory, entries[i], name)
			if err != nil {
				return nil, err
			}
			if refers {
				found = append(found, name)
				break
			}
		}
	}
	return found, nil
}

// Links returns the links of this VM that enable units of the system manager.
func Links() ([]impact.Enabled, error) { return linksIn("/", unitDirs) }

func linksIn(root string, directories []string) (links []impact.Enabled, err error) {
	for _, directory := range directories {
		found, err := filepath.Glob(filepath.Join(root, directory, "*.*s", "*"))
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			// /usr/local is a link: a release has what is below it elsewhere.
			path := strings.Replace(strings.TrimPrefix(name, strings.TrimSuffix(root, "/")+"/"),
				"usr/local/", "var/usrlocal/", 1)
			if link, ok := impact.Link(path); ok {
				links = append(links, link)
			}
		}
	}
	return links, nil
}

// refersIn looks at the files of a unit in one directory.
func refersIn(directory string, entries map[string]fs.DirEntry, unit string) (bool, error) {
	for _, name := range impact.NamesOf(unit) {
		if entry := entries[name]; entry != nil {
			if strings.Contains(directory, "/generator") || entry.Type()&fs.ModeSymlink != 0 {
				return true, nil
			}
			if refers, err := refers(filepath.Join(directory, name)); refers || err != nil {
				return refers, err
			}
		}
		if entries[name+".d"] == nil {
			continue
		}
		dropIns, err := filepath.Glob(filepath.Join(directory, name+".d", "*.conf"))
		if err != nil {
			return false, err
		}
		for _, dropIn := range dropIns {
			if refers, err := refers(dropIn); refers || err != nil {
				return refers, err
			}
		}
	}
	return false, nil
}

// refers reports whether a unit file names environment files.
func refers(name string) (bool, error) {
	found, err := mention([]string{name}, "EnvironmentFile")
	return len(found) > 0, err
}

// mention returns those of the words that may be in unit files. A file that does not exist contains none.
func mention(files []string, words ...string) (found []string, err error) {
	for _, name := range files {
		text, known, err := unitFile(name)
		if err != nil {
			return nil, err
		}
		for _, word := range words {
			if (!known || bytes.Contains(text, []byte(word))) && !slices.Contains(found, word) {
				found = append(found, word)
			}
		}
	}
	return found, nil
}

// unitFile reads a unit file. known is false for a file that is too large to be read.
func unitFile(name string) (text []byte, known bool, err error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxUnitFile {
		return nil, !info.Mode().IsRegular(), nil // a link to /dev/null masks a unit
	}
	text, err = os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return text, true, err
}

package release

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"
)

// Preference says that a path, and what is below it, is one component's where several components have different
// content.
type Preference struct {
	// Path is absolute and clean, such as "/etc/nginx".
	Path string `json:"path"`
	// Component is a component's name.
	Component string `json:"component"`
}

const (
	// MaxPreferences is how many preferences a stack may have.
	MaxPreferences    = 100
	maxPreferencePath = 4096
	// maxPreferences bounds the paths of all preferences in bytes: a VM gets them with its boot
	// configuration, in an SMBIOS table of at most 64 KiB.
	maxPreferences = 16 << 10
)

// ValidPreferencePath reports whether a path can stand in a preference: it is absolute, clean, UTF-8, not the root, and
// has at most 4096 bytes.
func ValidPreferencePath(name string) bool {
	return strings.HasPrefix(name, "/") && name != "/" && path.Clean(name) == name && len(name) <= maxPreferencePath &&
		utf8.ValidString(name) && !strings.ContainsRune(name, 0)
}

// CheckPreferences checks that each preference is one, and that they are sorted by path.
func CheckPreferences(preferences []Preference) error {
	if n := len(preferences); n > MaxPreferences {
		return fmt.Errorf("%d preferences: a stack may have %d", n, MaxPreferences)
	}
	size := 0
	for i, one := range preferences {
		if size += len(one.Path); size > maxPreferences {
			return fmt.Errorf("preferences with more than %d bytes of paths: prefer directories", maxPreferences)
		}
		if !ValidPreferencePath(one.Path) || !ValidName(one.Component) {
			return fmt.Errorf(
				"preference of component %q at %q: it has an absolute path without \".\" and \"..\", and a component's name",
				one.Component, one.Path)
		}
		if i > 0 && preferences[i-1].Path >= one.Path {
			return fmt.Errorf("preferences at %q and %q are not sorted by path, or one is there twice",
				preferences[i-1].Path, one.Path)
		}
	}
	return nil
}

// Covers reports whether a path, without a leading slash, is that of the preference or below it.
func (p Preference) Covers(name string) bool {
	at := strings.TrimPrefix(p.Path, "/")
	return name == at || strings.HasPrefix(name, at+"/")
}

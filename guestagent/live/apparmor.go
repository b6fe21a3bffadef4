package live

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
)

const (
	// loadedProfiles lists the loaded profiles. It does not exist without AppArmor.
	loadedProfiles = "/sys/kernel/security/apparmor/profiles"
	// profileTexts is the directory of the profiles' sources.
	profileTexts = "/etc/apparmor.d"
)

// confinement returns a function that reports whether an AppArmor profile denies files on a detached mount; nil if no
// profile is loaded. A profile without a source counts as one that does.
func confinement() (func(profile string) bool, error) {
	loaded, err := readBounded(loadedProfiles)
	if errors.Is(err, errAbsent) || err == nil && len(loaded) == 0 {
		return nil, nil //nolint:nilnil // the contract: no process is confined
	}
	if err != nil {
		return nil, err
	}
	files, err := os.ReadDir(profileTexts)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read AppArmor profiles: %w", err)
	}
	var texts []string
	for _, file := range files {
		if !file.Type().IsRegular() {
			continue
		}
		text, err := readBounded(filepath.Join(profileTexts, file.Name()))
		if err != nil {
			return nil, fmt.Errorf("read AppArmor profiles: %w", err)
		}
		texts = append(texts, string(text))
	}
	return func(profile string) bool {
		for _, text := range texts {
			if impact.AttachesDisconnected(text, profile) {
				return false
			}
		}
		return true
	}, nil
}

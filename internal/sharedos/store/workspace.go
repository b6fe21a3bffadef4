package store

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ThisWorkspace identifies, in a text of one word, the state of Terraform that this process works
// on, as far as a provider can see: by the machine, the working directory, and the workspace that
// is selected there (terraform workspace).
func ThisWorkspace() (string, error) {
	directory, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	machine, err := os.ReadFile("/etc/machine-id")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("identify this machine: %w", err)
	}
	workspace := os.Getenv("TF_WORKSPACE")
	if workspace == "" {
		selected, err := os.ReadFile(filepath.Join(cmp.Or(os.Getenv("TF_DATA_DIR"), ".terraform"), "environment"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("find the workspace of Terraform: %w", err)
		}
		workspace = strings.TrimSpace(string(selected))
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{string(machine), directory, cmp.Or(workspace, "default")},
		"\x00")))
	return hex.EncodeToString(sum[:8]), nil
}

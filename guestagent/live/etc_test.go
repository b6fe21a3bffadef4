package live

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestASecretIsMadeAfterARefreshIfTheVMHasNone(t *testing.T) {
	root, next := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, secret := range map[string]string{"sharedos-secret-a.service": "/etc/a.key",
		"sharedos-secret-b.service": "/etc/b.key", "other.service": "/etc/c.key"} {
		write(filepath.Join(next, secretUnitDirectory, name), "[Unit]\nConditionPathExists=!"+secret+"\n")
	}
	write(root+"/etc/b.key", "this VM's own")
	names, err := missingSecrets(root, next)
	if err != nil || !slices.Equal(names, []string{"sharedos-secret-a.service"}) {
		t.Errorf("%v, %v", names, err)
	}
}

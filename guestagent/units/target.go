package units

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Begin has systemd go to a target that ends this boot or its userland: "soft-reboot.target", "kexec.target",
// "reboot.target". Nothing that is asked for later can stop it. It does not wait: whoever asked is ended on the way.
func (m *Manager) Begin(ctx context.Context, target string) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	conn, err := m.connected(ctx)
	if err != nil {
		return err
	}
	if _, err := conn.StartUnitContext(ctx, target, "replace-irreversibly", nil); err != nil {
		return fmt.Errorf("have systemd go to %s: %w", target, err)
	}
	return nil
}

// Version is the number of systemd's release: 257.
func (m *Manager) Version(ctx context.Context) (int, error) {
	text, err := m.own(ctx, "Version")
	if err != nil {
		return 0, err
	}
	return version(text)
}

// version reads what systemd tells: "257.13-1~deb13u1", "254", "v255~rc1".
func version(text string) (int, error) {
	digits := strings.TrimPrefix(text, "v")
	if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		digits = digits[:end]
	}
	number, err := strconv.Atoi(digits)
	if err != nil {
		return 0, fmt.Errorf("version %q of systemd: %w", text, err)
	}
	return number, nil
}

// Failed names the units that systemd counts as failed.
func (m *Manager) Failed(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	conn, err := m.connected(ctx)
	if err != nil {
		return nil, err
	}
	failed, err := conn.ListUnitsFilteredContext(ctx, []string{"failed"})
	if err != nil {
		return nil, fmt.Errorf("ask systemd for what failed: %w", err)
	}
	names := make([]string, 0, len(failed))
	for _, unit := range failed {
		names = append(names, unit.Name)
	}
	return names, nil
}

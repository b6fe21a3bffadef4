package units

import (
	"context"
	"errors"
	"os/exec"
)

// Enabled reports whether links in /etc enable a unit, as systemctl is-enabled says (systemctl(1)).
// A unit that does not exist is not enabled, nor is one that has nothing to be enabled by.
func Enabled(ctx context.Context, unit string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, toolLimit)
	defer cancel()
	state, err := Run(ctx, "systemctl", "is-enabled", "--", unit)
	switch state {
	case "enabled", "enabled-runtime", "alias":
		return true, nil
	}
	// It exits with 0 for some other states, too, and otherwise says the state, or that there is no such unit.
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
		return false, nil
	}
	return false, err
}

// Enable enables a unit as its section [Install] says. systemd does not read its units again.
func Enable(ctx context.Context, unit string) error { return enable(ctx, "enable", unit) }

// Disable removes the links below /etc that enable a unit. systemd does not read its units again.
func Disable(ctx context.Context, unit string) error { return enable(ctx, "disable", unit) }

func enable(ctx context.Context, verb, unit string) error {
	ctx, cancel := context.WithTimeout(ctx, toolLimit)
	defer cancel()
	_, err := Run(ctx, "systemctl", "--no-reload", "--quiet", verb, "--", unit)
	return err
}

// RemoveAccount removes an account and its own group, and leaves its files (userdel(8)).
func RemoveAccount(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, toolLimit)
	defer cancel()
	_, err := Run(ctx, "userdel", "--", name)
	return err
}

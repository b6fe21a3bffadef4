package units

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Begin has systemd start a target that ends this boot or its userland: "soft-reboot.target", "kexec.target",
// "reboot.target". No later job can cancel it. It does not wait: systemd ends the caller on the way.
func (m *Manager) Begin(ctx context.Context, target string) error {
	return m.call(ctx, callLimit, "have systemd go to "+target, "StartUnit", target, "replace-irreversibly")
}

// Version is the version of systemd: 257.
func (m *Manager) Version(ctx context.Context) (int, error) {
	text, err := m.own(ctx, "Version")
	if err != nil {
		return 0, err
	}
	return version(text)
}

// version reads the Version property: "257.13-1~deb13u1", "254", "v255~rc1".
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

// Failed returns the units that systemd counts as failed.
func (m *Manager) Failed(ctx context.Context) (failed []string, err error) {
	err = m.connected(ctx, callLimit, func(c *connection) error {
		body, err := c.call(nil, "ListUnitsFiltered", list("failed"))
		if err == nil {
			failed, err = namesOf(body)
		}
		if err != nil {
			return fmt.Errorf("ask systemd for the failed units: %w", err)
		}
		return nil
	})
	return failed, err
}

// namesOf reads the names from a list of units, a(ssssssouso).
func namesOf(body []byte) (names []string, err error) {
	c := &cursor{data: body}
	length := int(c.number())
	c.align(8)
	for end := c.at + length; c.at < end && !c.failed; {
		c.align(8)
		names = append(names, c.text())
		for range 6 { // description, three states, following unit, object
			c.bytes()
		}
		c.number()
		for range 2 { // the type and object of its job
			c.bytes()
		}
	}
	if c.failed {
		return nil, fmt.Errorf("%w: a list of %d bytes", errMessage, len(body))
	}
	return names, nil
}

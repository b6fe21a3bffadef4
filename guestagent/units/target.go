package units

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
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
	err = m.connected(ctx, callLimit, func(c *connection) (err error) {
		failed, err = c.listed("failed")
		return err
	})
	return failed, err
}

// Instances returns the instances of templates ("x@.service") that are active or become so.
func (m *Manager) Instances(ctx context.Context, templates []string) (instances []string, err error) {
	err = m.connected(ctx, callLimit, func(c *connection) (err error) {
		instances, err = c.listed("active", "reloading", "refreshing", "activating")
		return err
	})
	return slices.DeleteFunc(instances, func(name string) bool {
		return !slices.Contains(templates, impact.Template(name))
	}), err
}

// Ran returns the units that have been active in this boot and have not failed since: those that run, and services that
// ran to their end.
func (m *Manager) Ran(ctx context.Context) (ran []string, err error) {
	err = m.connected(ctx, callLimit, func(c *connection) error {
		running, err := c.listed("active", "reloading", "refreshing", "activating", "deactivating")
		if err != nil {
			return err
		}
		idle, err := c.listed("inactive")
		if err != nil {
			return err
		}
		idle = slices.DeleteFunc(idle, func(name string) bool { return !strings.HasSuffix(name, ".service") })
		properties := make([]property, len(idle))
		for i, name := range idle {
			properties[i] = property{name, unitInterface, "InactiveExitTimestampMonotonic"}
		}
		values, err := c.get(properties)
		if err != nil {
			return err
		}
		ran = running
		for i, name := range idle {
			if values[i].number > 0 {
				ran = append(ran, name)
			}
		}
		return nil
	})
	slices.Sort(ran)
	return ran, err
}

// listed returns the loaded units in these states.
func (c *connection) listed(states ...string) ([]string, error) {
	body, err := c.call(nil, "ListUnitsFiltered", list(states...))
	var names []string
	if err == nil {
		names, err = namesOf(body)
	}
	if err != nil {
		return nil, fmt.Errorf("ask systemd for the units that are %s: %w", strings.Join(states, ", "), err)
	}
	return names, nil
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

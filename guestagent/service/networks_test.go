package service

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

// control notes what systemd is asked to do.
type control struct {
	state string
	did   []string
	err   error
}

func (c *control) ActiveState(context.Context, string) (string, error) { return c.state, nil }

func (c *control) ReloadUnit(_ context.Context, name string) error {
	c.did = append(c.did, "reload "+name)
	return c.err
}

func (c *control) Start(_ context.Context, name string) (time.Duration, bool, error) {
	c.did = append(c.did, "start "+name)
	return 0, false, c.err
}

func TestANetworkManagerTakesOnWhatHasChanged(t *testing.T) {
	t.Parallel()
	lan, wan := guestconfig.Network{MAC: "52:54:00:00:00:01"}, guestconfig.Network{MAC: "52:54:00:00:00:02"}
	both := map[string]guestconfig.Network{"wan": wan, "lan": lan}
	failed := errors.New("it fails")
	for name, test := range map[string]struct {
		manager guestconfig.Manager
		state   string
		changed map[string]guestconfig.Network
		err     error
		want    string
	}{
		"networkd":                    {guestconfig.Networkd, "active", both, nil, "reload systemd-networkd.service"},
		"networkd, something is gone": {guestconfig.Networkd, "active", nil, nil, "reload systemd-networkd.service"},
		"networkd does not run": {guestconfig.Networkd, "inactive", both, nil,
			"start systemd-networkd.service"},
		"networkd fails": {guestconfig.Networkd, "active", both, failed,
			"reload systemd-networkd.service"},
		"NetworkManager": {guestconfig.NetworkManager, "active", both, nil,
			"nmcli connection reload, nmcli --wait 0 connection up uuid " + lan.ConnectionUUID("lan")},
		"NetworkManager does not run": {guestconfig.NetworkManager, "failed", nil, nil,
			"start NetworkManager.service, nmcli connection reload"},
		"a connection cannot come up": {guestconfig.NetworkManager, "active", both, failed,
			"nmcli connection reload"},
		"NetworkManager, a link is off": {guestconfig.NetworkManager, "active", map[string]guestconfig.Network{"wan": wan}, nil, "nmcli connection reload"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			systemd := &control{state: test.state, err: test.err}
			n := networks{
				units: systemd,
				run: func(_ context.Context, argv ...string) (string, error) {
					systemd.did = append(systemd.did, strings.Join(argv, " "))
					return "", test.err
				},
				addresses: func(mac string) ([]netip.Prefix, bool, error) { return nil, mac == lan.MAC, nil },
			}
			if err := n.Renew(t.Context(), test.manager, test.changed); !errors.Is(err, test.err) {
				t.Errorf("it is %v", err)
			}
			if got := strings.Join(systemd.did, ", "); got != test.want {
				t.Errorf("it did %s, want %s", got, test.want)
			}
		})
	}
}

func TestTheAddressesOfAnInterfaceAreFoundByItsMACAddress(t *testing.T) {
	t.Parallel()
	if _, ready, err := addressesOfInterface("02:00:00:00:00:00"); ready || err != nil {
		t.Errorf("of an interface that is not there: %t, %v", ready, err)
	}
	names, err := filepath.Glob("/sys/class/net/*/address")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		mac := strings.TrimSpace(string(text))
		if err != nil || mac == "" || mac == "00:00:00:00:00:00" {
			continue
		}
		addresses, _, err := addressesOfInterface(mac)
		if err != nil || slices.ContainsFunc(addresses, func(a netip.Prefix) bool { return !a.IsValid() }) {
			t.Errorf("%s: %v, %v", name, addresses, err)
		}
	}
}

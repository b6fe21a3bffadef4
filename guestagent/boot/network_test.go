package boot

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

// systemWith makes a directory with some files of a system. One that begins with "->" is a link to the rest.
func systemWith(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, content := range files {
		at := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		err := os.WriteFile(at, []byte(content), 0o644)
		if to, link := strings.CutPrefix(content, "->"); link {
			_ = os.Remove(at)
			err = os.Symlink(to, at)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

// Whoever asks the C library for a name is answered in every base, and network-online.target means that there is an
// address.
func TestTheNetworkOfEveryBase(t *testing.T) {
	const networkd, online, resolved = "usr/lib/systemd/systemd-networkd",
		"usr/lib/systemd/systemd-networkd-wait-online", "usr/lib/systemd/systemd-resolved"
	const stub = "../run/systemd/resolve/stub-resolv.conf"
	plain := map[string]string{networkd: "", online: ""}
	with := func(more map[string]string) map[string]string {
		all := maps.Clone(plain)
		maps.Copy(all, more)
		return all
	}
	for name, c := range map[string]struct {
		files map[string]string
		// link is what /etc/resolv.conf is a link to, and writes is what the agent writes.
		link, writes string
		wants        string
	}{
		"networkd alone": {plain, "../run/sharedos/resolv.conf", "/run/sharedos/resolv.conf", "networkd resolver online"},
		"with resolved":  {with(map[string]string{resolved: ""}), stub, "", "networkd resolved online"},
		"a link to resolved, which is not there": {with(map[string]string{"etc/resolv.conf": "->" + stub}), stub,
			"/run/systemd/resolve/stub-resolv.conf", "networkd resolver online"},
		"resolved comes with a later release": {with(map[string]string{resolved: "",
			"etc/resolv.conf": "->../run/sharedos/resolv.conf"}), stub, "",
			"networkd resolved online"},
		"a later boot": {with(map[string]string{"etc/resolv.conf": "->/run/sharedos/resolv.conf"}),
			"/run/sharedos/resolv.conf",
			"/run/sharedos/resolv.conf", "networkd resolver online"},
		"a file of its own": {with(map[string]string{"etc/resolv.conf": "nameserver 192.0.2.1"}),
			"", "", "networkd online"},
		"a link of its own": {with(map[string]string{"etc/resolv.conf": "->own.conf"}),
			"own.conf", "", "networkd online"},
		"without wait-online": {map[string]string{networkd: ""}, "../run/sharedos/resolv.conf",
			"/run/sharedos/resolv.conf", "networkd resolver"},
		"NetworkManager": {with(map[string]string{"usr/sbin/NetworkManager": ""}), "", "", ""},
		"ifupdown": {with(map[string]string{"etc/network/interfaces": "iface eth0 inet dhcp"}), "", "",
			""},
		"nothing for a network":  {nil, "", "", ""},
		"no interface in the VM": {plain, "../run/sharedos/resolv.conf", "/run/sharedos/resolv.conf", "networkd resolver"},
	} {
		t.Run(name, func(t *testing.T) {
			root := systemWith(t, c.files)
			files, links, err := network(root, name != "no interface in the VM")
			if err != nil {
				t.Fatal(err)
			}
			if link, _ := os.Readlink(filepath.Join(root, "etc/resolv.conf")); link != c.link {
				t.Errorf("/etc/resolv.conf is a link to %q, want %q", link, c.link)
			}
			var wants []string
			for _, link := range links {
				short := map[string]string{
					"multi-user.target systemd-networkd.service":                 "networkd",
					"multi-user.target systemd-resolved.service":                 "resolved",
					"systemd-networkd.service sharedos-resolver.path":            "resolver",
					"network-online.target systemd-networkd-wait-online.service": "online",
				}[link.target+" "+link.unit]
				wants = append(wants, short)
			}
			if got := strings.Join(wants, " "); got != c.wants {
				t.Errorf("it wants %q, want %q", got, c.wants)
			}
			text := strings.Join(slices.Collect(maps.Values(files)), "\n")
			if got := strings.Contains(text, "resolver "+c.writes+"\n"); c.writes != "" && !got ||
				c.writes == "" && strings.Contains(text, " resolver ") {
				t.Errorf("its units are\n%s", text)
			}
			if c.writes != "" && strings.Contains(c.wants, "online") &&
				strings.Count(text, "resolver "+c.writes+"\n") != 2 {
				t.Errorf("network-online.target does not wait for the name servers:\n%s", text)
			}
		})
	}
}

func TestResolvConfSaysWhatNetworkdHas(t *testing.T) {
	const header = "# Written by the agent of Shared OS from what systemd-networkd has.\n"
	for state, want := range map[string]string{
		"": "",
		"OPER_STATE=routable\nDNS=10.0.2.3 2001:db8::53\nDOMAINS=example.com lan ~.\n": "nameserver 10.0.2.3\nnameserver 2001:db8::53\nsearch example.com lan\n",
		"DNS=1.1.1.1 2.2.2.2 3.3.3.3 4.4.4.4":                                          "nameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\n",
		"DNS=1.1.1.1#dns.example [::1]:53 \"\nDNSX=5.5.5.5\n":                          "",
		"DNS=fe80::1%2 10.0.0.1":                                                       "nameserver fe80::1%2\nnameserver 10.0.0.1\n",
	} {
		if got := string(resolverText(state)); got != header+want {
			t.Errorf("%q becomes %q", state, got)
		}
	}
}

func TestANetworkInterfaceIsKnownBeforeItsDriver(t *testing.T) {
	devices := systemWith(t, map[string]string{"0000:00:1f.0/class": "0x060100\n", "0000:01:00.0/class": "0x010000\n"})
	if hasInterface(devices) || hasInterface(filepath.Join(devices, "missing")) {
		t.Error("there is none")
	}
	if !hasInterface(systemWith(t, map[string]string{"0000:02:00.0/class": "0x020000\n"})) {
		t.Error("there is one")
	}
}

// Networks are for the manager that the base has, and count at boots until the guest is configured for the first time.
func TestNetworksOfTheFirstBoot(t *testing.T) {
	const networkd, nm = "usr/lib/systemd/systemd-networkd", "usr/sbin/NetworkManager"
	const own, keyfile = "systemd/network/05-sharedos-lan.network",
		"NetworkManager/system-connections/sharedos-lan.nmconnection"
	lan := map[string]guestconfig.Network{"lan": {MAC: "52:54:00:00:00:01", Addresses: []string{"192.0.2.10/24"}}}
	for name, c := range map[string]struct {
		files    map[string]string
		networks map[string]guestconfig.Network
		// configured is true if the guest was configured before.
		configured bool
		manager    guestconfig.Manager
		instead    string
		want       string
	}{
		"networkd": {files: map[string]string{networkd: ""}, networks: lan,
			manager: guestconfig.Networkd, want: own},
		"NetworkManager": {files: map[string]string{nm: ""}, networks: lan,
			manager: guestconfig.NetworkManager, want: keyfile},
		"both": {files: map[string]string{networkd: "", nm: ""}, networks: lan,
			manager: guestconfig.NetworkManager, want: keyfile},
		"netplan and networkd": {files: map[string]string{networkd: "", "etc/netplan/a.yaml": ""}, networks: lan, manager: guestconfig.Networkd, want: own},
		"ifupdown": {files: map[string]string{networkd: "",
			"etc/network/interfaces": "iface eth0 inet dhcp\n"}, networks: lan, instead: "ifupdown"},
		"nothing":     {networks: lan},
		"no networks": {files: map[string]string{networkd: ""}, manager: guestconfig.Networkd},
		"a later boot": {files: map[string]string{networkd: ""}, networks: lan, configured: true,
			manager: guestconfig.Networkd},
	} {
		t.Run(name, func(t *testing.T) {
			root, run, state := systemWith(t, c.files), t.TempDir(), t.TempDir()
			if c.configured {
				state = systemWith(t, map[string]string{"configuration/record.json": "{}"})
			}
			if manager, instead := NetworkManagerOf(root); manager != c.manager || instead != c.instead {
				t.Errorf("its network is managed by %q, %q", manager, instead)
			}
			if err := installNetworks(root, run, state, c.networks); err != nil {
				t.Fatal(err)
			}
			found, err := filepath.Glob(filepath.Join(run, "*/*/*"))
			if err != nil || len(found) > 0 != (c.want != "") ||
				len(found) > 0 && found[0] != filepath.Join(run, c.want) {
				t.Fatalf("it has %v, %v", found, err)
			}
			if c.want == keyfile {
				if info, err := os.Stat(found[0]); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("its mode is %v, %v", info, err)
				}
			}
		})
	}
	if err := installNetworks(systemWith(t, map[string]string{networkd: ""}), t.TempDir(), t.TempDir(),
		map[string]guestconfig.Network{"../x": lan["lan"]}); err == nil {
		t.Error("a network with a path is written")
	}
}

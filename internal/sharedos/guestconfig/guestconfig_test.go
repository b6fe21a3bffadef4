package guestconfig_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

func file() guestconfig.File {
	return guestconfig.File{Content: []byte("x"), Mode: 0o644, Owner: "root", Group: "0"}
}

func pointer[T any](v T) *T { return &v }

// full uses everything that a document can have.
func full() *guestconfig.Document {
	secret := guestconfig.File{Secret: true, SecretVersion: 3, Mode: 0o640, Owner: "alice", Group: "adm"}
	own := file()
	own.Restart, own.Reload = []string{"a.service"}, []string{"b@1.service"}
	return &guestconfig.Document{
		Version: guestconfig.Version,
		Files:   map[string]guestconfig.File{"/etc/motd": own, "/opt/a/key": secret, "/usr/local/bin/x y": file()},
		Units: map[string]guestconfig.Unit{
			"a.service": {Content: pointer("[Service]"), DropIns: map[string]string{"x.conf": "[Service]"},
				Enabled: pointer(true), Started: pointer(false)},
			"b@.service": {Content: pointer("[Service]")},
		},
		Users: map[string]guestconfig.User{
			"alice": {UID: pointer(uint32(1234)), Home: "/home/alice", Shell: "/bin/sh", Groups: []string{"adm"},
				AuthorizedKeys: []string{"ssh-ed25519 AAAA a"}, Sudo: true},
			"bob": {Home: "/home/bob", Shell: "/bin/sh", Groups: []string{"alice"}},
		},
		Sysctl:   map[string]string{"net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/forwarding": "0"},
		TimeZone: "America/Argentina/Buenos_Aires", Locale: "de_DE.UTF-8@euro",
		Networks: map[string]guestconfig.Network{
			"lan": {
				MAC: "52:54:00:00:00:01", AcceptRA: true, Addresses: []string{"192.0.2.10/24", "2001:db8::a/64"},
				Gateways: []string{"192.0.2.1", "fe80::1"},
				Routes: []guestconfig.Route{{To: "10.0.0.0/8", Via: "192.0.2.2", Metric: pointer(uint32(7))},
					{To: "198.51.100.0/24"}},
				DNS: []string{"192.0.2.3", "2001:db8::3"}, Search: []string{"example.org", "a.test"}, MTU: 1400,
			},
			"wan": {MAC: "52:54:00:00:00:02", DHCP4: true, DHCP6: true, Metric: pointer(uint32(50))},
		},
		Swap: 16 << 20,
	}
}

func TestADocumentIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	text, err := full().Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := guestconfig.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	again, err := read.Encode()
	if err != nil || string(again) != string(text) {
		t.Errorf("it is\n%s\nand was\n%s", again, text)
	}
	one, err := full().ID()
	other, errOther := read.ID()
	if err != nil || errOther != nil || one != other || !strings.HasPrefix(one, "sha256:") {
		t.Errorf("ids %s and %s", one, other)
	}
	if id, err := guestconfig.New().ID(); id != "" || err != nil {
		t.Errorf("without anything: %q, %v", id, err)
	}
}

func TestEverythingBecomesFiles(t *testing.T) {
	t.Parallel()
	var paths []string
	items := map[string]guestconfig.Item{}
	for _, item := range full().Items(guestconfig.Networkd) {
		paths, items[item.Path] = append(paths, item.Path), item
	}
	want := `/etc/locale.conf /etc/localtime /etc/motd /etc/sudoers.d/90-sharedos-alice /etc/sysctl.d/90-sharedos-configuration.conf ` +
		`/etc/systemd/network/05-sharedos-lan.network /etc/systemd/network/05-sharedos-wan.network /etc/systemd/system/a.service /etc/systemd/system/a.service.d/x.conf /etc/systemd/system/b@.service ` +
		`/etc/systemd/system/swap.target.wants/var-lib-sharedos-swapfile.swap /etc/systemd/system/var-lib-sharedos-swapfile.swap /etc/sysusers.d/90-sharedos-configuration.conf ` +
		`/etc/tmpfiles.d/90-sharedos-configuration.conf /opt/a/key /usr/local/bin/x y`
	if got := strings.Join(paths, " "); got != want {
		t.Errorf("they are\n%s\nwant\n%s", got, want)
	}
	for name, want := range map[string]string{
		guestconfig.SysusersFile: "g adm -\nu alice 1234 \"\" /home/alice /bin/sh\nu bob - \"\" /home/bob /bin/sh\nm alice adm\nm bob alice\n",
		guestconfig.TmpfilesFile: "d /home/alice 0700 alice alice -\nd /home/alice/.ssh 0700 alice alice -\nd /home/bob 0700 bob bob -\n",
		guestconfig.SysctlFile:   "net.ipv4.ip_forward = 1\nnet/ipv4/conf/eth0.1/forwarding = 0\n",
		guestconfig.LocaleFile:   "LANG=de_DE.UTF-8@euro\n",
	} {
		if got := string(items[name].Content); got != want {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
	if items["/etc/localtime"].Link != "../usr/share/zoneinfo/America/Argentina/Buenos_Aires" ||
		items["/etc/sudoers.d/90-sharedos-alice"].Mode != 0o440 {
		t.Errorf("%+v", items)
	}
}

func TestWhatNoGuestCanHaveIsAProblem(t *testing.T) {
	t.Parallel()
	at := func(name string) func(*guestconfig.Document) {
		return func(d *guestconfig.Document) { d.Files[name] = file() }
	}
	with := func(change func(f *guestconfig.File)) func(*guestconfig.Document) {
		return func(d *guestconfig.Document) {
			f := file()
			change(&f)
			d.Files["/etc/x"] = f
		}
	}
	unit := func(name string, u guestconfig.Unit) func(*guestconfig.Document) {
		return func(d *guestconfig.Document) { d.Units[name] = u }
	}
	user := func(name string, change func(u *guestconfig.User)) func(*guestconfig.Document) {
		return func(d *guestconfig.Document) {
			u := d.Users["alice"]
			change(&u)
			d.Users[name] = u
		}
	}
	network := func(change func(n *guestconfig.Network)) func(*guestconfig.Document) {
		return func(d *guestconfig.Document) {
			n := d.Networks["lan"]
			change(&n)
			d.Networks["lan"] = n
		}
	}
	empty := guestconfig.Unit{Content: pointer("[Unit]")}
	for name, test := range map[string]struct {
		change func(*guestconfig.Document)
		at     string
	}{
		"relative":           {at("etc/x"), `files["etc/x"]`},
		"upwards":            {at("/etc/../usr/bin/x"), `files["/etc/../usr/bin/x"]`},
		"a directory":        {at("/etc/x/"), `files["/etc/x/"]`},
		"the stack's":        {at("/usr/lib/x"), `files["/usr/lib/x"]`},
		"the kernel's":       {at("/proc/sys/x"), `files["/proc/sys/x"]`},
		"the agent's":        {at("/run/sharedos/x"), `files["/run/sharedos/x"]`},
		"a top directory":    {at("/etc"), `files["/etc"]`},
		"a second name":      {at("/var/usrlocal/bin/x"), `files["/var/usrlocal/bin/x"]`},
		"accounts":           {at("/etc/shadow"), `files["/etc/shadow"]`},
		"a copy of accounts": {at("/etc/group-"), `files["/etc/group-"]`},
		"root's keys":        {at("/root/.ssh/authorized_keys"), `files["/root/.ssh/authorized_keys"]`},
		"a line end":         {at("/etc/a\nb"), `files["/etc/a\nb"]`},
		"no text":            {at("/etc/\xff"), `files["/etc/\xff"]`},
		"a long name":        {at("/etc/" + strings.Repeat("x", 201)), ""},
		"a long path":        {at("/etc" + strings.Repeat("/x", 600)), ""},
		"setuid":             {with(func(f *guestconfig.File) { f.Mode = 0o4755 }), `files["/etc/x"].mode`},
		"a secret for everybody": {with(func(f *guestconfig.File) { f.Secret, f.Content = true, nil }),
			`files["/etc/x"].mode`},
		"a secret in the document": {with(func(f *guestconfig.File) { f.Secret, f.Mode = true, 0o600 }),
			`files["/etc/x"]`},
		"no owner": {with(func(f *guestconfig.File) { f.Owner = "" }), `files["/etc/x"].owner`},
		"no number": {with(func(f *guestconfig.File) { f.Group = "4294967295" }),
			`files["/etc/x"].group`},
		"no unit to restart": {with(func(f *guestconfig.File) { f.Restart = []string{"x"} }),
			`files["/etc/x"].restart`},
		"the agent's unit to reload": {with(
			func(f *guestconfig.File) { f.Reload = []string{"sharedos-agent.service"} }), `files["/etc/x"].reload`},
		"no unit":            {unit("x", empty), `units["x"]`},
		"a unit with a path": {unit("../x.service", empty), `units["../x.service"]`},
		"the agent's unit":   {unit("sharedos-agent.service", empty), `units["sharedos-agent.service"]`},
		"a started template": {unit("x@.service", guestconfig.Unit{Started: pointer(true)}),
			`units["x@.service"]`},
		"an empty unit file": {unit("x.service", guestconfig.Unit{Content: pointer(" \n")}),
			`units["x.service"].content`},
		"nothing of a unit": {unit("x.service", guestconfig.Unit{}), `units["x.service"]`},
		"a drop-in with a path": {unit("x.service",
			guestconfig.Unit{DropIns: map[string]string{"../x.conf": ""}}), `units["x.service"].drop_ins["../x.conf"]`},
		"root":                {user("root", func(*guestconfig.User) {}), `users["root"]`},
		"a user with a space": {user("a b", func(*guestconfig.User) {}), `users["a b"]`},
		"the number of root": {user("x", func(u *guestconfig.User) { u.UID = pointer(uint32(0)) }),
			`users["x"].uid`},
		"a home of the stack": {user("x", func(u *guestconfig.User) { u.Home = "/usr/x" }),
			`users["x"].home`},
		"a home with a field": {user("x", func(u *guestconfig.User) { u.Home = "/home/x:0" }),
			`users["x"].home`},
		"a shell with a line end": {user("x", func(u *guestconfig.User) { u.Shell = "/bin/sh\nu evil 0" }),
			`users["x"].shell`},
		"a group with a line end": {user("x", func(u *guestconfig.User) { u.Groups = []string{"a\nb"} }),
			`users["x"].groups`},
		"a key of two lines": {user("x", func(u *guestconfig.User) { u.AuthorizedKeys = []string{"a\nb"} }),
			`users["x"].authorized_keys`},
		"a parameter that goes up": {func(d *guestconfig.Document) { d.Sysctl["net/../../x"] = "1" },
			`sysctl["net/../../x"]`},
		"a parameter of all": {func(d *guestconfig.Document) { d.Sysctl["net.ipv4.conf.*.forwarding"] = "1" }, `sysctl["net.ipv4.conf.*.forwarding"]`},
		"a parameter of two lines": {func(d *guestconfig.Document) { d.Sysctl["vm.swappiness"] = "1\n2" },
			`sysctl["vm.swappiness"]`},
		"a time zone that goes up":   {func(d *guestconfig.Document) { d.TimeZone = "../passwd" }, `time_zone`},
		"a locale with more":         {func(d *guestconfig.Document) { d.Locale = "C\nX=1" }, `locale`},
		"a unit that is a file, too": {at("/etc/systemd/system/a.service"), `units["a.service"].content`},
		"a file below a file":        {at("/etc/motd/x"), `files["/etc/motd/x"]`},
		"an address without length": {network(func(n *guestconfig.Network) { n.Addresses[1] = "2001:db8::1" }),
			`networks["lan"].addresses`},
		"an address of a whole network": {network(func(n *guestconfig.Network) { n.Addresses[1] = "203.0.113.0/24" }), `networks["lan"].addresses`},
		"a broadcast address": {network(func(n *guestconfig.Network) { n.Addresses[1] = "203.0.113.127/25" }),
			`networks["lan"].addresses`},
		"an address of many": {network(func(n *guestconfig.Network) { n.Addresses[1] = "ff02::1/64" }),
			`networks["lan"].addresses`},
		"an address of nobody": {network(func(n *guestconfig.Network) { n.Addresses[1] = "0.0.0.0/8" }),
			`networks["lan"].addresses`},
		"an address of the loopback": {network(func(n *guestconfig.Network) { n.Addresses[1] = "127.0.0.2/8" }),
			`networks["lan"].addresses`},
		"an address with a line end": {network(func(n *guestconfig.Network) { n.Addresses[1] = "fe80::1%a\n/64" }),
			`networks["lan"].addresses`},
		"an address in all networks": {network(func(n *guestconfig.Network) { n.Addresses[1] = "203.0.113.1/0" }),
			`networks["lan"].addresses`},
		"an address twice": {network(func(n *guestconfig.Network) { n.Addresses[1] = "192.0.2.10/25" }),
			`networks["lan"].addresses`},
		"an address of two interfaces": {func(d *guestconfig.Document) {
			d.Networks["x"] = guestconfig.Network{MAC: "52:54:00:00:00:03", Addresses: []string{"192.0.2.10/16"}}
		}, `networks["x"].addresses`},
		"a MAC address of two interfaces": {func(d *guestconfig.Document) { d.Networks["x"] = guestconfig.Network{MAC: "52:54:00:00:00:02"} }, `networks["x"]`},
		"no MAC address":                  {func(d *guestconfig.Document) { d.Networks["x"] = guestconfig.Network{MAC: "52:54:00:00:00:0G"} }, `networks["x"]`},
		"a network with a path":           {func(d *guestconfig.Document) { d.Networks["../x"] = guestconfig.Network{MAC: "52:54:00:00:00:03"} }, `networks["../x"]`},
		"a gateway elsewhere": {network(func(n *guestconfig.Network) { n.Gateways[0] = "203.0.113.1" }),
			`networks["lan"].gateways`},
		"a gateway that is itself": {network(func(n *guestconfig.Network) { n.Gateways[0] = "192.0.2.10" }),
			`networks["lan"].gateways`},
		"two gateways of a family": {network(func(n *guestconfig.Network) { n.Gateways[1] = "192.0.2.2" }),
			`networks["lan"].gateways`},
		"a gateway without addresses": {network(
			func(n *guestconfig.Network) { *n = guestconfig.Network{MAC: n.MAC, Gateways: []string{"192.0.2.1"}} }),
			`networks["lan"].gateways`},
		"two defaults with a metric": {func(d *guestconfig.Document) {
			d.Networks["x"] = guestconfig.Network{MAC: "52:54:00:00:00:03", Addresses: []string{"203.0.113.2/24"},
				Gateways: []string{"203.0.113.1"}, Metric: pointer(uint32(guestconfig.DefaultMetric))}
		}, `networks["x"].gateways`},
		"a route twice": {network(
			func(n *guestconfig.Network) { n.Routes = append(n.Routes, n.Routes[0]) }), `networks["lan"].routes`},
		"a route to a host's network": {network(func(n *guestconfig.Network) { n.Routes[1].To = "10.0.0.1/8" }),
			`networks["lan"].routes`},
		"a route of two families": {network(func(n *guestconfig.Network) { n.Routes[0].Via = "2001:db8::1" }),
			`networks["lan"].routes`},
		"a route by nowhere": {network(func(n *guestconfig.Network) { n.Routes[0].Via = "203.0.113.1" }),
			`networks["lan"].routes`},
		"a route without a metric": {network(
			func(n *guestconfig.Network) { n.Routes[0].Metric = pointer(uint32(0)) }), `networks["lan"].routes`},
		"a metric of nothing": {network(func(n *guestconfig.Network) { n.Metric = pointer(uint32(0)) }),
			`networks["lan"].metric`},
		"a name server by name": {network(func(n *guestconfig.Network) { n.DNS[0] = "dns.example.org" }),
			`networks["lan"].dns`},
		"a domain of two lines": {network(func(n *guestconfig.Network) { n.Search[0] = "a\nb" }),
			`networks["lan"].search`},
		"a domain with a space": {network(func(n *guestconfig.Network) { n.Search[0] = "a b" }),
			`networks["lan"].search`},
		"a small MTU": {network(func(n *guestconfig.Network) { n.MTU = 67 }),
			`networks["lan"].mtu`},
		"an MTU too small for IPv6": {network(func(n *guestconfig.Network) { n.MTU = 1279 }),
			`networks["lan"].mtu`},
		"a large MTU": {network(func(n *guestconfig.Network) { n.MTU = 65536 }),
			`networks["lan"].mtu`},
		"a network that is a file, too": {at("/etc/systemd/network/05-sharedos-lan.network"), `networks["lan"]`},
		"a keyfile that is a file, too": {at("/etc/NetworkManager/system-connections/sharedos-wan.nmconnection"),
			`networks["wan"]`},
		"a swap file that is small": {func(d *guestconfig.Document) { d.Swap = 4096 }, `swap`},
		"a swap file of half a MiB": {func(d *guestconfig.Document) { d.Swap = 3 << 19 }, `swap`},
		"a swap file that is large": {func(d *guestconfig.Document) { d.Swap = guestconfig.MaxSwap + 1<<20 },
			`swap`},
		"a swap unit that is a unit, too": {unit(guestconfig.SwapUnit, guestconfig.Unit{Content: pointer("[Swap]")}), `units["var-lib-sharedos-swapfile.swap"].content`},
		"too many files": {func(d *guestconfig.Document) {
			for i := range guestconfig.MaxEntries + 1 {
				d.Files[fmt.Sprint("/etc/x/", i)] = file()
			}
		}, `files`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := full()
			test.change(d)
			problems := d.Check()
			if len(problems) != 1 || test.at != "" && guestconfig.Attribute(problems[0].At) != test.at {
				t.Fatalf("problems %v", problems)
			}
			text, err := d.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := guestconfig.Decode(text); !errors.Is(err, guestconfig.ErrDocument) &&
				test.at != `files["/etc/\xff"]` { // JSON replaces what is no text
				t.Errorf("it is read: %v", err)
			}
		})
	}
}

func TestWhatIsTooLargeIsRefused(t *testing.T) {
	t.Parallel()
	d := full()
	d.Files["/etc/large"] = guestconfig.File{Content: make([]byte, guestconfig.MaxDocument), Mode: 0o644,
		Owner: "root", Group: "root"}
	if _, err := d.Encode(); !errors.Is(err, guestconfig.ErrTooLarge) {
		t.Errorf("a document: %v", err)
	}
	if _, err := guestconfig.Decode(make([]byte, guestconfig.MaxDocument+1)); !errors.Is(err, guestconfig.ErrTooLarge) {
		t.Errorf("its bytes: %v", err)
	}
	secrets := guestconfig.Secrets{"/opt/a/key": make([]byte, guestconfig.MaxSecrets+1)}
	if err := secrets.Check(full()); !errors.Is(err, guestconfig.ErrTooLarge) {
		t.Errorf("secrets: %v", err)
	}
}

func TestSecretsAreThoseOfTheirDocumentAndAreNotShown(t *testing.T) {
	t.Parallel()
	for name, secrets := range map[string]guestconfig.Secrets{"missing": {},
		"of no secret file": {"/opt/a/key": nil, "/etc/motd": nil}} {
		if err := secrets.Check(full()); !errors.Is(err, guestconfig.ErrDocument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	secrets := guestconfig.Secrets{"/opt/a/key": []byte("hidden")}
	if err := secrets.Check(full()); err != nil {
		t.Error(err)
	}
	encoded, err := secrets.MarshalJSON()
	if shown := fmt.Sprintf("%v %+v %#v %s %s", secrets, secrets, secrets, secrets, encoded); err != nil ||
		strings.Contains(shown, "hidden") {
		t.Errorf("they are shown: %s", shown)
	}
}

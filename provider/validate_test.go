package provider_test

import (
	"regexp"
	"strings"
	"testing"
)

// TestBadConfigurationIsRefused puts every mistake into one configuration, because Terraform reports all of them at
// once.
func TestBadConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	digits := "sha256:" + strings.Repeat("0", 64)
	mistakes := map[string]struct {
		config string
		want   *regexp.Regexp // in the error about it
	}{
		"two_sources": {
			strings.Replace(debian(patched), "debian =", "archive = { path = \"x.tar\" }\n  debian =", 1),
			says(`Unable to choose the source of base "debian-13"`, "debian and archive are set", "Keep one"),
		},
		"component_of_two": {
			`resource "sharedos_component" "debian" {
  name      = "twice"
  base      = "` + digits + `"
  archive   = { path = "x.tar" }
  directory = { path = "x" }
}`,
			says(`Unable to choose the source of component "twice"`, "archive and directory are set",
				"a component is read from exactly one source"),
		},
		"component_on_a_name": {
			`resource "sharedos_component" "debian" {
  name    = "named"
  base    = "debian-13"
  archive = { path = "x.tar" }
}`,
			says(`Unable to use "debian-13" as base`, "sharedos_base.debian.release"),
		},
		"component_name": {
			`resource "sharedos_component" "debian" {
  name    = "My Tool"
  base    = "` + digits + `"
  archive = { path = "x.tar" }
}`,
			says("a name has 1 to 63 lower-case letters"),
		},
		"component_file": {
			`resource "sharedos_component" "debian" {
  name   = "hostly"
  base   = "` + digits + `"
  debian = { packages = ["x"], files = { "/etc/hostname" = { content = "x" } } }
}`,
			says(`Unable to read the source of component "hostly"`, "/etc/hostname would not be in a VM"),
		},
		"owners": {
			`resource "sharedos_base" "debian" {
  name      = "owners"
  directory = { path = "x", owner = "root", uid_map = [{ on_disk = 1, in_tree = 0, count = 1 }] }
}`,
			says(`Unable to read the source of base "owners"`, `owner is "root" and there is a map`),
		},
		"no_digest": {
			`resource "sharedos_base" "debian" {
  name    = "unchecked"
  archive = { url = "https://example.com/x.tar" }
}`,
			says(`Unable to read the source of base "unchecked"`, "sha256 is not set"),
		},
		"two_files": {
			`resource "sharedos_base" "debian" {
  name       = "twofold"
  disk_image = { path = "x", url = "https://example.com/x", sha256 = "` + digits[len("sha256:"):] + `" }
}`,
			says(`Unable to read the source of base "twofold"`, "exactly one of path and url"),
		},
		"no_url": {
			`resource "sharedos_base" "debian" {
  name    = "local"
  archive = { url = "rootfs.tar", sha256 = "` + digits[len("sha256:"):] + `" }
}`,
			says("an http or https URL"),
		},
		"file_path": {debian(patched + `, files = { "etc/motd" = { content = "x" } }`),
			says(`Unable to use "etc/motd"`, "absolute path")},
		"file_of_a_vm": {debian(patched + `, files = { "/etc/hostname" = { content = "x" } }`),
			says(`Unable to read the source of base "debian-13"`, "/etc/hostname would not be in a VM",
				"Remove it from files")},
		"file_twice": {debian(patched + `, files = { "/etc/motd" = { content = "x", from = "y" } }`),
			says("debian.files", "from")},
		"file_mode": {debian(patched + `, files = { "/etc/motd" = { content = "x", mode = "rw" } }`),
			says("three or four octal digits")},
		"key_form": {debian(patched +
			`, repositories = [{ uri = "https://example.com", suite = "stable", key = "key.asc" }]`),
			says("in ASCII armour")},
		"key_of_none": {debian(patched +
			`, mirror_key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n-----END PGP PUBLIC KEY BLOCK-----"`),
			says("mirror")},
		"rights": {debian(patched + `, mode = "sudo"`), says(`"auto", "root", "unshare", "fakechroot"`)},
		"no_image": {
			`resource "sharedos_base" "debian" {
  name = "imageless"
  oci  = {}
}`,
			says(`Unable to read the source of base "imageless"`, "neither reference nor layout is set"),
		},
		"base_name": {strings.Replace(debian(patched), "debian-13", "Debian 13", 1),
			says("a name has 1 to 63 lower-case letters")},
		"unit": {sized("512MB", "4GiB", ""),
			says("Unable to read a size", `"512MB" is not a size`, "B, KiB, MiB, GiB and TiB")},
		"no_unit":       {sized("512", "4GiB", ""), says(`"512" is not a size`)},
		"little_memory": {sized("1MiB", "4GiB", ""), says("1MiB is too small", "at least 128MiB")},
		"odd_disk":      {sized("512MiB", "100000001B", ""), says("no whole number of MiB")},
		"huge_disk":     {sized("512MiB", "9999999999TiB", ""), says("larger than any disk")},
		"no_release": {strings.Replace(web(""), "sharedos_base.debian.release", `"debian-13"`, 1),
			says(`Unable to use "debian-13" as base`, "sharedos_base.debian.release")},
		"two_networks": {web(`interfaces = { lan = { bridge = "br0", network = "default" } }`),
			says(`interfaces["lan"]`, "exactly one of user, bridge, network", "bridge, network")},
		"no_network": {web(`interfaces = { lan = {} }`), says(`interfaces["lan"]`, "none of them is set")},
		"port": {web(`interfaces = { lan = { user = { forwards = { "http" = 80 } } } }`),
			says("TCP port from 1 to 65535")},
		"two_checks": {web(`refresh = { health_checks = { web = { unit = "a", tcp = "b:1" } } }`),
			says(`refresh.health_checks["web"]`, "unit, tcp")},
		"check_elsewhere": {web(`refresh = { health_checks = { web = { http = "http://example.com/" } } }`), says("not the guest's loopback")},
		"check_unit": {web(`refresh = { health_checks = { web = { unit = "nginx" } } }`),
			says(`"nginx"`, "a unit's name ends in its type")},
		"check_template": {web(`refresh = { health_checks = { web = { unit = "getty@.service" } } }`),
			says(`"getty@.service" is a template`)},
		"check_port": {web(`refresh = { health_checks = { web = { http = "http://127.0.0.1:99999/" } } }`),
			says("port is not from 1 to 65535")},
		"check_secret": {web(
			`refresh = { health_checks = { web = { command = ["PGPASSWORD=hunter2 pg_isready"] } } }`),
			says(`health check "web"`, "no shell splits it")},
		"check_tcp": {web(`refresh = { health_checks = { web = { tcp = "127.0.0.1" } } }`),
			says(`"127.0.0.1"`, "a host and a port")},
		"check_tcp_port": {web(`refresh = { health_checks = { web = { tcp = "127.0.0.1:http" } } }`),
			says(`"127.0.0.1:http"`, "a host and a port")},
		"check_tcp_host": {web(`refresh = { health_checks = { web = { tcp = "a b:80" } } }`),
			says(`"a b:80"`, "a host and a port")},
		"check_command": {web(`refresh = { health_checks = { web = { command = ["bin/true"] } } }`),
			says(`health check "web"`, "neither a name nor an absolute path")},
		"check_shell": {web(`refresh = { health_checks = { web = { command = ["pg_isready -q"] } } }`),
			says(`health check "web"`, "no shell splits it")},
		"check_nothing": {web(`refresh = { health_checks = { web = { command = [""] } } }`),
			says(`health check "web"`, "it is empty")},
		"port_twice": {web(
			`interfaces = { a = { user = { forwards = { "8080" = 80 } } }, b = { user = { forwards = { "8080" = 81 } } } }`), says(`interface "a" forwards port 8080`, "Choose another port")},
		"mac": {web(`interfaces = { lan = { bridge = "br0", mac = "52:54:00:AA:00:01" } }`),
			says(`"52:54:00:AA:00:01"`, "a unicast MAC address", "lower case")},
		"mac_multicast": {web(`interfaces = { lan = { bridge = "br0", mac = "01:00:5e:00:00:01" } }`),
			says("a unicast MAC address")},
		"mac_twice": {web(
			`interfaces = { a = { bridge = "br0", mac = "52:54:00:00:00:01" }, b = { user = {}, mac = "52:54:00:00:00:01" } }`), says(`interface "a" has the same MAC address`, "Choose another one")},
		"model": {web(`interfaces = { lan = { bridge = "br0", model = "igb" } }`),
			says(`"igb"`, "virtio", "e1000e")},
		"mtu": {web(`interfaces = { lan = { bridge = "br0", mtu = 67 } }`), says("between 68 and 65521")},
		"mtu_model": {web(`interfaces = { lan = { bridge = "br0", model = "e1000e", mtu = 9000 } }`),
			says(`model "e1000e" does not tell the guest an MTU`, "use the model virtio")},
		"link": {web(`interfaces = { lan = { bridge = "br0", link = "off" } }`),
			says(`"off"`, "up", "down")},
		"queues": {web(`interfaces = { lan = { bridge = "br0", queues = 257 } }`), says("between 1 and 256")},
		"queues_model": {web(`interfaces = { lan = { bridge = "br0", model = "e1000e", queues = 2 } }`),
			says("of the model virtio on a bridge or network", "Leave queues out")},
		"queues_user": {web(`interfaces = { lan = { user = {}, queues = 2 } }`),
			says("of the model virtio on a bridge or network")},
		"vlan": {web(`interfaces = { lan = { bridge = "br0", vlan = 4095 } }`), says("between 1 and 4094")},
		"vlan_network": {web(`interfaces = { lan = { network = "default", vlan = 7 } }`),
			says("a VLAN can be given only with a bridge", "its definition in libvirt says the VLAN")},
		"vlan_user": {web(`interfaces = { lan = { user = {}, vlan = 7 } }`),
			says("a VLAN can be given only with a bridge")},
		"link_user": {web(`interfaces = { lan = { user = {}, link = "down" } }`),
			says("the link of a user-mode network is always up", "Leave link out")},
		"interface_name": {web(`interfaces = { "" = { user = {} } }`), says("a name of 1 to 32 letters")},
		"interface_dot": {web(`interfaces = { "lan.1" = { user = {} } }`),
			says(`"lan.1"`, "a name of 1 to 32 letters")},
		"bridge_name": {web(`interfaces = { lan = { bridge = "br/0" } }`), says(`"br/0"`, "the name of a bridge")},
		"bridge_long": {web(`interfaces = { lan = { bridge = "a-bridge-too-far" } }`),
			says(`"a-bridge-too-far"`, "1 to 15")},
		"bridge_empty": {web(`interfaces = { lan = { bridge = "" } }`), says("the name of a bridge")},
		"network_name": {web(`interfaces = { lan = { network = "my net" } }`),
			says(`"my net"`, "the name of a libvirt network")},
		"processors":     {web(`vcpus = 256`), says("vcpus", "255")},
		"max_processors": {web("vcpus = 3\nmax_vcpus = 2"), says("max_vcpus", "Set max_vcpus to 3 or more")},
		"max_memory":     {web(`max_memory = "256MiB"`), says("max_memory", "Set max_memory to 512MiB or more")},
		"long_hostname": {web(`hostname = "` + strings.Repeat("a", 60) + "." + strings.Repeat("b", 10) + `"`),
			says("at most 64 characters")},
		"name_no_host": {strings.Replace(web(""), `name   = "web"`, `name   = "web_1"`, 1),
			says(`"web_1" is not a host name`, "Set hostname")},
		"strategy": {web(`refresh = { strategy = "magic" }`),
			says(`"live", "soft_reboot", "kexec", "reboot", "next_boot"`)},
		"impact": {web(`refresh = { max_impact = "much" }`),
			says(`"much"`, `"none", "reload", "restart", "soft_reboot", "kexec", "reboot"`)},
		"policy": {web(`refresh = { policy = "ask" }`), says(`"ask"`, `"restart", "reload", "report"`)},
		"unit_policy": {web(`refresh = { units = { "a.service" = { policy = "ask" } } }`),
			says(`units["a.service"]`, `"restart", "reload", "report"`)},
		"unit_name": {web(`refresh = { units = { nginx = { policy = "report" } } }`),
			says("a unit's name ends in its type")},
		"unit_paths": {web(`refresh = { units = { "a.service" = { paths = ["etc/a"] } } }`),
			says("an absolute path in the guest")},
		"settle":          {web(`refresh = { settle = "5" }`), says("duration from 0s to 10m")},
		"keep_files":      {web(`refresh = { keep_files = ["/var/lib/x"] }`), says("a path or pattern below /etc")},
		"restart_timeout": {web(`refresh = { restart_timeout = "0s" }`), says("duration from 1s to 20m")},
		"key": {web(`ssh_authorized_keys = ["one\ntwo"]`),
			says("Unable to use the value of ssh_authorized_keys[0]", "authorized key is one line")},
		"private_key": {
			web("ssh_authorized_keys = [<<EOT\n-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\nEOT\n]"),
			says("Unable to use the value of ssh_authorized_keys[0]", "it is a private key", "the public key"),
		},
		"component_twice":  {web(`components = ["` + digits + `", "` + digits + `"]`), says("duplicate")},
		"unnamed_hostname": {web(`hostname = "not a name"`), says("host name has labels")},
	}
	var config strings.Builder
	for name, mistake := range mistakes {
		one := regexp.MustCompile(`(?m)^resource "(\w+)" "\w+"`).ReplaceAllString(mistake.config,
			`resource "$1" "`+name+`"`)
		config.WriteString(one + "\n")
	}
	config.WriteString(debian(patched))
	command, output := newSession(t, newWorld(t), config.String()).command("validate", "-no-color")
	if err := command.Run(); err == nil {
		t.Fatal("a configuration full of mistakes is valid")
	}
	if strings.Contains(output.String(), "hunter2") {
		t.Error("a private key is printed")
	}
	reported := strings.Split(output.String(), "\nError: ")[1:]
	for name, mistake := range mistakes {
		found := false
		for _, one := range reported {
			found = found || strings.Contains(one, `"`+name+`"`) && mistake.want.MatchString(one)
		}
		if !found {
			t.Errorf("%s: no error matches %s", name, mistake.want)
		}
	}
	if t.Failed() {
		t.Log(output.String())
	}
}

package boot

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

func TestARunningSystemTakesOnHostNameAndKeys(t *testing.T) {
	root, record := t.TempDir(), filepath.Join(t.TempDir(), "identity.json")
	firmware := agentapi.BootConfig{Hostname: "first"}
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"etc", "root"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	is := func(hostname, hosts, keys string) {
		t.Helper()
		if got := read("etc/hostname"); got != hostname+"\n" {
			t.Errorf("the host name is %q, want %q", got, hostname)
		}
		if got := read("etc/hosts"); !strings.Contains(got, hosts) {
			t.Errorf("/etc/hosts is %q, want %q in it", got, hosts)
		}
		if got := read("root/.ssh/authorized_keys"); got != keys {
			t.Errorf("the keys are %q, want %q", got, keys)
		}
	}
	identify := func(hostname string, keys ...string) {
		t.Helper()
		for range 2 {
			if err := give(root, record, firmware,
				agentapi.BootConfig{Hostname: hostname, AuthorizedKeys: keys}); err != nil {
				t.Fatal(err)
			}
		}
	}
	block := func(key string) string { return keysBegin + "\n" + key + "\n" + keysEnd + "\n" }
	identify("web", "first")
	is("web", "127.0.1.1\tweb\n", block("first"))
	write("root/.ssh/authorized_keys", "mine\n"+block("first"))
	identify("db.example.org", "second")
	is("db.example.org", "127.0.1.1\tdb.example.org db\n", "mine\n"+block("second"))
	write("etc/hosts", "127.0.1.1 db.example.org changed\n")
	identify("mail")
	is("mail", "127.0.1.1 db.example.org changed\n", "mine\n")
	for name, wrong := range map[string]agentapi.BootConfig{
		"no host name":         {},
		"a path":               {Hostname: "../x"},
		"two lines in one key": {Hostname: "web", AuthorizedKeys: []string{"a\nb"}},
	} {
		if err := give(root, record, firmware, wrong); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	is("mail", "changed", "mine\n")
}

// A reset or a kexec leaves the firmware as it is, and so the definition of when the VM was powered on.
func TestABootKeepsWhatTheRunningSystemWasGiven(t *testing.T) {
	root, record := t.TempDir(), filepath.Join(t.TempDir(), "identity.json")
	for _, dir := range []string{"etc", "root"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	firmware := agentapi.BootConfig{Hostname: "web", AuthorizedKeys: []string{"revoked", "kept"},
		Operators: []string{"operator"}}
	boots := func(with agentapi.BootConfig, hostname string, keys ...string) {
		t.Helper()
		got, err := withGiven(record, with)
		if err != nil || got.Hostname != hostname || !slices.Equal(got.AuthorizedKeys, keys) ||
			!slices.Equal(got.Operators, with.Operators) {
			t.Errorf("it boots with %+v, %v; want %s, %q", got, err, hostname, keys)
		}
	}
	boots(firmware, "web", "revoked", "kept")
	for range 2 {
		if err := give(root, record, firmware,
			agentapi.BootConfig{Hostname: "db", AuthorizedKeys: []string{"kept"}}); err != nil {
			t.Fatal(err)
		}
		boots(firmware, "db", "kept")
		boots(firmware, "db", "kept")
	}
	// Powered on with another definition: what was given before does not come back.
	boots(agentapi.BootConfig{Hostname: "db", AuthorizedKeys: []string{"kept"}}, "db", "kept")
	boots(firmware, "web", "revoked", "kept")
	// Given db, then powered on with a definition that came later and says web again.
	if err := give(root, record, firmware, agentapi.BootConfig{Hostname: "db"}); err != nil {
		t.Fatal(err)
	}
	later := firmware
	later.Changes = 2
	boots(later, "web", "revoked", "kept")
	for _, damaged := range []string{"", "{}", `{"over":"x","hostname":"a b"}`} {
		if err := os.WriteFile(record, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := withGiven(record, firmware); got.Hostname != "web" || err == nil {
			t.Errorf("%q: %+v, %v", damaged, got, err)
		}
		boots(firmware, "web", "revoked", "kept")
	}
}

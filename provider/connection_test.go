package provider

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

func TestWhetherTerraformWritesItsStateAtEachChange(t *testing.T) {
	for name, test := range map[string]struct {
		text  string
		local bool
	}{
		"never initialised": {"", true},
		"no backend":        {`{"version":3}`, true},
		"local":             {`{"version":3,"backend":{"type":"local","config":{}}}`, true},
		"remote":            {`{"version":3,"backend":{"type":"s3"}}`, false},
		"unknown form":      {`x`, false},
	} {
		dir := t.TempDir()
		if test.text != "" {
			if err := os.WriteFile(filepath.Join(dir, "terraform.tfstate"), []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if local := stateIsLocal(func(string) string { return dir }); local != test.local {
			t.Errorf("%s: local %t", name, local)
		}
	}
}

// closer is a backend of which only Closing is called.
type closer struct {
	Backend
	closing bool
}

func (c *closer) Closing() bool { return c.closing }

// A provider that ended while a connection to a guest that starts another kernel is being closed
// could end the VM's vsock daemon.
func TestAProviderThatClosesAConnectionToAGuestIsNotIdle(t *testing.T) {
	backend := &closer{}
	p := New("test", func(context.Context, Config) (Backend, error) { return backend, nil })
	if !p.Idle() {
		t.Error("a provider that has opened nothing is not idle")
	}
	if _, err := p.connection.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	if backend.closing = true; p.Idle() {
		t.Error("it is idle while a connection is being closed")
	}
	if backend.closing = false; !p.Idle() {
		t.Error("it is not idle when the connection is closed")
	}
}

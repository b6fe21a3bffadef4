package provider_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"

	"github.com/sharedos/terraform-provider-sharedos/provider"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// session runs Terraform commands in one directory on one world.
type session struct {
	t     *testing.T
	world *providertest.World
	dir   string
	// started is called with each provider; nil for nothing.
	started func(*provider.Provider)
	// served is the provider of the last command.
	served *provider.Provider
}

func newSession(t *testing.T, world *providertest.World, config string) *session {
	t.Helper()
	s := &session{t: t, world: world, dir: t.TempDir()}
	s.configure(config)
	return s
}

// configure replaces the configuration.
func (s *session) configure(config string) {
	s.t.Helper()
	config = "terraform {\n  required_providers {\n    sharedos = { source = \"sharedos/sharedos\" }\n  }\n}\n" + config
	if err := os.WriteFile(filepath.Join(s.dir, "main.tf"), []byte(config), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// commandLimit bounds one Terraform command, and a step at which one is held. Beside other load a command may take a
// minute.
const commandLimit = 10 * time.Minute

// command starts a new provider for one command, as Terraform does.
func (s *session) command(args ...string) (*exec.Cmd, *bytes.Buffer) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	reattach, closed := make(chan *plugin.ReattachConfig, 1), make(chan struct{})
	address := strings.Replace(provider.Address, "registry.terraform.io", os.Getenv("TF_ACC_PROVIDER_HOST"), 1)
	sharedos := provider.New("test", s.world.Open)
	s.served = sharedos
	if s.started != nil {
		s.started(sharedos)
	}
	go func() {
		err := tf6server.Serve(address, func() tfprotov6.ProviderServer { return provider.NewServer(sharedos) },
			tf6server.WithDebug(ctx, reattach, closed), tf6server.WithoutLogStderrOverride(),
			tf6server.WithLoggingSink(s.t), tf6server.WithGoPluginLogger(hclog.NewNullLogger()))
		if err != nil {
			s.t.Errorf("serve the provider: %v", err)
		}
	}()
	s.t.Cleanup(func() { cancel(); <-closed })
	at := <-reattach
	config, err := json.Marshal(map[string]any{address: map[string]any{
		"Protocol": "grpc", "ProtocolVersion": 6, "Pid": os.Getpid(), "Test": true,
		"Addr": map[string]string{"Network": at.Addr.Network(), "String": at.Addr.String()},
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	limit, stop := context.WithTimeout(context.Background(), commandLimit)
	s.t.Cleanup(stop)
	command := exec.CommandContext(limit, terraformPath, args...)
	command.Dir = s.dir
	command.Env = append(os.Environ(), "TF_REATTACH_PROVIDERS="+string(config), "TF_IN_AUTOMATION=1")
	output := &bytes.Buffer{}
	command.Stdout, command.Stderr = output, output
	return command, output
}

func (s *session) run(args ...string) string {
	s.t.Helper()
	command, output := s.command(args...)
	if err := command.Run(); err != nil {
		s.t.Fatalf("terraform %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	if err := s.served.Close(); err != nil { // as when Terraform ends it
		s.t.Errorf("close the provider: %v", err)
	}
	return output.String()
}

// interrupt applies, presses Ctrl-C once when the operation comes to the step, and returns what Terraform said.
func (s *session) interrupt(operation, step string) string {
	s.t.Helper()
	return s.interruptCommand(operation, step, "apply", "-auto-approve", "-no-color")
}

// interruptCommand does the same to any command.
func (s *session) interruptCommand(operation, step string, args ...string) string {
	s.t.Helper()
	reached := make(chan struct{})
	var once sync.Once
	s.world.SetHook(func(ctx context.Context, op, _, at string) error {
		if op != operation || at != step {
			return nil
		}
		once.Do(func() { close(reached) })
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(commandLimit):
			return nil // the test fails since nothing was interrupted
		}
	})
	defer s.world.SetHook(nil)
	command, output := s.command(args...)
	if err := command.Start(); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-reached:
	case <-time.After(commandLimit):
		_ = command.Process.Kill() // it is waited for below
	}
	if err := command.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Error(err)
	}
	if err := command.Wait(); err == nil {
		s.t.Errorf("an interrupted %s ended well:\n%s", args[0], output)
	}
	return output.String()
}

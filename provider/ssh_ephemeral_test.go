package provider_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"golang.org/x/crypto/ssh"

	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// sshServer is the SSH server of a guest, which says for each command that it has run it.
type sshServer struct {
	key ssh.Signer

	mu       sync.Mutex
	commands []string
}

func serveSSH(t *testing.T, world *providertest.World, name string) *sshServer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	must(t, err)
	s := &sshServer{}
	s.key, err = ssh.NewSignerFromKey(private)
	must(t, err)
	world.Guests.Serve(name, 22, s.serve)
	return s
}

// hostKey is the host key as a line.
func (s *sshServer) hostKey() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.key.PublicKey())))
}

// ran are the commands that were run.
func (s *sshServer) ran() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.commands, "\n")
}

func (s *sshServer) serve(conn net.Conn) {
	config := &ssh.ServerConfig{PasswordCallback: func(meta ssh.ConnMetadata,
		password []byte) (*ssh.Permissions, error) {
		if meta.User() != "root" || string(password) != "secret" {
			return nil, errors.New("another password is wanted")
		}
		return &ssh.Permissions{}, nil
	}}
	config.AddHostKey(s.key)
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		_ = conn.Close() // the client wanted the host key alone
		return
	}
	defer func() { _ = server.Close() }() // the client has gone
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		go func() {
			for request := range requests {
				if request.Type != "exec" {
					_ = request.Reply(true, nil) // the client notices
					continue
				}
				var command struct{ Text string }
				_ = ssh.Unmarshal(request.Payload, &command) // an empty command fails the test
				s.mu.Lock()
				s.commands = append(s.commands, command.Text)
				s.mu.Unlock()
				_ = request.Reply(true,
					nil) // the client notices
				_, _ = channel.SendRequest("exit-status", false,
					ssh.Marshal(struct{ Status uint32 }{0})) // the client notices
				_ = channel.Close()
			}
		}()
	}
}

// opens opens sharedos_ssh. close closes it again.
func (c *client) opens(config values) (result map[string]any, told []*tfprotov6.Diagnostic, closed func()) {
	c.t.Helper()
	schemas, err := c.server.GetProviderSchema(c.t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	must(c.t, err)
	schema := schemas.EphemeralResourceSchemas["sharedos_ssh"]
	given := c.dynamic(schema.ValueType(), c.object(schema, config))
	valid, err := c.server.ValidateEphemeralResourceConfig(c.t.Context(),
		&tfprotov6.ValidateEphemeralResourceConfigRequest{TypeName: "sharedos_ssh", Config: given})
	must(c.t, err)
	if errorsIn(valid.Diagnostics) != "" {
		return nil, valid.Diagnostics, nil
	}
	resp, err := c.server.OpenEphemeralResource(c.t.Context(),
		&tfprotov6.OpenEphemeralResourceRequest{TypeName: "sharedos_ssh", Config: given})
	must(c.t, err)
	if errorsIn(resp.Diagnostics) != "" {
		return nil, resp.Diagnostics, nil
	}
	value, err := resp.Result.Unmarshal(schema.ValueType())
	must(c.t, err)
	return goValue(c.t, value).(map[string]any), resp.Diagnostics, func() {
		c.t.Helper()
		ended, err := c.server.CloseEphemeralResource(c.t.Context(),
			&tfprotov6.CloseEphemeralResourceRequest{TypeName: "sharedos_ssh", Private: resp.Private})
		must(c.t, err)
		if text := errorsIn(ended.Diagnostics); text != "" {
			c.t.Error(text)
		}
	}
}

// reach runs a command over SSH at an address, with a host key that has to be the server's.
func reach(ctx context.Context, address, key, command string) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp4", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // all was read
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	known, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key))
	if err != nil {
		return err
	}
	connected, channels, requests, err := ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.Password("secret")}, HostKeyCallback: ssh.FixedHostKey(known),
	})
	if err != nil {
		return err
	}
	session, err := ssh.NewClient(connected, channels, requests).NewSession()
	if err != nil {
		return err
	}
	if err := session.Run(command); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func TestSSHOfAVMIsReachedThroughAPort(t *testing.T) {
	c := fleet(t)
	server := serveSSH(t, c.world, "web")
	web, _ := c.looksUp("sharedos_vm", values{"name": "web"})
	first, told, closeFirst := c.opens(values{"vm": web["uuid"]})
	if len(told) > 0 || first["host"] != "127.0.0.1" || first["host_key"] != server.hostKey() {
		t.Fatalf("it is %v, %v", first, told)
	}
	second, _, closeSecond := c.opens(values{"vm": web["uuid"]})
	for _, opened := range []map[string]any{first, first, second} {
		must(t, reach(t.Context(), fmt.Sprintf("127.0.0.1:%v", opened["port"]), first["host_key"].(string), "uptime"))
	}
	if ran := server.ran(); ran != "uptime\nuptime\nuptime" {
		t.Errorf("it ran %q", ran)
	}
	closeFirst()
	if err := reach(t.Context(), fmt.Sprintf("127.0.0.1:%v", first["port"]), server.hostKey(), "late"); err == nil {
		t.Error("a port that was closed is open")
	}
	must(t, reach(t.Context(), fmt.Sprintf("127.0.0.1:%v", second["port"]), server.hostKey(), "still"))
	closeSecond()
	if !c.idle() {
		t.Error("calls are still counted")
	}
}

// The end of the provider closes the ports that Terraform has not closed.
func TestTheEndOfTheProviderClosesItsPorts(t *testing.T) {
	c := fleet(t)
	server := serveSSH(t, c.world, "web")
	web, _ := c.looksUp("sharedos_vm", values{"name": "web"})
	opened, _, _ := c.opens(values{"vm": web["uuid"]})
	must(t, c.closes())
	if err := reach(t.Context(), fmt.Sprintf("127.0.0.1:%v", opened["port"]), server.hostKey(), "late"); err == nil {
		t.Error("the port is still open")
	}
}

// A plan opens the port of a VM that the apply is going to start.
func TestAVMWhoseSSHDoesNotAnswerIsAWarning(t *testing.T) {
	c := fleet(t)
	uuid := func(name string) any {
		found, _ := c.looksUp("sharedos_vm", values{"name": name})
		return found["uuid"]
	}
	web := uuid("web")
	for name, vm := range map[string]any{"it is off": uuid("off"), "nothing listens": uuid("app"),
		"the guest is silent": web} {
		if vm == web {
			c.world.Guests.Silence("web", true)
		}
		opened, told, closed := c.opens(values{"vm": vm})
		if len(told) != 1 || !strings.Contains(told[0].Summary, "does not answer") ||
			!strings.Contains(told[0].Detail, "sshd-vsock.socket") {
			t.Errorf("%s: %v", name, told)
		}
		if opened["port"] == nil || opened["host_key"] != nil {
			t.Errorf("%s: %v", name, opened)
		}
		closed()
	}
	// Each connection tries again.
	opened, _, closed := c.opens(values{"vm": web})
	c.world.Guests.Silence("web", false)
	server := serveSSH(t, c.world, "web")
	must(t, reach(t.Context(), fmt.Sprintf("127.0.0.1:%v", opened["port"]), server.hostKey(), "uptime"))
	closed()
	for _, vm := range []string{"6ba7b810-9dad-41d1-80b4-00c04fd430c8", "web", "6BA7B810-9DAD-41D1-80B4-00C04FD430C8"} {
		if _, told, _ := c.opens(values{"vm": vm}); errorsIn(told) == "" {
			t.Errorf("%s was opened", vm)
		}
	}
}

// Terraform runs a provisioner over it in the apply that makes the VM.
func TestAProvisionerReachesAVMWithoutANetwork(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	server := serveSSH(t, world, "web")
	s := newSession(t, world, own.base()+web("")+`
ephemeral "sharedos_ssh" "web" { vm = sharedos_vm.web.uuid }

resource "terraform_data" "setup" {
  connection {
    host     = ephemeral.sharedos_ssh.web.host
    port     = ephemeral.sharedos_ssh.web.port
    host_key = ephemeral.sharedos_ssh.web.host_key
    user     = "root"
    password = "secret"
    timeout  = "2m"
  }
  provisioner "remote-exec" { inline = ["touch /root/provisioned"] }
}
`)
	s.run("apply", "-auto-approve", "-no-color")
	if ran := server.ran(); !strings.Contains(ran, "/tmp/terraform_") { // the script that Terraform uploads
		t.Errorf("it ran %q", ran)
	}
}

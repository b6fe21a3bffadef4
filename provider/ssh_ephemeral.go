package provider

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral/schema"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-log/tflog"
	"golang.org/x/crypto/ssh"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

var _ provider.ProviderWithEphemeralResources = (*Provider)(nil)

// EphemeralResources implements provider.ProviderWithEphemeralResources.
func (p *Provider) EphemeralResources(context.Context) []func() ephemeral.EphemeralResource {
	return []func() ephemeral.EphemeralResource{func() ephemeral.EphemeralResource { return &sshResource{} }}
}

// sshResource is the ephemeral resource sharedos_ssh: a port of 127.0.0.1 that leads to the SSH
// server of a VM through its vsock, as long as Terraform runs.
type sshResource struct{ connected }

var (
	_ ephemeral.EphemeralResourceWithConfigure = (*sshResource)(nil)
	_ ephemeral.EphemeralResourceWithClose     = (*sshResource)(nil)
)

// sshPort is the port of the vsock on which the SSH server of a guest listens:
// systemd-ssh-generator(8) has it since systemd 256.
const sshPort = 22

// sshModel is the ephemeral resource sharedos_ssh.
type sshModel struct {
	VM        types.String `tfsdk:"vm"`
	VSockPort types.Int64  `tfsdk:"vsock_port"`
	Host      types.String `tfsdk:"host"`
	Port      types.Int64  `tfsdk:"port"`
	HostKey   types.String `tfsdk:"host_key"`
}

// Metadata implements ephemeral.EphemeralResource.
func (r *sshResource) Metadata(_ context.Context, req ephemeral.MetadataRequest, resp *ephemeral.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_ssh"
}

// Configure implements ephemeral.EphemeralResourceWithConfigure.
func (r *sshResource) Configure(_ context.Context, req ephemeral.ConfigureRequest, resp *ephemeral.ConfigureResponse) {
	r.set(req.ProviderData, &resp.Diagnostics)
}

// Schema implements ephemeral.EphemeralResource.
func (r *sshResource) Schema(_ context.Context, _ ephemeral.SchemaRequest, resp *ephemeral.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "A port of 127.0.0.1 on the machine that runs Terraform, which leads to the SSH server " +
			"of a VM through its vsock, as long as Terraform runs. Provisioners reach the VM by it without a " +
			"network. Each connection to the port is a new one to the VM.",
		Attributes: map[string]schema.Attribute{
			"vm": schema.StringAttribute{
				Required: true, Validators: []validator.String{isUUID},
				MarkdownDescription: "UUID of the VM, as `sharedos_vm.web.uuid`. The UUID of a VM that is new is not known before it was made, so " +
					"Terraform opens the port after that.",
			},
			"vsock_port": schema.Int64Attribute{
				Optional: true, Validators: []validator.Int64{int64validator.Between(1, 1<<32-2)},
				MarkdownDescription: "Port of the VM's vsock. Default: 22, on which systemd has the SSH server listen since version 256.",
			},
			"host": schema.StringAttribute{Computed: true,
				MarkdownDescription: "`127.0.0.1`, for `host` of a connection."},
			"port": schema.Int64Attribute{Computed: true,
				MarkdownDescription: "The TCP port, for `port` of a connection."},
			"host_key": schema.StringAttribute{
				Computed: true,
				MarkdownDescription: "Host key of the SSH server, in the form of a line of `authorized_keys`, for `host_key` of a connection. Null while " +
					"the server does not answer, which is a warning.",
			},
		},
	}
}

// privateForward is the key of the number of a forward in private data.
const privateForward = "forward"

// hostKeyLimit bounds asking a guest for its host key. An emulated one takes seconds.
const hostKeyLimit = 20 * time.Second

// Open implements ephemeral.EphemeralResource. A VM that is off or does not answer yet is no error:
// a plan opens the port, too, and the apply may start the VM.
func (r *sshResource) Open(ctx context.Context, req ephemeral.OpenRequest, resp *ephemeral.OpenResponse) {
	var model sshModel
	if resp.Diagnostics.Append(req.Config.Get(ctx, &model)...); resp.Diagnostics.HasError() {
		return
	}
	uuid, port := model.VM.ValueString(), uint32(sshPort)
	if !model.VSockPort.IsNull() {
		port = uint32(model.VSockPort.ValueInt64()) //nolint:gosec // the schema bounds it
	}
	fail := func(err error) {
		resp.Diagnostics.Append(failed(failure{do: "open SSH to", object: "the VM with UUID " + uuid, err: err})...)
	}
	backend, err := r.connection.get(ctx)
	if err != nil {
		fail(err)
		return
	}
	dial := func(ctx context.Context) (net.Conn, error) { return backend.VMs().Dial(ctx, uuid, port) }
	key, err := hostKey(ctx, dial)
	switch {
	case errors.Is(err, vm.ErrNotFound):
		fail(err)
		return
	case err != nil:
		resp.Diagnostics.AddWarning("SSH of the VM with UUID "+uuid+" does not answer",
			failure{err: err, next: fmt.Sprintf(
				"The port is open, and each connection to it tries again. An SSH server has to listen on port %d of "+
					"the vsock of the VM: with systemd 256 or later and openssh-server it does by itself; otherwise "+
					"add a unit sshd-vsock.socket with ListenStream=vsock::%[1]d and Accept=yes to the "+
					"base.", port)}.detail())
		model.HostKey = types.StringNull()
	default:
		model.HostKey = types.StringValue(key)
	}
	log := context.WithoutCancel(ctx)
	forward, err := transport.NewForward(dial, func(err error) {
		tflog.Warn(log, "unable to forward a connection to SSH",
			map[string]any{"vm": uuid, "error": showable(err.Error())})
	})
	if err != nil {
		fail(err)
		return
	}
	number := r.connection.addForward(forward)
	model.Host, model.Port = types.StringValue("127.0.0.1"), types.Int64Value(int64(forward.Port()))
	resp.Diagnostics.Append(resp.Private.SetKey(ctx, privateForward, []byte(`"`+number+`"`))...)
	resp.Diagnostics.Append(resp.Result.Set(ctx, &model)...)
}

// Close implements ephemeral.EphemeralResourceWithClose.
func (r *sshResource) Close(ctx context.Context, req ephemeral.CloseRequest, resp *ephemeral.CloseResponse) {
	text, diags := req.Private.GetKey(ctx, privateForward)
	var number string
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	err := json.Unmarshal(text, &number)
	if err == nil {
		err = r.connection.closeForward(number)
	}
	if err != nil {
		resp.Diagnostics.Append(failed(failure{do: "close", object: "the port for SSH", err: err})...)
	}
}

// errHaveKey ends an SSH handshake after the server has shown its host key.
var errHaveKey = errors.New("the host key is known")

// hostKey asks an SSH server for its host key, as a line.
func hostKey(ctx context.Context, dial func(context.Context) (net.Conn, error)) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, hostKeyLimit)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends the handshake
	defer stop()
	keys := make(chan ssh.PublicKey, 1)
	_, _, _, err = ssh.NewClientConn(conn, "vsock", &ssh.ClientConfig{
		User: "root",
		HostKeyCallback: func(_ string, _ net.Addr, shown ssh.PublicKey) error {
			keys <- shown
			return errHaveKey
		},
	})
	_ = conn.Close() // only the key was wanted
	select {
	case key := <-keys:
		return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key))), nil
	default:
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return "", fmt.Errorf("ask the SSH server for its host key: %w", err)
}

// addForward keeps a forward until it is closed, at the latest together with the connection. It
// returns what identifies it.
func (c *connection) addForward(forward *transport.Forward) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forwards == nil {
		c.forwards = map[string]*transport.Forward{}
	}
	number := rand.Text()
	c.forwards[number] = forward
	return number
}

// closeForward closes a forward, unless it is closed already.
func (c *connection) closeForward(number string) error {
	c.mu.Lock()
	forward := c.forwards[number]
	delete(c.forwards, number)
	c.mu.Unlock()
	if forward == nil {
		return nil
	}
	return forward.Close()
}

package provider

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
)

// NewServer returns the server of a provider. It is the framework's server, but it releases the context of each call
// when the call has been answered. The framework (v1.19, proto6server.Server.registerContext) keeps the context of each
// call until the process ends, and with it everything that its loggers and the gRPC stream refer to. That is 20 KB for
// each call, and a plan and an apply make eight calls for each VM: after an apply of a thousand VMs, 180 MB were in
// use, and the garbage collector scanned them again and again.
//
// It also has each diagnostic pass through showable, whoever has written it.
//
// This provider has no list resources, actions or state stores, so the server does not implement their interfaces.
func NewServer(p *Provider) tfprotov6.ProviderServer {
	served := providerserver.NewProtocol6(p)()
	if thisInvocation().destroys {
		served = forDestroy{served}
	}
	return server{served, &p.calls}
}

type server struct {
	tfprotov6.ProviderServer
	calls *atomic.Int64
}

// ValidateProviderConfig implements tfprotov6.ProviderServer.
func (s server) ValidateProviderConfig(ctx context.Context, request *tfprotov6.ValidateProviderConfigRequest) (*tfprotov6.ValidateProviderConfigResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ValidateProviderConfig)
}

// ConfigureProvider implements tfprotov6.ProviderServer.
func (s server) ConfigureProvider(ctx context.Context, request *tfprotov6.ConfigureProviderRequest) (*tfprotov6.ConfigureProviderResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ConfigureProvider)
}

// ValidateResourceConfig implements tfprotov6.ResourceServer.
func (s server) ValidateResourceConfig(ctx context.Context, request *tfprotov6.ValidateResourceConfigRequest) (*tfprotov6.ValidateResourceConfigResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ValidateResourceConfig)
}

// UpgradeResourceState implements tfprotov6.ResourceServer.
func (s server) UpgradeResourceState(ctx context.Context, request *tfprotov6.UpgradeResourceStateRequest) (*tfprotov6.UpgradeResourceStateResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.UpgradeResourceState)
}

// ReadResource implements tfprotov6.ResourceServer.
func (s server) ReadResource(ctx context.Context, request *tfprotov6.ReadResourceRequest) (*tfprotov6.ReadResourceResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ReadResource)
}

// PlanResourceChange implements tfprotov6.ResourceServer.
func (s server) PlanResourceChange(ctx context.Context, request *tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.PlanResourceChange)
}

// ApplyResourceChange implements tfprotov6.ResourceServer.
func (s server) ApplyResourceChange(ctx context.Context, request *tfprotov6.ApplyResourceChangeRequest) (*tfprotov6.ApplyResourceChangeResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ApplyResourceChange)
}

// ImportResourceState implements tfprotov6.ResourceServer.
func (s server) ImportResourceState(ctx context.Context, request *tfprotov6.ImportResourceStateRequest) (*tfprotov6.ImportResourceStateResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ImportResourceState)
}

// ValidateDataResourceConfig implements tfprotov6.DataSourceServer.
func (s server) ValidateDataResourceConfig(ctx context.Context, request *tfprotov6.ValidateDataResourceConfigRequest) (*tfprotov6.ValidateDataResourceConfigResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ValidateDataResourceConfig)
}

// ReadDataSource implements tfprotov6.DataSourceServer.
func (s server) ReadDataSource(ctx context.Context, request *tfprotov6.ReadDataSourceRequest) (*tfprotov6.ReadDataSourceResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ReadDataSource)
}

// during serves a call, and counts it, with a context that refers to the caller's context only until the call has been answered.
func during[Request, Response any](ctx context.Context, calls *atomic.Int64, request Request, serve func(context.Context, Request) (Response, error)) (Response, error) {
	calls.Add(1)
	defer calls.Add(-1)
	c := &call{}
	c.within.Store(&ctx)
	defer c.within.Store(&answered)
	response, err := serve(c, request)
	if err == nil {
		show(response)
	}
	return response, err
}

// maxDiagnostic bounds each text of a diagnostic in bytes.
const maxDiagnostic = 32 << 10

// show makes the diagnostics in a response fit to be shown: they hold no secrets, no characters that are invisible, and
// no megabytes. It is the last defence: what may be a secret does not get into diagnostics in the first place.
func show(response any) {
	var diagnostics []*tfprotov6.Diagnostic
	switch r := response.(type) {
	case *tfprotov6.ValidateProviderConfigResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.ConfigureProviderResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.ValidateResourceConfigResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.UpgradeResourceStateResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.ReadResourceResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.PlanResourceChangeResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.ApplyResourceChangeResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.ImportResourceStateResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.ValidateDataResourceConfigResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.ReadDataSourceResponse:
		diagnostics = r.Diagnostics
	}
	for _, d := range diagnostics {
		d.Summary, d.Detail = showable(d.Summary), showable(d.Detail)
	}
}

// showable makes a text of a diagnostic or of the log fit to be shown.
func showable(text string) string {
	return plain.Cut(plain.Hide(plain.Clean(text)), maxDiagnostic)
}

// call is the context of a call. It delegates to the caller's context, and after the answer to one that is canceled and
// refers to nothing.
type call struct {
	within atomic.Pointer[context.Context]
}

var answered = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// Deadline implements context.Context.
func (c *call) Deadline() (time.Time, bool) { return (*c.within.Load()).Deadline() }

// Done implements context.Context.
func (c *call) Done() <-chan struct{} { return (*c.within.Load()).Done() }

// Err implements context.Context.
func (c *call) Err() error { return (*c.within.Load()).Err() }

// Value implements context.Context.
func (c *call) Value(key any) any { return (*c.within.Load()).Value(key) }

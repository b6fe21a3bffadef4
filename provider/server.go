package provider

import (
	"context"
	"sync"
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
// It also passes each diagnostic through showable.
func NewServer(p *Provider) tfprotov6.ProviderServer {
	framework := providerserver.NewProtocol6(p)()
	served := server{framework, &p.calls}
	if thisInvocation().destroys {
		served.ProviderServer = forDestroy{framework}
	}
	if more, ok := framework.(streaming); ok {
		return wholeServer{served, more}
	}
	return served // a framework without list resources and actions
}

type server struct {
	tfprotov6.ProviderServer
	calls *atomic.Int64
}

// ValidateProviderConfig implements tfprotov6.ProviderServer.
func (s server) ValidateProviderConfig(ctx context.Context,
	request *tfprotov6.ValidateProviderConfigRequest) (*tfprotov6.ValidateProviderConfigResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ValidateProviderConfig)
}

// ConfigureProvider implements tfprotov6.ProviderServer.
func (s server) ConfigureProvider(ctx context.Context,
	request *tfprotov6.ConfigureProviderRequest) (*tfprotov6.ConfigureProviderResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ConfigureProvider)
}

// ValidateResourceConfig implements tfprotov6.ResourceServer.
func (s server) ValidateResourceConfig(ctx context.Context,
	request *tfprotov6.ValidateResourceConfigRequest) (*tfprotov6.ValidateResourceConfigResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ValidateResourceConfig)
}

// UpgradeResourceState implements tfprotov6.ResourceServer.
func (s server) UpgradeResourceState(ctx context.Context,
	request *tfprotov6.UpgradeResourceStateRequest) (*tfprotov6.UpgradeResourceStateResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.UpgradeResourceState)
}

// ReadResource implements tfprotov6.ResourceServer.
func (s server) ReadResource(ctx context.Context,
	request *tfprotov6.ReadResourceRequest) (*tfprotov6.ReadResourceResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ReadResource)
}

// PlanResourceChange implements tfprotov6.ResourceServer.
func (s server) PlanResourceChange(ctx context.Context,
	request *tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.PlanResourceChange)
}

// ApplyResourceChange implements tfprotov6.ResourceServer.
func (s server) ApplyResourceChange(ctx context.Context,
	request *tfprotov6.ApplyResourceChangeRequest) (*tfprotov6.ApplyResourceChangeResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ApplyResourceChange)
}

// ImportResourceState implements tfprotov6.ResourceServer.
func (s server) ImportResourceState(ctx context.Context,
	request *tfprotov6.ImportResourceStateRequest) (*tfprotov6.ImportResourceStateResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ImportResourceState)
}

// ValidateDataResourceConfig implements tfprotov6.DataSourceServer.
func (s server) ValidateDataResourceConfig(ctx context.Context,
	request *tfprotov6.ValidateDataResourceConfigRequest) (*tfprotov6.ValidateDataResourceConfigResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ValidateDataResourceConfig)
}

// ReadDataSource implements tfprotov6.DataSourceServer.
func (s server) ReadDataSource(ctx context.Context,
	request *tfprotov6.ReadDataSourceRequest) (*tfprotov6.ReadDataSourceResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.ReadDataSource)
}

// UpgradeResourceIdentity implements tfprotov6.ResourceServer.
func (s server) UpgradeResourceIdentity(ctx context.Context,
	request *tfprotov6.UpgradeResourceIdentityRequest) (*tfprotov6.UpgradeResourceIdentityResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.UpgradeResourceIdentity)
}

// CallFunction implements tfprotov6.FunctionServer.
func (s server) CallFunction(ctx context.Context,
	request *tfprotov6.CallFunctionRequest) (*tfprotov6.CallFunctionResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.CallFunction)
}

// ValidateEphemeralResourceConfig implements tfprotov6.EphemeralResourceServer.
func (s server) ValidateEphemeralResourceConfig(ctx context.Context,
	request *tfprotov6.ValidateEphemeralResourceConfigRequest) (*tfprotov6.ValidateEphemeralResourceConfigResponse,
	error) {
	return during(ctx, s.calls, request, s.ProviderServer.ValidateEphemeralResourceConfig)
}

// OpenEphemeralResource implements tfprotov6.EphemeralResourceServer.
func (s server) OpenEphemeralResource(ctx context.Context,
	request *tfprotov6.OpenEphemeralResourceRequest) (*tfprotov6.OpenEphemeralResourceResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.OpenEphemeralResource)
}

// RenewEphemeralResource implements tfprotov6.EphemeralResourceServer.
func (s server) RenewEphemeralResource(ctx context.Context,
	request *tfprotov6.RenewEphemeralResourceRequest) (*tfprotov6.RenewEphemeralResourceResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.RenewEphemeralResource)
}

// CloseEphemeralResource implements tfprotov6.EphemeralResourceServer.
func (s server) CloseEphemeralResource(ctx context.Context,
	request *tfprotov6.CloseEphemeralResourceRequest) (*tfprotov6.CloseEphemeralResourceResponse, error) {
	return during(ctx, s.calls, request, s.ProviderServer.CloseEphemeralResource)
}

// streaming are the calls whose answers are streams, and what goes with them.
type streaming interface {
	tfprotov6.ListResourceServer
	tfprotov6.ActionServer
}

// wholeServer has list resources and actions in addition.
type wholeServer struct {
	server
	more streaming
}

// ValidateListResourceConfig implements tfprotov6.ListResourceServer.
func (s wholeServer) ValidateListResourceConfig(ctx context.Context,
	request *tfprotov6.ValidateListResourceConfigRequest) (*tfprotov6.ValidateListResourceConfigResponse, error) {
	return during(ctx, s.calls, request, s.more.ValidateListResourceConfig)
}

// ListResource implements tfprotov6.ListResourceServer. The call lasts until its results have been read.
func (s wholeServer) ListResource(ctx context.Context,
	request *tfprotov6.ListResourceRequest) (*tfprotov6.ListResourceServerStream, error) {
	c, end := begin(ctx, s.calls)
	stream, err := s.more.ListResource(c, request)
	if err != nil {
		end()
		return stream, err
	}
	results := stream.Results
	stream.Results = func(push func(tfprotov6.ListResourceResult) bool) {
		defer end()
		results(func(result tfprotov6.ListResourceResult) bool {
			showAll(result.Diagnostics)
			return push(result)
		})
	}
	return stream, nil
}

// ValidateActionConfig implements tfprotov6.ActionServer.
func (s wholeServer) ValidateActionConfig(ctx context.Context,
	request *tfprotov6.ValidateActionConfigRequest) (*tfprotov6.ValidateActionConfigResponse, error) {
	return during(ctx, s.calls, request, s.more.ValidateActionConfig)
}

// PlanAction implements tfprotov6.ActionServer.
func (s wholeServer) PlanAction(ctx context.Context,
	request *tfprotov6.PlanActionRequest) (*tfprotov6.PlanActionResponse, error) {
	return during(ctx, s.calls, request, s.more.PlanAction)
}

// InvokeAction implements tfprotov6.ActionServer. The call lasts until its events have been read.
func (s wholeServer) InvokeAction(ctx context.Context,
	request *tfprotov6.InvokeActionRequest) (*tfprotov6.InvokeActionServerStream, error) {
	c, end := begin(ctx, s.calls)
	stream, err := s.more.InvokeAction(c, request)
	if err != nil {
		end()
		return stream, err
	}
	events := stream.Events
	stream.Events = func(push func(tfprotov6.InvokeActionEvent) bool) {
		defer end()
		events(func(event tfprotov6.InvokeActionEvent) bool {
			if completed, ok := event.Type.(tfprotov6.CompletedInvokeActionEventType); ok {
				showAll(completed.Diagnostics)
			}
			return push(event)
		})
	}
	return stream, nil
}

// begin counts a call. Its context refers to the caller's context until end is called.
func begin(ctx context.Context, calls *atomic.Int64) (c *call, end func()) {
	calls.Add(1)
	c = &call{}
	c.within.Store(&ctx)
	return c, sync.OnceFunc(func() {
		c.within.Store(&answered)
		calls.Add(-1)
	})
}

// during serves a call, and counts it, with a context that refers to the caller's context only
// until the call has been answered.
func during[Request, Response any](ctx context.Context, calls *atomic.Int64, request Request,
	serve func(context.Context, Request) (Response, error)) (Response, error) {
	c, end := begin(ctx, calls)
	defer end()
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
	case *tfprotov6.UpgradeResourceIdentityResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.ValidateEphemeralResourceConfigResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.OpenEphemeralResourceResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.RenewEphemeralResourceResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.CloseEphemeralResourceResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.ValidateListResourceConfigResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.ValidateActionConfigResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.PlanActionResponse:
		diagnostics = r.Diagnostics
	case *tfprotov6.CallFunctionResponse:
		if r.Error != nil {
			r.Error.Text = showable(r.Error.Text)
		}
	}
	showAll(diagnostics)
}

func showAll(diagnostics []*tfprotov6.Diagnostic) {
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

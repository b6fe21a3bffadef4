package transport

import (
	"context"
	"fmt"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
)

// plainTexts makes calls to an agent. Everything that a guest says comes through it: a text in an answer is one line of
// visible characters (plain.Line), and an error is an *AgentError.
type plainTexts struct{ agent agentapi.AgentService }

var _ agentapi.AgentService = plainTexts{}

// AgentError is an error that an agent answers with. Its text is the guest's, on lines that are marked as such.
type AgentError struct{ status *status.Status }

func (e *AgentError) Error() string {
	return fmt.Sprintf("the agent in the VM reports an error (%s):%s", e.status.Code(), plain.Guest(e.status.Message()))
}

// GRPCStatus lets status.Code return the code of the error.
func (e *AgentError) GRPCStatus() *status.Status { return e.status }

// answer makes a call. An error that is not the agent's, such as one of the connection, is returned as it is.
func answer[Request any, Response proto.Message](ctx context.Context, request Request,
	call func(context.Context, Request) (Response, error)) (Response, error) {
	response, err := call(ctx, request)
	if err != nil {
		if said, ok := status.FromError(err); ok {
			err = &AgentError{status.New(said.Code(), plain.Line(said.Message()))}
		}
		return response, err
	}
	cleanTexts(response.ProtoReflect())
	return response, nil
}

// cleanTexts replaces every text in a message. What the contract does not have is removed.
func cleanTexts(message protoreflect.Message) {
	message.SetUnknown(nil)
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		isText, isMessage := field.Kind() == protoreflect.StringKind, field.Message() != nil
		switch {
		case field.IsMap():
			cleanMap(field, value.Map())
		case field.IsList():
			for i, list := 0, value.List(); i < list.Len() && (isText || isMessage); i++ {
				if isText {
					list.Set(i, cleanText(list.Get(i)))
				} else {
					cleanTexts(list.Get(i).Message())
				}
			}
		case isText:
			message.Set(field, cleanText(value))
		case isMessage:
			cleanTexts(value.Message())
		}
		return true
	})
}

// cleanMap replaces the texts of a map. Entries whose keys become the same are one entry.
func cleanMap(field protoreflect.FieldDescriptor, entries protoreflect.Map) {
	clean := map[string]protoreflect.Value{}
	entries.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		if field.MapValue().Message() != nil {
			cleanTexts(value.Message())
		} else if field.MapValue().Kind() == protoreflect.StringKind {
			value = cleanText(value)
		}
		if field.MapKey().Kind() != protoreflect.StringKind {
			entries.Set(key, value)
			return true
		}
		entries.Clear(key)
		clean[plain.Line(key.String())] = value
		return true
	})
	for key, value := range clean {
		entries.Set(protoreflect.ValueOfString(key).MapKey(), value)
	}
}

func cleanText(value protoreflect.Value) protoreflect.Value {
	return protoreflect.ValueOfString(plain.Line(value.String()))
}

// Status implements agentapi.AgentService.
func (p plainTexts) Status(ctx context.Context, request *agentapi.StatusRequest) (*agentapi.StatusResponse, error) {
	return answer(ctx, request, p.agent.Status)
}

// Put implements agentapi.AgentService.
func (p plainTexts) Put(ctx context.Context, request *agentapi.PutRequest) (*agentapi.PutResponse, error) {
	return answer(ctx, request, p.agent.Put)
}

// Assess implements agentapi.AgentService.
func (p plainTexts) Assess(ctx context.Context, request *agentapi.AssessRequest) (*agentapi.AssessResponse, error) {
	return answer(ctx, request, p.agent.Assess)
}

// Refresh implements agentapi.AgentService.
func (p plainTexts) Refresh(ctx context.Context, request *agentapi.RefreshRequest) (*agentapi.RefreshResponse, error) {
	return answer(ctx, request, p.agent.Refresh)
}

// ReleaseLayers implements agentapi.AgentService.
func (p plainTexts) ReleaseLayers(ctx context.Context,
	request *agentapi.ReleaseLayersRequest) (*agentapi.ReleaseLayersResponse, error) {
	return answer(ctx, request, p.agent.ReleaseLayers)
}

// Mapped implements agentapi.AgentService.
func (p plainTexts) Mapped(ctx context.Context, request *agentapi.MappedRequest) (*agentapi.MappedResponse, error) {
	return answer(ctx, request, p.agent.Mapped)
}

// GrowDisk implements agentapi.AgentService.
func (p plainTexts) GrowDisk(ctx context.Context,
	request *agentapi.GrowDiskRequest) (*agentapi.GrowDiskResponse, error) {
	return answer(ctx, request, p.agent.GrowDisk)
}

// Identify implements agentapi.AgentService.
func (p plainTexts) Identify(ctx context.Context,
	request *agentapi.IdentifyRequest) (*agentapi.IdentifyResponse, error) {
	return answer(ctx, request, p.agent.Identify)
}

// SetDisks implements agentapi.AgentService.
func (p plainTexts) SetDisks(ctx context.Context,
	request *agentapi.SetDisksRequest) (*agentapi.SetDisksResponse, error) {
	return answer(ctx, request, p.agent.SetDisks)
}

// Check implements agentapi.AgentService.
func (p plainTexts) Check(ctx context.Context, request *agentapi.CheckRequest) (*agentapi.CheckResponse, error) {
	return answer(ctx, request, p.agent.Check)
}

// Resources implements agentapi.AgentService.
func (p plainTexts) Resources(ctx context.Context,
	request *agentapi.ResourcesRequest) (*agentapi.ResourcesResponse, error) {
	return answer(ctx, request, p.agent.Resources)
}

// Configure implements agentapi.AgentService.
func (p plainTexts) Configure(ctx context.Context,
	request *agentapi.ConfigureRequest) (*agentapi.ConfigureResponse, error) {
	return answer(ctx, request, p.agent.Configure)
}

// Configuration implements agentapi.AgentService.
func (p plainTexts) Configuration(ctx context.Context,
	request *agentapi.ConfigurationRequest) (*agentapi.ConfigurationResponse, error) {
	return answer(ctx, request, p.agent.Configuration)
}

// Replace implements agentapi.AgentService.
func (p plainTexts) Replace(ctx context.Context, request *agentapi.ReplaceRequest) (*agentapi.ReplaceResponse, error) {
	return answer(ctx, request, p.agent.Replace)
}

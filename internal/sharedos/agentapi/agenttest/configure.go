package agenttest

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

// configuration returns the id of what the guest was given last. The caller holds the mutex.
func (a *Agent) configuration() (string, error) {
	if a.document == nil || a.old() {
		return "", nil
	}
	document, err := guestconfig.Decode(a.document)
	if err != nil {
		return "", err
	}
	return document.ID()
}

// Configure implements agentapi.AgentService. It is as strict as a real agent about documents,
// secrets and what somebody has changed.
func (a *Agent) Configure(_ context.Context, request *agentapi.ConfigureRequest) (*agentapi.ConfigureResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.old() {
		return nil, status.Error(codes.Unimplemented, "this agent has no Configure")
	}
	document, err := guestconfig.Decode(request.GetDocument())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	id, err := document.ID()
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	for name, why := range a.drift {
		if !slices.Contains(request.GetOverwrite(), name) {
			return nil, status.Errorf(codes.FailedPrecondition,
				"nothing was changed: %s: %s since it was configured", name, why)
		}
	}
	had, err := a.configuration()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if had == id && len(a.drift) == 0 {
		return &agentapi.ConfigureResponse{}, nil
	}
	impact := &agentapi.Impact{Level: agentapi.Level_NONE}
	for _, unit := range a.Uses {
		impact.Level = agentapi.Level_RESTART
		impact.Units = append(impact.Units,
			&agentapi.UnitImpact{Unit: unit, Level: agentapi.Level_RESTART, Reason: "its configuration differs"})
	}
	if request.GetAssessOnly() {
		return &agentapi.ConfigureResponse{Impact: impact}, nil
	}
	if impact.GetLevel() > max(request.GetMaxImpact(), agentapi.Level_NONE) {
		return nil, status.Error(codes.OutOfRange, "the impact is larger than allowed")
	}
	if err := guestconfig.Secrets(request.GetSecrets()).Check(document); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if a.ConfigureError != "" {
		return nil, status.Error(codes.Aborted, "the configuration was taken back: "+a.ConfigureError)
	}
	a.document, a.drift = request.GetDocument(), nil
	a.configured = append(a.configured, request)
	return &agentapi.ConfigureResponse{Impact: impact}, nil
}

// Configuration implements agentapi.AgentService.
func (a *Agent) Configuration(context.Context,
	*agentapi.ConfigurationRequest) (*agentapi.ConfigurationResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, err := a.configuration()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	answer := &agentapi.ConfigurationResponse{Id: id, Drift: maps.Clone(a.drift)}
	if id != "" {
		answer.Document = a.document
	}
	return answer, nil
}

// Configured returns the requests by which the guest has taken configurations on.
func (a *Agent) Configured() []*agentapi.ConfigureRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.configured)
}

// Change has somebody change what was configured in the guest. why says what differs, by path.
func (a *Agent) Change(why map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drift = maps.Clone(why)
}

// GiveDocument has the guest have been given a document by somebody else.
func (a *Agent) GiveDocument(document []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.document = document
}

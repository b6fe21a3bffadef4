package service

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

func TestCheckNamesWhatFailsAndIsBounded(t *testing.T) {
	agent := newWorld(t).agent()
	checks := []*agentapi.HealthCheck{
		{Name: "web", Kind: &agentapi.HealthCheck_Unit{Unit: "a.service"}}, {Name: "page", Kind: &agentapi.HealthCheck_Http{Http: "http://127.0.0.1/"}},
	}
	answer, err := agent.Check(t.Context(), &agentapi.CheckRequest{HealthChecks: checks})
	if must(t, err); len(answer.GetFailed()) != 1 || answer.GetFailed()[0].GetName() != "web" ||
		answer.GetFailed()[0].GetReason() != "a.service has failed" {
		t.Errorf("got %v", answer)
	}
	for range maxChecks {
		checks = append(checks, checks[0])
	}
	if _, err := agent.Check(t.Context(),
		&agentapi.CheckRequest{HealthChecks: checks}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("too many: %v", err)
	}
}

package impact

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

func TestAnOutcomeHasOneMeaning(t *testing.T) {
	type facts struct {
		level                           agentapi.Level
		keeps, interrupts, stops, along bool
	}
	for outcome, want := range map[Outcome]facts{
		Reloaded:       {level: agentapi.Level_RELOAD},
		Restarted:      {level: agentapi.Level_RESTART, interrupts: true},
		RestartedAlong: {level: agentapi.Level_RESTART, interrupts: true, along: true},
		Stopped:        {level: agentapi.Level_RESTART, interrupts: true, stops: true},
		StoppedAlong:   {level: agentapi.Level_RESTART, interrupts: true, stops: true, along: true},
		Kept:           {level: agentapi.Level_NONE, keeps: true},
		KeptByPolicy:   {level: agentapi.Level_NONE, keeps: true},
		KeptInSession:  {level: agentapi.Level_NONE, keeps: true},
	} {
		got := facts{outcome.Level(), outcome.Keeps(), outcome.Interrupts(), outcome.Stops(), outcome.Along()}
		if got != want {
			t.Errorf("outcome %d: %+v, want %+v", outcome, got, want)
		}
	}
}

package provider

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// The agent names the steps, so their number and their length have limits.
func TestATimelineIsBounded(t *testing.T) {
	report := &agentapi.Report{}
	if got := timelineText(report); got != "" {
		t.Errorf("no steps are %q", got)
	}
	for i := range maxTimeline + 1 {
		report.Timings = append(report.Timings,
			&agentapi.Timing{Step: fmt.Sprintf("%d\n%s", i, strings.Repeat("x", maxStep)), Micros: 10_000})
	}
	steps := timelineOf(report)
	if len(steps) != maxTimeline {
		t.Errorf("%d steps", len(steps))
	}
	for i, one := range steps {
		if !strings.HasPrefix(one.Step, fmt.Sprint(i)) || strings.Contains(one.Step, "\n") ||
			len(one.Step) > maxStep+len("…") || one.MS != 10 {
			t.Errorf("step %d is %+v", i, one)
		}
	}
	if text := timelineText(report); !strings.HasPrefix(text, "0") || !strings.Contains(text, " 10 ms, 1") {
		t.Errorf("as a text: %s", text)
	}
}

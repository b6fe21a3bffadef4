package agentapi

import (
	"fmt"
	"testing"
)

func TestATimelineLeavesOutPartsOfSteps(t *testing.T) {
	var report Report
	for _, step := range []string{"stage", RenewalOf("a.service"), "restart", "come up", "start", "roll back"} {
		report.Timings = append(report.Timings, &Timing{Step: step})
	}
	var names []string
	for _, one := range report.Timeline() {
		names = append(names, one.GetStep())
	}
	if got := fmt.Sprint(names); got != "[stage restart start roll back]" {
		t.Errorf("the timeline is %s", got)
	}
	if got := (*Report)(nil).Timeline(); len(got) > 0 {
		t.Errorf("no report has %v", got)
	}
}

func TestATimeThatIsNegativeIsNone(t *testing.T) {
	for micros, want := range map[int64]float64{-1: 0, 0: 0, 1500: 1.5} {
		if got := (&Timing{Micros: micros}).Milliseconds(); got != want {
			t.Errorf("%d µs are %v ms, want %v", micros, got, want)
		}
	}
}

package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
)

// baseNote is what a plan said about a base.
type baseNote struct {
	// Release is the id; empty if the plan did not know it. Previous is the newest release in state at that time.
	Release  string `json:"release,omitempty"`
	Previous string `json:"previous,omitempty"`
	// Fingerprint is that of the source; empty if the plan did not read it.
	Fingerprint  string `json:"fingerprint,omitempty"`
	SourceDigest string `json:"source_digest,omitempty"`
	// Inputs are what the source was made from, by names for a user.
	Inputs map[string]string `json:"inputs,omitempty"`
	Time   time.Time         `json:"time"`
}

// errOtherRelease means that the apply would make another release than the planned one.
var errOtherRelease = errors.New("this is not what the plan said")

// noteOf is what a plan says. The fingerprint is left out.
func (m *baseModel) noteOf(state *baseModel) baseNote {
	note := baseNote{Release: m.Release.ValueString(), SourceDigest: m.SourceDigest.ValueString(), Time: time.Now().UTC().Truncate(time.Second)}
	if state != nil {
		note.Previous = state.Release.ValueString()
	}
	return note
}

// repeat takes from the plan that is being applied what only a plan may choose: the image behind a tag.
func (p *baseNote) repeat(plan *baseModel) {
	if p != nil && p.SourceDigest != "" && plan.SourceDigest.IsUnknown() {
		plan.SourceDigest = types.StringValue(p.SourceDigest)
	}
}

// sameSource fails if the source is not the one of the plan that is being applied. It is asked before anything is built.
func (p *baseNote) sameSource(ctx context.Context, publisher publish.Interface, plan *baseModel, spec publish.Spec) diag.Diagnostics {
	if p == nil || p.Release == "" || p.Fingerprint == "" {
		return nil
	}
	now, err := publisher.Fingerprint(ctx, spec)
	switch {
	case err != nil:
		return plan.unreadable(spec, err)
	case now == p.Fingerprint:
		return nil
	}
	inputs, err := publisher.Inputs(ctx, spec)
	if err != nil {
		return plan.unreadable(spec, err)
	}
	what := changedInputs(p.Inputs, inputs)
	if what == "" {
		what = fmt.Sprintf("its fingerprint was %s, and is %s", p.Fingerprint, now)
	}
	return plan.changedSince(p, spec, "the source has changed since: "+what)
}

// changedInputs says which inputs of a source differ; empty if none does.
func changedInputs(before, now map[string]string) string {
	all := maps.Clone(before)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, now)
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if was, is := before[name], now[name]; was != is {
			lines = append(lines, fmt.Sprintf("\n  - %s was %s, and is %s", name, cmp.Or(was, "not there"), cmp.Or(is, "not there")))
		}
	}
	const shown = 10
	if more := len(lines) - shown; more > 0 {
		lines = append(lines[:shown], fmt.Sprintf("\n  - and %d more", more))
	}
	return strings.Join(lines, "")
}

// sameRelease fails if the release is not the one of the plan that is being applied.
func (p *baseNote) sameRelease(plan *baseModel, spec publish.Spec) diag.Diagnostics {
	if p == nil || p.Release == "" || plan.Release.ValueString() == p.Release {
		return nil
	}
	return plan.changedSince(p, spec, "the source is the same, but the release that follows now is "+otherwise(plan))
}

// otherwise names a release, and what it follows.
func otherwise(m *baseModel) string {
	switch {
	case m.Release.IsUnknown():
		return "not known"
	case m.Previous.IsNull():
		return fmt.Sprintf("%s, the first of the base", m.Release.ValueString())
	default:
		return fmt.Sprintf("%s, which follows %s: another release was published meanwhile, or settings of the provider differ",
			m.Release.ValueString(), m.Previous.ValueString())
	}
}

// changedSince is the error that the apply of a plan would do something else than the plan said.
func (m *baseModel) changedSince(p *baseNote, spec publish.Spec, why string) diag.Diagnostics {
	return failedAt(m.chosen().at(), failure{
		do: "apply the plan of", object: baseName(spec.Name),
		err:  fmt.Errorf("%w: %v, planned at %s as release %s: %s", errOtherRelease, spec.Source, p.Time.Format(time.RFC3339), p.Release, why),
		next: planAgain,
	})
}

// planAgain is what to do about a plan that no longer fits.
const planAgain = "Nothing was changed. Plan again, look at the new plan, and apply that."

// differs says in what a release that was prepared differs from the planned one.
func (m *baseModel) differs(prepared *publish.Prepared) string {
	var found []string
	if previous := m.Previous.ValueString(); !m.Previous.IsUnknown() && !prepared.Manifest.Previous.IsZero() && previous != prepared.Manifest.Previous.String() {
		found = append(found, fmt.Sprintf("release %s was published since", prepared.Manifest.Previous))
	}
	if kernel := prepared.Manifest.Kernel; kernel != nil && !unset(m.Kernel) && kernel.Release != m.Kernel.ValueString() {
		found = append(found, fmt.Sprintf("kernel %s instead of %s", kernel.Release, m.Kernel.ValueString()))
	}
	if len(found) == 0 {
		return "its files differ"
	}
	return strings.Join(found, ", ")
}

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

// releaseNote is what a plan said about a base or a component.
type releaseNote struct {
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
func noteOf(plan, state released) releaseNote {
	fields := plan.fields()
	note := releaseNote{Release: fields.Release.ValueString(), SourceDigest: fields.SourceDigest.ValueString(),
		Time: time.Now().UTC().Truncate(time.Second)}
	if state != nil {
		note.Previous = state.fields().Release.ValueString()
	}
	return note
}

// repeat takes from the plan that is being applied what only a plan may choose: the image behind a tag.
func (p *releaseNote) repeat(plan *releasedFields) {
	if p != nil && p.SourceDigest != "" && plan.SourceDigest.IsUnknown() {
		plan.SourceDigest = types.StringValue(p.SourceDigest)
	}
}

// sameSource fails if the source is not the one of the plan that is being applied. It is asked
// before anything is built.
func (p *releaseNote) sameSource(ctx context.Context, publisher publish.Interface, plan released,
	in input) diag.Diagnostics {
	if p == nil || p.Release == "" || p.Fingerprint == "" {
		return nil
	}
	now, err := publisher.Fingerprint(ctx, in.Spec)
	switch {
	case err != nil:
		return unreadable(plan, err)
	case now == p.Fingerprint:
		return nil
	}
	inputs, err := publisher.Inputs(ctx, in.Spec)
	if err != nil {
		return unreadable(plan, err)
	}
	what := changedInputs(p.Inputs, inputs)
	if what == "" {
		what = fmt.Sprintf("its fingerprint was %s, and is %s", p.Fingerprint, now)
	}
	return p.changed(plan, in, "the source has changed since: "+what)
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
			lines = append(lines,
				fmt.Sprintf("\n  - %s was %s, and is %s", name, cmp.Or(was, "not there"), cmp.Or(is, "not there")))
		}
	}
	const shown = 10
	if more := len(lines) - shown; more > 0 {
		lines = append(lines[:shown], fmt.Sprintf("\n  - and %d more", more))
	}
	return strings.Join(lines, "")
}

// sameRelease fails if the release is not the one of the plan that is being applied.
func (p *releaseNote) sameRelease(plan released, in input) diag.Diagnostics {
	if p == nil || p.Release == "" || plan.fields().Release.ValueString() == p.Release {
		return nil
	}
	return p.changed(plan, in, "the source is the same, but the release that follows now is "+otherwise(plan))
}

// otherwise names a release, and what it follows.
func otherwise(plan released) string {
	m := plan.fields()
	switch {
	case m.Release.IsUnknown():
		return "not known"
	case m.Previous.IsNull():
		return fmt.Sprintf("%s, the first of the %s", m.Release.ValueString(), plan.kind().kind)
	default:
		return fmt.Sprintf(
			"%s, which follows %s: another release was published meanwhile, or settings of the provider differ",
			m.Release.ValueString(), m.Previous.ValueString())
	}
}

// changed is the error that the apply of a plan would do something else than the plan said.
func (p *releaseNote) changed(plan released, in input, why string) diag.Diagnostics {
	return failedAt(chosen(plan).at(), failure{
		do: "apply the plan of", object: objectOf(plan),
		err: fmt.Errorf("%w: %v, planned at %s as release %s: %s", errOtherRelease, in.opened,
			p.Time.Format(time.RFC3339), p.Release, why),
		next: planAgain,
	})
}

// planAgain is what to do about a plan that no longer fits.
const planAgain = "Nothing was changed. Plan again, look at the new plan, and apply that."

// differs says in what a release that was prepared differs from the planned one.
func differs(plan released, prepared *publish.Prepared) string {
	var found []string
	planned := plan.fields().Previous
	if !planned.IsUnknown() && !prepared.Manifest.Previous.IsZero() &&
		planned.ValueString() != prepared.Manifest.Previous.String() {
		found = append(found, fmt.Sprintf("release %s was published since", prepared.Manifest.Previous))
	}
	if found = append(found, plan.differences(prepared)...); len(found) == 0 {
		return "its files differ"
	}
	return strings.Join(found, ", ")
}

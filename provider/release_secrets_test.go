package provider

import (
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
)

var named = &baseModel{releasedFields: releasedFields{Name: types.StringValue("debian")}}

func TestOnlySecretsThatNobodyMakesAreAWarning(t *testing.T) {
	made := rootfs.Secret{Path: "etc/made.key", What: "private key", Made: true}
	if warnings := secretsLeftOut(named, []rootfs.Secret{made}); warnings != nil {
		t.Errorf("%v", warnings)
	}
	warnings := secretsLeftOut(named, []rootfs.Secret{made, {Path: "etc/app.key", What: "private key"}})
	if len(warnings) != 1 || !strings.Contains(warnings[0].Detail(), "/etc/app.key (private key)") ||
		strings.Contains(warnings[0].Detail(), "made.key") ||
		!strings.Contains(warnings[0].Detail(), "shared_secrets") ||
		!strings.Contains(warnings[0].Summary(), `"debian"`) {
		t.Errorf("%v", warnings)
	}
}

func TestASetIsKnownWithAllItsElements(t *testing.T) {
	set := func(values ...attr.Value) types.Set { return types.SetValueMust(types.StringType, values) }
	for name, test := range map[string]struct {
		set  types.Set
		want bool
	}{
		"none":       {types.SetNull(types.StringType), true},
		"unknown":    {types.SetUnknown(types.StringType), false},
		"known":      {set(types.StringValue("a")), true},
		"an unknown": {set(types.StringValue("a"), types.StringUnknown()), false},
	} {
		if got := setKnown(test.set); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestCorrectionsAreAWarning(t *testing.T) {
	if warnings := corrections(named, nil); warnings != nil {
		t.Errorf("without a correction: %v", warnings)
	}
	notes := make([]string, 40)
	for i := range notes {
		notes[i] = "/usr: everyone could write it"
	}
	warnings := corrections(named, notes)
	if len(warnings) != 1 || !strings.Contains(warnings[0].Summary(), `"debian"`) ||
		!strings.Contains(warnings[0].Detail(), notes[0]) ||
		!strings.Contains(warnings[0].Detail(), "and 10 more") || notes[30] != notes[0] {
		t.Errorf("%v", warnings)
	}
}

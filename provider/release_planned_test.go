package provider

import "testing"

func TestTheInputsThatChangedAreNamed(t *testing.T) {
	before := map[string]string{"suite trixie": "1", "suite trixie-security": "1", "file motd": "x"}
	now := map[string]string{"suite trixie": "1", "suite trixie-security": "2", "package file own.deb": "y"}
	want := "\n  - file motd was x, and is not there\n  - package file own.deb was not there, and is y\n  - suite trixie-security was 1, and is 2"
	if got := changedInputs(before, now); got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	if got := changedInputs(before, before) + changedInputs(nil, nil); got != "" {
		t.Errorf("nothing changed, and it says %q", got)
	}
}

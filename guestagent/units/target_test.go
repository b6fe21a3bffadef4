package units

import "testing"

func TestTheVersionOfSystemdIsANumber(t *testing.T) {
	for text, want := range map[string]int{"257.13-1~deb13u1": 257, "254": 254, "v255~rc1": 255,
		"252.39-1~deb12u1": 252} {
		if got, err := version(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	if got, err := version("main"); err == nil {
		t.Errorf("no version, and %d", got)
	}
}

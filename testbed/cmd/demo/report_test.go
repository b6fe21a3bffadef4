package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestAClaimThatDoesNotHoldFailsTheDemo(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out)
	r.claim(true, "this holds", "%d of %d", 2, 2)
	if err := r.verdict(); err != nil {
		t.Fatalf("every claim held, and the verdict is: %v", err)
	}
	r.claim(false, "this does not", "%d of %d", 1, 2)
	r.claim(true, "this holds too", "yes")
	err := r.verdict()
	if err == nil || !strings.Contains(err.Error(), "this does not: 1 of 2") || strings.Contains(err.Error(), "holds") {
		t.Errorf("the verdict is %v, want the claim that did not hold alone", err)
	}
	if !strings.Contains(out.String(), "FAILED this does not: 1 of 2") {
		t.Errorf("printed:\n%s", out.String())
	}
}

func TestAStepIsToldOnce(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out)
	r.step("uploading")
	r.step("uploading")
	r.step("booting")
	r.step("uploading")
	if got := strings.Count(out.String(), "uploading"); got != 2 {
		t.Errorf("a step that went on was told %d times, want once each time that it began:\n%s", got, out.String())
	}
}

func TestWhatAGuestSaysCannotMoveTheCursor(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out)
	r.fact("units", "%s", "evil\x1b[2J\r.service")
	r.claim(true, "it runs", "%s", "kernel \x9b31m6.12")
	if strings.ContainsAny(out.String(), "\x1b\r") || strings.ContainsRune(out.String(), 0x9b) {
		t.Errorf("control characters are printed: %q", out.String())
	}
}

func TestSizesAreReadable(t *testing.T) {
	for bytes, want := range map[int64]string{0: "0.0 KiB", 512: "0.5 KiB", 1 << 20: "1.0 MiB", 268 << 20: "268 MiB"} {
		if got := size(bytes); got != want {
			t.Errorf("size(%d) = %q, want %q", bytes, got, want)
		}
	}
}

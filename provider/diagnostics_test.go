package provider

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestAnErrorIsASentence(t *testing.T) {
	for text, want := range map[string]string{
		"open pool: no such file": "Open pool: no such file.",
		"is it there?":            "Is it there?",
		"écrit":                   "Écrit.",
		" \n":                     "The cause is not known.",
		"a \x1b[2Jb\x00c":         "A [2Jbc.",
	} {
		if got := sentence(errors.New(text)); got != want {
			t.Errorf("the error %q becomes %q, want %q", text, got, want)
		}
	}
}

func TestWhatAGuestSendsIsBoundedAndPrintable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := string(rapid.SliceOfN(rapid.Byte(), 0, 2*maxGuestText).Draw(t, "text"))
		got := guestText(text)
		if len(got) > maxGuestText+len("…") || !utf8.ValidString(got) || strings.ContainsAny(got, "\x00\x1b\r") {
			t.Fatalf("%q comes through as %q", text, got)
		}
		many := rapid.IntRange(0, 2*maxGuestList).Draw(t, "many")
		if list := guestTexts(make([]string, many)); list == nil || len(list) > maxGuestList+1 {
			t.Fatalf("%d texts come through as %d", many, len(list))
		}
	})
}

package plain_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
)

func TestSecretsAreHidden(t *testing.T) {
	for text, want := range map[string]string{
		"open -----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\n: too long": "open (a private key)\n: too long",
		`"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n" is no path`:                   `"(a private key)\n" is no path`,
		"-----BEGIN PRIVATE KEY-----\nhunter2":                                                             "(a private key)",
		"-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----":                          "(a private key)",
		"-----BEGIN ENCRYPTED PRIVATE KEY-----hunter2":                                                     "(a private key)",
		"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nhunter2\n-----END PGP PRIVATE KEY BLOCK-----":            "(a private key)",
		"PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\nhunter2\nPrivate-MAC: 00ff\n":               "(a private key)\n",
		"-----BEGIN OpenVPN Static key V1-----\nhunter2\n-----END OpenVPN Static key V1-----\n":            "(a private key)\n",
		"AGE-SECRET-KEY-1HUNTER2":                              "(a private key)",
		`Get "https://me:hunter2@example.com/x": EOF`:          `Get "https://(hidden)@example.com/x": EOF`,
		"http://hunter2@example.com":                           "http://(hidden)@example.com",
		"HTTPS://me:a@hunter2@example.com/":                    "HTTPS://(hidden)@example.com/",
		"qemu+ssh://me:hunter2@host/system":                    "qemu+ssh://(hidden)@host/system",
		"https://example.com/x?X-Amz-Signature=hunter2&b=c: 4": "https://example.com/x?(hidden) 4",
		"Authorization: Bearer hunter2hunter2":                 "Authorization: Bearer (hidden)",
		"basic aHVudGVyMjpodW50ZXIy":                           "basic (hidden)",
		// What is no secret stays.
		"qemu+ssh://root@host/system":                          "qemu+ssh://root@host/system",
		"qemu:///system?socket=/run/x":                         "qemu:///system?socket=/run/x",
		"https://example.com:443/debian":                       "https://example.com:443/debian",
		"registry.example.com/os:13@sha256:00":                 "registry.example.com/os:13@sha256:00",
		"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY--": "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY--",
	} {
		if got := plain.Hide(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestOnlyAShortValueOfOneLineIsShown(t *testing.T) {
	for value, want := range map[string]string{
		"web":                          `"web"`,
		"web\n":                        `"web\n"`,
		"one\ntwo":                     "a text of 7 bytes",
		strings.Repeat("x", 81):        "a text of 81 bytes",
		"ftp://me:hunter2@example.com": "a text of 28 bytes",
		"\u202eevil":                   `"\u202eevil"`,
	} {
		if got, quoted := plain.Value(value); got != want || quoted != strings.HasPrefix(want, `"`) {
			t.Errorf("%q is shown as %s, want %s", value, got, want)
		}
	}
}

func TestOnlyVisibleCharactersStay(t *testing.T) {
	for text, want := range map[string]string{
		"a\x1b[2Jb\x00c":                        "a[2Jbc",
		"a\u202eb\u2066c\u200fd\u061c\ufeffe":   "abcde",
		"a\u2028b\u2029c\u0085d\u200be\u00adf":  "abcdef",
		"\U000e0041tag":                         "tag",
		"line\n\ttab\r\n":                       "line\n\ttab\n",
		"bytes \xff\xfe that are not UTF-8\x80": "bytes  that are not UTF-8",
		"état, 状態, 👍":                           "état, 状態, 👍",
	} {
		if got := plain.Clean(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestATextOfAGuestIsOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"bad\nError: run this\r\n\r\nnow\t!":   "bad; Error: run this; now !",
		"a\u2028b\u2029c\u0085d\ve\ff":         "a; b; c; d; e; f",
		"":                                     "",
		strings.Repeat("x", plain.MaxLine+1):   strings.Repeat("x", plain.MaxLine) + "…",
		strings.Repeat("é", plain.MaxLine/2+1): strings.Repeat("é", plain.MaxLine/2) + "…",
	} {
		if got := plain.Line(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestWhatAGuestSaysIsMarkedOnEachLine(t *testing.T) {
	if got, want := plain.Guest("no space\nError: run this", "\u202eevil"),
		"\n  guest| no space; Error: run this\n  guest| evil\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	long := plain.Guest(strings.Repeat("x", 150))
	if want := "\n  guest| " + strings.Repeat("x", 100) + "\n  guest| " + strings.Repeat("x", 50) + "\n"; long != want {
		t.Errorf("got %q, want %q", long, want)
	}
	rapid.Check(t, func(t *rapid.T) {
		got := plain.Guest(rapid.SliceOfN(rapid.OneOf(
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 3*plain.MaxLine), func(b []byte) string { return string(b) }),
			rapid.StringOfN(rapid.RuneFrom([]rune("ab \n\r\t\u2028\u202e状👍")), 0, 2*plain.MaxLine, -1),
		), 0, 10).Draw(t, "texts")...)
		if len(got) > plain.MaxGuest+200 || !utf8.ValidString(got) {
			t.Fatalf("%d bytes: %q", len(got), got)
		}
		for line := range strings.SplitSeq(strings.Trim(got, "\n"), "\n") {
			if got != "\n" && !strings.HasPrefix(line, "  guest|") || utf8.RuneCountInString(line) > 120 {
				t.Fatalf("the line %q", line)
			}
			if strings.ContainsFunc(line,
				func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }) {
				t.Fatalf("the line %q", line)
			}
		}
	})
}

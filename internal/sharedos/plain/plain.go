// Package plain makes texts fit to be shown to people: in diagnostics, in logs, and in Terraform's state.
//
// Three things make a text unfit. It can hold characters that change how other text looks, such as escape sequences of
// terminals and marks of direction (Clean). It can hold a secret (Hide). And it can come from a guest, which may write
// what looks like a message of this program (Line and Guest).
package plain

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean removes what is invisible and changes how text is shown, except for line ends and tabs: control and format
// characters (categories Cc and Cf of the Unicode Standard, which include the marks of direction), separators of lines
// and paragraphs (Zl and Zp), and bytes that are not UTF-8.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r == utf8.RuneError || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			return -1
		default:
			return r
		}
	}, text)
}

// Cut shortens a text to at most limit bytes and "…".
func Cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + "…"
}

// How private keys begin, as parts of regular expressions.
const (
	pemKey     = `-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----` // RFC 7468, and RFC 9580, section 6.2
	tunnelKey  = `-----BEGIN OpenVPN Static key V[0-9]+-----`            // openvpn(8), --genkey
	puttyStart = `PuTTY-User-Key-File-[0-9]+:`
	ageStart   = `AGE-SECRET-KEY-[0-9]`
	// KeyStart matches how a private key begins, in each of the forms that this package knows.
	KeyStart = `(?:` + pemKey + `|` + tunnelKey + `|` + puttyStart + `|` + ageStart + `)`
)

// The forms in which secrets are written. What is before a group is kept.
var (
	// Also without an end, and with line ends that are quoted.
	privateKey = regexp.MustCompile(`(?s)(?:` + pemKey + `|` + tunnelKey + `).*?(?:-----END [A-Za-z0-9 ]*-----|\z)`)
	puttyKey   = regexp.MustCompile(`(?s)` + puttyStart + `.*?(?:Private-MAC: *[0-9a-f]+|\z)`)
	ageKey     = regexp.MustCompile(`(?i)` + ageStart + `[0-9A-Z-]*`)
	// The user information of a URL (RFC 3986, section 3.2.1) with a password, or in a URL of the web: there, a user
	// name alone can be a token.
	password    = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s"'<>]*:[^/?#\s"'<>]*@`)
	webUser     = regexp.MustCompile(`((?i:https?|ftp)://)[^/?#\s"'<>]*@`)
	webQuery    = regexp.MustCompile(`((?i:https?|ftp)://[^?#\s"'<>]*\?)[^#\s"'<>]+`)
	authorizing = regexp.MustCompile(`((?i:Authorization: *|\b)(?i:Basic|Bearer) +)[A-Za-z0-9._~+/=-]{8,}`)
)

// Hide replaces what may be a secret: private keys, user names and passwords in URLs, the queries of URLs of the web,
// which hold the signatures of temporary URLs, and what a header Authorization holds.
func Hide(text string) string {
	for _, key := range []*regexp.Regexp{privateKey, puttyKey, ageKey} {
		text = key.ReplaceAllLiteralString(text, "(a private key)")
	}
	for _, user := range []*regexp.Regexp{password, webUser} {
		text = user.ReplaceAllString(text, "${1}(hidden)@")
	}
	return authorizing.ReplaceAllString(webQuery.ReplaceAllString(text, "${1}(hidden)"), "${1}(hidden)")
}

// maxShown is the length in bytes of a value that is shown.
const maxShown = 80

// Value quotes a value that a user gave, to be shown in a message about it. A value of several lines
// and a long one can be the content of a file in place of its name, and a URL can hold a password in
// a form that Hide does not know. Of these, only the lengths are reported, and quoted is false.
func Value(value string) (shown string, quoted bool) {
	lines := strings.ContainsAny(strings.TrimRight(value, "\r\n"), "\r\n")
	user := strings.Contains(value, "://") && strings.Contains(value, "@")
	if len(value) > maxShown || lines || user || Hide(value) != value {
		return fmt.Sprintf("a text of %d bytes", len(value)), false
	}
	return fmt.Sprintf("%q", value), true
}

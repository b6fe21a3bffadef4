package plain

import (
	"strings"
	"unicode/utf8"
)

// Limits on texts of a guest, in bytes.
const (
	// MaxLine is the limit of one text.
	MaxLine = 1 << 10
	// MaxGuest is the limit of all that a guest says in one message.
	MaxGuest = 4 << 10
)

// guestMark starts each line that is a guest's. Terraform does not break lines that start with spaces.
const guestMark = "  guest| "

// guestWidth is the number of characters in a line of a guest. A longer line would be broken by the terminal, and what
// follows the break would have no mark.
const guestWidth = 100

// Line makes one line of a text from a guest: it has only characters that are visible, and at most MaxLine bytes. The
// transport does this to everything that an agent answers.
func Line(text string) string {
	// The limit is applied first, so that a text of megabytes is not read throughout.
	text = Cut(text, 4*MaxLine)
	lines := strings.FieldsFunc(text,
		func(r rune) bool { return strings.ContainsRune("\n\r\v\f\u0085\u2028\u2029", r) })
	for i, line := range lines {
		lines[i] = strings.TrimSpace(Clean(strings.ReplaceAll(line, "\t", " ")))
	}
	return Cut(strings.Join(lines, "; "), MaxLine)
}

// Guest shows texts that are a guest's, each on lines of its own that are marked as the guest's. It
// starts and ends with a line end. It is at most about MaxGuest bytes long.
func Guest(texts ...string) string {
	var b strings.Builder
	b.WriteString("\n")
	left := MaxGuest
	for _, text := range texts {
		for text = Hide(Line(text)); left > 0; {
			end := min(len(text), left)
			if n := nthRune(text, guestWidth); n < end {
				end = n
			}
			for end > 0 && end < len(text) && !utf8.RuneStart(text[end]) {
				end--
			}
			b.WriteString(strings.TrimRight(guestMark+text[:end], " ") + "\n")
			left -= end + len(guestMark)
			if text = text[end:]; text == "" {
				break
			}
		}
		if left <= 0 {
			b.WriteString(guestMark + "…\n")
			break
		}
	}
	return b.String()
}

// nthRune is the offset of the character after the first n ones.
func nthRune(text string, n int) int {
	for i := range text {
		if n == 0 {
			return i
		}
		n--
	}
	return len(text)
}

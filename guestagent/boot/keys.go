package boot

import (
	"bytes"
	"strings"
)

// The lines around the managed block of authorized_keys. Everything else in the file belongs to the user.
const (
	keysBegin = "# sharedos: keys from the VM's definition; changes between these lines are lost at boot"
	keysEnd   = "# sharedos: end"
)

// mergeAuthorizedKeys replaces the managed block of an authorized_keys file and keeps the rest byte by byte. A file
// without a block gets one at its end. Without keys there is no block.
func mergeAuthorizedKeys(existing []byte, keys []string) []byte {
	before, after := existing, []byte(nil)
	if start, ok := lineIndex(existing, keysBegin, 0); ok {
		// The end of the block may have been removed by hand. What follows may be the user's, so only the first line is
		// removed.
		before, after = existing[:start], existing[lineEnd(existing, start):]
		if end, ok := lineIndex(existing, keysEnd, start); ok {
			after = existing[lineEnd(existing, end):]
		}
	}
	if len(keys) == 0 {
		return append(bytes.Clone(before), after...)
	}
	merged := bytes.Clone(before)
	if len(merged) > 0 && merged[len(merged)-1] != '\n' {
		merged = append(merged, '\n')
	}
	merged = append(merged, keysBegin+"\n"+strings.Join(keys, "\n")+"\n"+keysEnd+"\n"...)
	return append(merged, after...)
}

// lineIndex finds a whole line at or after an offset that is the start of a line.
func lineIndex(text []byte, line string, from int) (int, bool) {
	for offset := from; offset < len(text); offset = lineEnd(text, offset) {
		if string(bytes.TrimRight(text[offset:lineEnd(text, offset)], "\r\n")) == line {
			return offset, true
		}
	}
	return 0, false
}

// lineEnd is the offset after the line that starts at an offset.
func lineEnd(text []byte, start int) int {
	if end := bytes.IndexByte(text[start:], '\n'); end >= 0 {
		return start + end + 1
	}
	return len(text)
}

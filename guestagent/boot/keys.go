package boot

import (
	"bytes"
	"strings"
)

// Lines between which authorized_keys is this project's. All else in the file is the user's.
const (
	keysBegin = "# sharedos: keys from the VM's definition; changes between these lines are lost at boot"
	keysEnd   = "# sharedos: end"
)

// mergeAuthorizedKeys replaces the managed block of an authorized_keys file, byte for byte keeping the rest. A file
// without a block gets one at its end. Without keys there is no block.
func mergeAuthorizedKeys(existing []byte, keys []string) []byte {
	before, after := existing, []byte(nil)
	if start, ok := lineIndex(existing, keysBegin, 0); ok {
		// A block without an end was cut short by hand: what follows may be the user's, so only the line goes.
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

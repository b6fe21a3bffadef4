// Package scan finds bytes in text, eight at a time in one register. Go's own package bytes uses vector instructions, which an
// emulated processor (QEMU's TCG) runs one element after another (design/0023). The guest agent reads megabytes of text in a
// guest that may be emulated.
package scan

import "math/bits"

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
	width = 8
)

// load is the word at the beginning of b, which must have so many bytes. The compiler makes one instruction of it.
func load(b []byte) uint64 {
	_ = b[width-1]
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
		uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
}

// zeros has the high bit set in the lowest byte of word that is zero; above that one also bits of bytes that are not
// (Warren, Hacker's Delight, 6-1). It is 0 if no byte is zero.
func zeros(word uint64) uint64 { return (word - ones) &^ word & highs }

// IndexByte returns where c first is in b, -1 if it is not.
func IndexByte(b []byte, c byte) int {
	pattern := uint64(c) * ones
	at := 0
	for ; at+width <= len(b); at += width {
		if found := zeros(load(b[at:]) ^ pattern); found != 0 {
			return at + bits.TrailingZeros64(found)/8
		}
	}
	for ; at < len(b); at++ {
		if b[at] == c {
			return at
		}
	}
	return -1
}

// SameLines tells how many bytes two texts have in common from their beginning on, whole lines only, and how many lines these
// are. It stops before a line that begins with stop, and leaves out a line that ends less than a word before the texts differ.
func SameLines(a, b []byte, stop byte) (length, lines int) {
	most := min(len(a), len(b))
	if most == 0 || a[0] == stop {
		return 0, 0
	}
	for at := 0; at+width <= most; at += width {
		word := load(a[at:])
		if word != load(b[at:]) {
			break
		}
		for ends := zeros(word ^ '\n'*ones); ends != 0; ends &= ends - 1 {
			next := at + bits.TrailingZeros64(ends)/8 + 1
			if a[next-1] != '\n' {
				continue
			}
			length = next
			lines++
			if next == most || a[next] == stop {
				return length, lines
			}
		}
	}
	return length, lines
}

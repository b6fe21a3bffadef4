// Package scan searches text eight bytes at a time in one register. Go's package bytes uses vector instructions, which
// QEMU's emulator (TCG) executes element by element (design/0023). The guest agent reads megabytes of text in VMs that
// may be emulated.
package scan

import "math/bits"

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
	width = 8
)

// load returns the first eight bytes of b as a word. The compiler turns it into one instruction.
func load(b []byte) uint64 {
	_ = b[width-1]
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
		uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
}

// zeros returns 0 if no byte of word is zero. Otherwise the lowest bit that is set is the high bit of the lowest zero
// byte. Bits above it may belong to bytes that are not zero (Warren, Hacker's Delight, 6-1).
func zeros(word uint64) uint64 { return (word - ones) &^ word & highs }

// IndexByte returns the position of the first c in b, or -1.
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

// SameLines returns the length in bytes and the number of the leading lines that two texts have in common. It stops
// before a line that begins with stop. It may leave out a line that ends less than eight bytes before the first
// difference.
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

package scan

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// texts of few letters, so that they have much in common.
func text(random *rand.Rand, length int) []byte {
	const letters = "\n\v\x00\x8ae a"
	b := make([]byte, length)
	for i := range b {
		b[i] = letters[random.IntN(len(letters))]
	}
	return b
}

func TestIndexByteIsThatOfBytes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		b := text(random, random.IntN(40))
		for _, c := range []byte{'\n', '\v', 0, 0x8a, 'e', ' ', 'z', 0xff, 0x80, 1} {
			if got, want := IndexByte(b, c), bytes.IndexByte(b, c); got != want {
				t.Fatalf("IndexByte(%q, %q) = %d, want %d", b, c, got, want)
			}
		}
	}
}

// sameLines is SameLines, byte by byte.
func sameLines(a, b []byte, stop byte) (length, lines int) {
	for i := 0; i < min(len(a), len(b)) && a[i] == b[i]; i++ {
		if (i == 0 || a[i-1] == '\n') && a[i] == stop {
			break
		}
		if a[i] == '\n' {
			length, lines = i+1, lines+1
		}
	}
	return length, lines
}

func common(a, b []byte) (length int) {
	for length < min(len(a), len(b)) && a[length] == b[length] {
		length++
	}
	return length
}

func TestSameLinesAreTheSame(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	left := 0
	for range 50_000 {
		a := text(random, random.IntN(60))
		b := bytes.Clone(a)
		if len(b) > 0 && random.IntN(3) > 0 {
			b[random.IntN(len(b))] ^= byte(1 + random.IntN(4))
		}
		if random.IntN(3) == 0 {
			b = append(b, text(random, random.IntN(9))...)
		}
		length, lines := SameLines(a, b, 'e')
		words := common(a, b) / width * width
		want, wantLines := sameLines(a[:words], b[:words], 'e')
		if length != want || lines != wantLines {
			t.Fatalf("SameLines(%q, %q) = %d, %d; want %d, %d", a, b, length, lines, want, wantLines)
		}
		if most, _ := sameLines(a, b, 'e'); length < most {
			left++
		}
	}
	if left == 0 || left > 25_000 {
		t.Errorf("%d times a line was left out", left)
	}
}

func TestSameLinesTakesLongTexts(t *testing.T) {
	line := strings.Repeat("x", 99) + "\n"
	a := []byte(strings.Repeat(line, 1000))
	if length, lines := SameLines(a, a, 'e'); length != len(a) || lines != 1000 {
		t.Errorf("SameLines = %d, %d", length, lines)
	}
}

func BenchmarkIndexByte(b *testing.B) {
	line := append(bytes.Repeat([]byte("x"), 100), '\n')
	for b.Loop() {
		IndexByte(line, '\n')
	}
}

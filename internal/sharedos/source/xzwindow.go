package source

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// xzWindow passes an xz file on and ends with ErrLimit before a block that asks for more than maxWindow of memory, which
// the library that unpacks it would allot at once, however short the file is. It knows as much of the format as it takes
// to find the blocks (The .xz File Format 1.2.1); what it cannot follow is ErrCorrupt and is not passed on.
type xzWindow struct {
	in *bufio.Reader
	// pass is how many bytes go through before there is something to look at.
	pass int64
	// next finds out what stands after them.
	next func() error
	// check is the size of what follows each block of the stream, and block what the block has so far, in bytes.
	check, block int64
}

const (
	xzMagic = "\xfd7zXZ\x00"
	// xzHeader is the size of a stream's header, and of its footer, in bytes.
	xzHeader = 12
	xzLZMA2  = 0x21
)

// xzChecks are the sizes of checks by their type, in bytes.
var xzChecks = [16]int64{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}

func newXZWindow(in *bufio.Reader) *xzWindow {
	x := &xzWindow{in: in}
	x.next = x.streamHeader
	return x
}

func (x *xzWindow) Read(p []byte) (int, error) {
	for x.pass == 0 {
		if err := x.next(); err != nil {
			return 0, err
		}
	}
	n, err := x.in.Read(p[:min(int64(len(p)), x.pass)])
	if x.pass -= int64(n); errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// peek looks at bytes that have to be there.
func (x *xzWindow) peek(n int) ([]byte, error) {
	head, err := x.in.Peek(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return head, err
}

// then passes bytes on before it goes on with what comes next.
func (x *xzWindow) then(pass int64, next func() error) error {
	x.pass, x.next = pass, next
	return nil
}

func (x *xzWindow) streamHeader() error {
	head, err := x.peek(xzHeader)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(head, []byte(xzMagic)) {
		return fmt.Errorf("no xz stream where one should begin: %w", ErrCorrupt)
	}
	x.check = xzChecks[head[7]&15]
	return x.then(xzHeader, x.blockHeader)
}

// blockHeader looks at what a block asks for, if what comes is one and not the index behind the last.
func (x *xzWindow) blockHeader() error {
	head, err := x.peek(1)
	if err != nil {
		return err
	}
	if head[0] == 0 {
		return x.index()
	}
	size := (int(head[0]) + 1) * 4
	if head, err = x.peek(size); err != nil {
		return err
	}
	window, err := xzAsks(head)
	if err != nil {
		return err
	}
	if window > maxWindow {
		return fmt.Errorf("to unpack it takes a window of %d bytes, and %d are allowed: %w; pack it with xz -9 or less", window, int64(maxWindow), ErrLimit)
	}
	x.block = 0
	return x.then(int64(size), x.chunk)
}

// xzAsks is the size in bytes of the window that a block's header asks for.
func xzAsks(head []byte) (window int64, err error) {
	flags, rest := head[1], head[2:len(head)-4]
	number := func() (n uint64) {
		n, size := binary.Uvarint(rest)
		if size <= 0 {
			err = fmt.Errorf("the header of an xz block ends too soon: %w", ErrCorrupt)
			return 0
		}
		rest = rest[size:]
		return n
	}
	for _, present := range []byte{0x40, 0x80} { // the sizes of the block, packed and unpacked
		if flags&present != 0 {
			number()
		}
	}
	for range flags&3 + 1 {
		id, size := number(), number()
		if err != nil {
			return 0, err
		}
		if size > uint64(len(rest)) {
			return 0, fmt.Errorf("the header of an xz block ends too soon: %w", ErrCorrupt)
		}
		if id == xzLZMA2 && size > 0 {
			exponent := min(rest[0]&63, 40)
			window = max(window, int64(2|exponent&1)<<(exponent/2+11))
		}
		rest = rest[size:]
	}
	return window, err
}

// chunk finds the end of one chunk of LZMA2, or of all of them.
func (x *xzWindow) chunk() error {
	head, err := x.peek(1)
	if err != nil {
		return err
	}
	size, kind := 1, head[0]
	switch {
	case kind == 0: // the end
	case kind < 3: // not packed
		if head, err = x.peek(3); err != nil {
			return err
		}
		size = 3 + int(binary.BigEndian.Uint16(head[1:])) + 1
	case kind >= 0x80:
		if head, err = x.peek(5); err != nil {
			return err
		}
		size = 5 + int(binary.BigEndian.Uint16(head[3:])) + 1
		if kind >= 0xc0 { // with new properties
			size++
		}
	default:
		return fmt.Errorf("an xz block has a chunk of the unknown kind %#x: %w", kind, ErrCorrupt)
	}
	if x.block += int64(size); kind != 0 {
		return x.then(int64(size), x.chunk)
	}
	return x.then(int64(size)+padding(x.block)+x.check, x.blockHeader)
}

// padding is what it takes to a multiple of four bytes.
func padding(size int64) int64 { return -size & 3 }

// index passes over the list of a stream's blocks, and the stream's end.
func (x *xzWindow) index() error {
	size, left, counted := int64(1), uint64(1), false
	var number func() error
	end := func() error {
		pad := padding(size)
		return x.then(pad+4+xzHeader, x.nextStream)
	}
	// The first number tells how many pairs of numbers follow.
	number = func() error {
		head, err := x.in.Peek(binary.MaxVarintLen64)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		n, length := binary.Uvarint(head)
		if length <= 0 || n > 1<<62 {
			return fmt.Errorf("the index of an xz stream is no list of numbers: %w", ErrCorrupt)
		}
		size += int64(length)
		if left--; !counted {
			counted, left = true, 2*n
		}
		if left == 0 {
			return x.then(int64(length), end)
		}
		return x.then(int64(length), number)
	}
	return x.then(1, number)
}

// nextStream passes over zeros between streams, four at a time.
func (x *xzWindow) nextStream() error {
	head, err := x.in.Peek(4)
	switch {
	case errors.Is(err, io.EOF) && len(head) == 0:
		return io.EOF
	case err == nil && bytes.Equal(head, make([]byte, 4)):
		return x.then(4, x.nextStream)
	default:
		return x.streamHeader()
	}
}

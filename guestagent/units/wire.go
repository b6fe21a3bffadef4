package units

// The part of D-Bus that systemd needs, in the D-Bus Specification's little-endian form ("Message Protocol"). Why not a
// library: see the package comment.

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// pad aligns the end of a message that begins at from.
func pad(message []byte, from, to int) []byte {
	for (len(message)-from)%to != 0 {
		message = append(message, 0)
	}
	return message
}

func appendText(message []byte, from int, text string) []byte {
	message = binary.LittleEndian.AppendUint32(pad(message, from, 4), uint32(len(text)))
	return append(append(message, text...), 0)
}

// objectOf returns the object path of a unit, or of the manager for "".
func objectOf(unit string) string {
	if unit == "" {
		return managerPath
	}
	object := []byte(managerPath + "/unit/")
	for i, c := range []byte(unit) { // systemd's bus_label_escape: a digit must not come first
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9' {
			object = append(object, c)
			continue
		}
		object = append(object, '_')
		object = hex.AppendEncode(object, []byte{c})
	}
	return string(object)
}

// arguments are the arguments of a method call.
type arguments struct {
	signature string
	body      []byte
}

func texts(all ...string) arguments {
	args := arguments{signature: strings.Repeat("s", len(all))}
	for _, text := range all {
		args.body = appendText(args.body, 0, text)
	}
	return args
}

func list(all ...string) arguments {
	args := texts(all...)
	// The length comes before an array. It takes four bytes, so it does not change the alignment of the strings.
	return arguments{"as", append(binary.LittleEndian.AppendUint32(nil, uint32(len(args.body))), args.body...)}
}

// appendCall appends a call of a method (D-Bus Specification, "Message Protocol").
func appendCall(out []byte, serial uint32, object, iface, method string, args arguments) []byte {
	from := len(out)
	out = append(out, 'l', 1, 0, 1, 0, 0, 0, 0)
	out = binary.LittleEndian.AppendUint32(out, serial)
	out = append(out, 0, 0, 0, 0)
	for _, field := range []struct {
		code byte
		kind byte
		text string
	}{
		{1, 'o', object}, {2, 's', iface}, {3, 's', method},
	} {
		out = append(pad(out, from, 8), field.code, 1, field.kind, 0)
		out = appendText(out, from, field.text)
	}
	if args.signature != "" {
		out = append(pad(out, from, 8), 8, 1, 'g', 0, byte(len(args.signature)))
		out = append(append(out, args.signature...), 0)
	}
	binary.LittleEndian.PutUint32(out[from+12:], uint32(len(out)-from-16))
	binary.LittleEndian.PutUint32(out[from+4:], uint32(len(args.body)))
	return append(pad(out, from, 8), args.body...)
}

// messages splits what systemd sends into messages.
type messages struct {
	from   io.Reader
	buffer []byte
	// buffer[at:end] was read and not returned yet.
	at, end int
}

// need reads until length bytes are available.
func (m *messages) need(length int) error {
	if length > maxMessage {
		return fmt.Errorf("%w: %d bytes", errMessage, length)
	}
	for m.end-m.at < length {
		if m.end = copy(m.buffer, m.buffer[m.at:m.end]); m.end == len(m.buffer) {
			m.buffer = append(m.buffer, make([]byte, max(length, len(m.buffer), 2<<10))...)
		}
		m.at = 0
		n, err := m.from.Read(m.buffer[m.end:])
		if m.end += n; err != nil && m.end < length {
			return err
		}
	}
	return nil
}

// line returns the next line of the authentication protocol.
func (m *messages) line() ([]byte, error) {
	for length := 1; ; length++ {
		if err := m.need(length); err != nil {
			return nil, err
		}
		if m.buffer[m.at+length-1] == '\n' {
			line := m.buffer[m.at : m.at+length]
			m.at += length
			return line, nil
		}
	}
}

// Types of messages.
const (
	reply      = 2
	errorReply = 3
	signal     = 4
)

// message is one message from systemd. The next message overwrites its body.
type message struct {
	kind byte
	// to is the serial of the call to which it replies.
	to uint32
	// name is the name of an error or of a signal.
	name string
	body []byte
}

// failure returns the error of an error reply, nil for other messages.
func (m message) failure() error {
	if m.kind != errorReply {
		return nil
	}
	return fmt.Errorf("%s: %s", m.name, (&cursor{data: m.body}).text())
}

// next returns the next message.
func (m *messages) next() (message, error) {
	if err := m.need(16); err != nil {
		return message{}, err
	}
	head := m.buffer[m.at : m.at+16]
	fields, length := int(binary.LittleEndian.Uint32(head[12:])), int(binary.LittleEndian.Uint32(head[4:]))
	if head[0] != 'l' || fields > maxMessage || length > maxMessage {
		return message{}, fmt.Errorf("%w: it begins with %x", errMessage, head)
	}
	begins := (16 + fields + 7) / 8 * 8
	if err := m.need(begins + length); err != nil {
		return message{}, err
	}
	whole := m.buffer[m.at : m.at+begins+length]
	m.at += len(whole)
	received := message{kind: whole[1], body: whole[begins:]}
	for c := (&cursor{data: whole[:16+fields], at: 16}); c.align(8) && c.at < len(c.data); {
		code := c.byte()
		switch c.kind() {
		case 'u':
			if value := c.number(); code == 5 {
				received.to = value
			}
		case 's', 'o':
			if text := c.bytes(); code == 3 || code == 4 {
				received.name = string(text)
			}
		case 'g':
			c.signature()
		default:
			c.failed = true
		}
		if c.failed {
			return message{}, fmt.Errorf("%w: a header of %d bytes", errMessage, fields)
		}
	}
	return received, nil
}

// valueOf reads a variant.
func valueOf(body []byte) (v value, err error) {
	c := &cursor{data: body}
	switch kind := c.signature(); kind {
	case "b":
		v.set = c.number() != 0
	case "u":
		v.number = uint64(c.number())
	case "t":
		v.number = c.long()
	case "(uo)":
		c.align(8)
		v.number = uint64(c.number())
	case "s", "o":
		v.texts = []string{c.text()}
	case "as", "a(sb)":
		length := int(c.number())
		if kind != "as" {
			c.align(8)
		}
		for end := c.at + length; c.at < end && !c.failed; {
			if kind != "as" {
				c.align(8)
			}
			v.texts = append(v.texts, c.text())
			if kind != "as" {
				c.number()
			}
		}
	default:
		return v, fmt.Errorf("%w: a value of type %q", errMessage, kind)
	}
	if c.failed {
		return value{}, fmt.Errorf("%w: a value of %d bytes", errMessage, len(body))
	}
	return v, nil
}

// cursor reads one value after another. failed stays true once there were too few bytes.
type cursor struct {
	data   []byte
	at     int
	failed bool
}

// take returns the next length bytes.
func (c *cursor) take(length int) []byte {
	if c.failed || length < 0 || length > len(c.data)-c.at {
		c.failed = true
		return nil
	}
	c.at += length
	return c.data[c.at-length : c.at]
}

// align skips padding. It returns false if there were too few bytes.
func (c *cursor) align(to int) bool {
	c.take((to - c.at%to) % to)
	return !c.failed
}

func (c *cursor) byte() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) number() uint32 {
	c.align(4)
	if b := c.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) long() uint64 {
	c.align(8)
	if b := c.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) text() string { return string(c.bytes()) }

func (c *cursor) bytes() []byte {
	text := c.take(int(c.number()))
	c.take(1)
	return text
}

// kind reads a signature of one type. It returns 0 for other signatures.
func (c *cursor) kind() byte {
	if length := c.byte(); length != 1 {
		return 0
	}
	kind := c.byte()
	c.take(1)
	return kind
}

func (c *cursor) signature() string {
	length := int(c.byte())
	text := string(c.take(length))
	c.take(1)
	return text
}

package units

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
)

// What is known of units is asked for here and not with the library: for an assessment it is a hundred properties, that each
// cost the library a goroutine and reflection, and systemd hardly anything. All of a unit's at once cost systemd more than the
// twelve that are needed: among them are those for which it looks through directories (UnitFileState, UnitFilePreset). Under
// emulation 8 units took 171 ms with the library and 410 ms with all properties, where they take 50 ms here (design/0022).
const (
	unitFace, serviceFace = "org.freedesktop.systemd1.Unit", "org.freedesktop.systemd1.Service"

	// askAtOnce bounds what waits in systemd for being read.
	askAtOnce = 256
	// maxAnswer bounds a message, in bytes.
	maxAnswer = 16 << 20
)

// errAnswer means that what systemd says is not what D-Bus has it say.
var errAnswer = errors.New("not a D-Bus message as systemd sends them")

// question is a property of a unit.
type question struct{ unit, face, property string }

// answer is a property's value: texts of those of type s, o, as, and the first of each struct of a(sb), set of b.
type answer struct {
	texts []string
	set   bool
}

func (a answer) text() string {
	if len(a.texts) == 0 {
		return ""
	}
	return a.texts[0]
}

// conversation is a connection over which systemd is asked, and closed soon: on one that stays systemd tells of all that
// happens, and somebody would have to hear it. To begin one costs systemd more than some answers do.
type conversation struct {
	with io.Writer
	in   messages
	// asked is how many questions were asked.
	asked uint32
}

// converse has systemd asked for as long as ask takes, over a connection of its own.
func converse(ctx context.Context, ask func(c *conversation) error) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: privateSocket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("connect to systemd: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c, err := greet(conn)
	if err == nil {
		err = ask(c)
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return errors.Join(err, conn.Close())
}

// greet begins a conversation (D-Bus Specification, "Authentication Protocol").
func greet(conn io.ReadWriter) (*conversation, error) {
	c := &conversation{with: conn, in: messages{from: conn}}
	// systemd must have read BEGIN before a question comes: it takes what comes with it for read already, and hears it when
	// something else comes (sd-bus/bus-socket.c). It hears BEGIN when it has said OK.
	if _, err := io.WriteString(conn, "\x00AUTH EXTERNAL "+hex.EncodeToString([]byte(strconv.Itoa(os.Getuid())))+"\r\nBEGIN\r\n"); err != nil {
		return nil, fmt.Errorf("ask systemd: %w", err)
	}
	if line, err := c.in.line(); err != nil || !strings.HasPrefix(string(line), "OK ") {
		return nil, errors.Join(err, fmt.Errorf("ask systemd: it does not let this process in: %q", line))
	}
	return c, nil
}

// ask has systemd answer questions, in their order (D-Bus Specification, "Message Protocol").
func (c *conversation) ask(questions []question) ([]answer, error) {
	answers := make([]answer, len(questions))
	var out []byte
	for first := 0; first < len(questions); first += askAtOnce {
		some := questions[first:min(first+askAtOnce, len(questions))]
		for i, q := range some {
			out = appendGet(out, c.asked+uint32(i)+1, q)
		}
		if _, err := c.with.Write(out); err != nil {
			return nil, fmt.Errorf("ask systemd: %w", err)
		}
		out = out[:0]
		for left := len(some); left > 0; {
			serial, value, err := c.in.reply()
			if err != nil {
				return nil, fmt.Errorf("ask systemd: %d answers of %d are missing: %w", left, len(questions), err)
			}
			if serial == 0 {
				continue // it tells of something
			}
			at := serial - c.asked - 1 // wraps around for what was answered before
			if at >= uint32(len(some)) {
				return nil, fmt.Errorf("ask systemd: %w: an answer to message %d", errAnswer, serial)
			}
			if answers[first+int(at)], err = valueOf(value); err != nil {
				return nil, fmt.Errorf("ask systemd for %s of %s: %w", some[at].property, some[at].unit, err)
			}
			left--
		}
		c.asked += uint32(len(some))
	}
	return answers, nil
}

// pad aligns what follows a message's beginning.
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

// appendGet appends a call of org.freedesktop.DBus.Properties.Get.
func appendGet(out []byte, serial uint32, q question) []byte {
	from := len(out)
	out = append(out, 'l', 1, 0, 1, 0, 0, 0, 0)
	out = binary.LittleEndian.AppendUint32(out, serial)
	out = append(out, 0, 0, 0, 0)
	for _, field := range []struct {
		code byte
		kind byte
		text string
	}{
		{1, 'o', string(managerObject) + "/unit/" + systemd.PathBusEscape(q.unit)},
		{2, 's', "org.freedesktop.DBus.Properties"}, {3, 's', "Get"},
	} {
		out = append(pad(out, from, 8), field.code, 1, field.kind, 0)
		out = appendText(out, from, field.text)
	}
	out = append(pad(out, from, 8), 8, 1, 'g', 0, 2, 's', 's', 0)
	binary.LittleEndian.PutUint32(out[from+12:], uint32(len(out)-from-16))
	out = pad(out, from, 8)
	body := len(out)
	out = appendText(out, body, q.face)
	out = appendText(out, body, q.property)
	binary.LittleEndian.PutUint32(out[from+4:], uint32(len(out)-body))
	return out
}

// messages takes what systemd sends apart.
type messages struct {
	from   io.Reader
	buffer []byte
	// at and end are where what was read and not yet returned begins and ends.
	at, end int
}

// need has so many bytes there.
func (m *messages) need(length int) error {
	if length > maxAnswer {
		return fmt.Errorf("%w: %d bytes", errAnswer, length)
	}
	for m.end-m.at < length {
		if m.end = copy(m.buffer, m.buffer[m.at:m.end]); m.end == len(m.buffer) {
			m.buffer = append(m.buffer, make([]byte, max(length, 32<<10))...)
		}
		m.at = 0
		n, err := m.from.Read(m.buffer[m.end:])
		if m.end += n; err != nil && m.end < length {
			return err
		}
	}
	return nil
}

// line returns the next line of the authentication.
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

// reply returns the body of the next message, and to which it is the answer; 0 if to none. The body is overwritten by the next.
func (m *messages) reply() (serial uint32, body []byte, err error) {
	if err := m.need(16); err != nil {
		return 0, nil, err
	}
	head := m.buffer[m.at : m.at+16]
	fields, length := int(binary.LittleEndian.Uint32(head[12:])), int(binary.LittleEndian.Uint32(head[4:]))
	if head[0] != 'l' || fields > maxAnswer || length > maxAnswer {
		return 0, nil, fmt.Errorf("%w: it begins with %x", errAnswer, head)
	}
	begins := (16 + fields + 7) / 8 * 8
	if err := m.need(begins + length); err != nil {
		return 0, nil, err
	}
	message := m.buffer[m.at : m.at+begins+length]
	m.at += len(message)
	kind, failure := message[1], ""
	for c := (&cursor{data: message[:16+fields], at: 16}); c.align(8) && c.at < len(c.data); {
		code := c.byte()
		switch c.signature() {
		case "u":
			if value := c.number(); code == 5 {
				serial = value
			}
		case "s", "o":
			if text := c.text(); code == 4 {
				failure = text
			}
		case "g":
			c.signature()
		default:
			c.failed = true
		}
		if c.failed {
			return 0, nil, fmt.Errorf("%w: a header of %d bytes", errAnswer, fields)
		}
	}
	switch body = message[begins:]; kind {
	case 2:
		return serial, body, nil
	case 3:
		return 0, nil, fmt.Errorf("%s: %s", failure, (&cursor{data: body}).text())
	default:
		return 0, nil, nil
	}
}

// valueOf reads a variant.
func valueOf(body []byte) (a answer, err error) {
	c := &cursor{data: body}
	switch kind := c.signature(); kind {
	case "b":
		a.set = c.number() != 0
	case "s", "o":
		a.texts = []string{c.text()}
	case "as", "a(sb)":
		length := int(c.number())
		if kind != "as" {
			c.align(8)
		}
		for end := c.at + length; c.at < end && !c.failed; {
			if kind != "as" {
				c.align(8)
			}
			a.texts = append(a.texts, c.text())
			if kind != "as" {
				c.number()
			}
		}
	default:
		return a, fmt.Errorf("%w: a value of type %q", errAnswer, kind)
	}
	if c.failed {
		return answer{}, fmt.Errorf("%w: a value of %d bytes", errAnswer, len(body))
	}
	return a, nil
}

// cursor reads values one after another; failed stays true once there were too few bytes.
type cursor struct {
	data   []byte
	at     int
	failed bool
}

// take returns so many bytes.
func (c *cursor) take(length int) []byte {
	if c.failed || length < 0 || length > len(c.data)-c.at {
		c.failed = true
		return nil
	}
	c.at += length
	return c.data[c.at-length : c.at]
}

// align is false if there were too few bytes.
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

func (c *cursor) text() string {
	length := int(c.number())
	text := string(c.take(length))
	c.take(1)
	return text
}

func (c *cursor) signature() string {
	length := int(c.byte())
	text := string(c.take(length))
	c.take(1)
	return text
}

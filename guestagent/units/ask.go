package units

import (
	"errors"
	"fmt"
)

// Systemd is talked to here and not with a library (design/0022). To whoever is connected systemd tells of every unit and job
// that comes, changes and goes: while a guest boots and while systemd reloads, hundreds of things, of which a library makes values
// by reflection before it drops them. And what is known of units is, for an assessment, a hundred properties, each of which
// cost the library a goroutine.
const (
	managerPath  = "/org/freedesktop/systemd1"
	managerFace  = "org.freedesktop.systemd1.Manager"
	unitFace     = "org.freedesktop.systemd1.Unit"
	serviceFace  = "org.freedesktop.systemd1.Service"
	propertyFace = "org.freedesktop.DBus.Properties"

	// askAtOnce bounds what waits in systemd for being read.
	askAtOnce = 256
	// maxAnswer bounds a message, in bytes.
	maxAnswer = 16 << 20
)

// errAnswer means that what systemd says is not what D-Bus has it say.
var errAnswer = errors.New("not a D-Bus message as systemd sends them")

// question is a property of a unit, or of the manager where the unit is "".
type question struct{ unit, face, property string }

// answer is a property's value: texts of those of type s, o, as, and the first of each struct of a(sb), set of b, number of u
// and t, and the first of (uo).
type answer struct {
	texts  []string
	set    bool
	number uint64
}

func (a answer) text() string {
	if len(a.texts) == 0 {
		return ""
	}
	return a.texts[0]
}

// ask has systemd answer questions, in their order (D-Bus Specification, "Message Protocol").
func (c *conversation) ask(questions []question) ([]answer, error) {
	answers := make([]answer, len(questions))
	var out []byte
	for first := 0; first < len(questions); first += askAtOnce {
		some := questions[first:min(first+askAtOnce, len(questions))]
		for i, q := range some {
			out = appendCall(out, c.sent+uint32(i)+1, objectOf(q.unit), propertyFace, "Get", texts(q.face, q.property))
		}
		if _, err := c.with.Write(out); err != nil {
			return nil, fmt.Errorf("ask systemd: %w", err)
		}
		out = out[:0]
		for left := len(some); left > 0; {
			said, err := c.in.next()
			if err == nil {
				err = said.failure()
			}
			if err != nil {
				return nil, fmt.Errorf("ask systemd: %d answers of %d are missing: %w", left, len(questions), err)
			}
			if said.kind != reply {
				continue // it tells of something
			}
			at := said.to - c.sent - 1 // wraps around for what was answered before
			if at >= uint32(len(some)) {
				return nil, fmt.Errorf("ask systemd: %w: an answer to message %d", errAnswer, said.to)
			}
			if answers[first+int(at)], err = valueOf(said.body); err != nil {
				return nil, fmt.Errorf("ask systemd for %s of %s: %w", some[at].property, some[at].unit, err)
			}
			left--
		}
		c.sent += uint32(len(some))
	}
	return answers, nil
}

// call calls a method of the manager and returns the body of what it answers, which is overwritten by the next message. What
// systemd tells of meanwhile is passed to heard, if that is not nil.
func (c *conversation) call(heard func(message), method string, args arguments) ([]byte, error) {
	c.sent++
	if _, err := c.with.Write(appendCall(nil, c.sent, managerPath, managerFace, method, args)); err != nil {
		return nil, err
	}
	for {
		said, err := c.in.next()
		if err == nil {
			err = said.failure()
		}
		switch {
		case err != nil:
			return nil, err
		case said.kind == reply && said.to == c.sent:
			return said.body, nil
		case said.kind == signal && heard != nil:
			heard(said)
		}
	}
}

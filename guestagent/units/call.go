package units

import (
	"errors"
	"fmt"
)

const (
	managerPath       = "/org/freedesktop/systemd1"
	managerInterface  = "org.freedesktop.systemd1.Manager"
	unitInterface     = "org.freedesktop.systemd1.Unit"
	serviceInterface  = "org.freedesktop.systemd1.Service"
	propertyInterface = "org.freedesktop.DBus.Properties"

	// maxInFlight bounds how many answers wait in systemd to be read.
	maxInFlight = 256
	// maxMessage bounds a message, in bytes.
	maxMessage = 16 << 20
)

// errMessage means that systemd sent something that D-Bus does not allow, or that it never sends.
var errMessage = errors.New("not a D-Bus message as systemd sends them")

// property is a property of a unit, or of the manager if unit is "".
type property struct{ unit, iface, name string }

// value is the value of a property.
type value struct {
	// texts are the value of type s, o or as, and the first fields of a(sb).
	texts []string
	// set is the value of type b.
	set bool
	// number is the value of type u or t, and the first field of (uo).
	number uint64
}

func (v value) text() string {
	if len(v.texts) == 0 {
		return ""
	}
	return v.texts[0]
}

// get reads properties and returns their values in the same order. The calls are sent together, not one after another.
func (c *connection) get(properties []property) ([]value, error) {
	values := make([]value, len(properties))
	var out []byte
	for first := 0; first < len(properties); first += maxInFlight {
		some := properties[first:min(first+maxInFlight, len(properties))]
		for i, p := range some {
			out = appendCall(out, c.sent+uint32(i)+1, objectOf(p.unit), propertyInterface,
				"Get", texts(p.iface, p.name))
		}
		if _, err := c.out.Write(out); err != nil {
			return nil, fmt.Errorf("ask systemd: %w", err)
		}
		out = out[:0]
		for left := len(some); left > 0; {
			received, err := c.in.next()
			if err == nil {
				err = received.failure()
			}
			if err != nil {
				return nil, fmt.Errorf("ask systemd: %d replies of %d are missing: %w", left, len(properties), err)
			}
			if received.kind != reply {
				continue // a signal
			}
			at := received.to - c.sent - 1 // wraps around for a call from before
			if at >= uint32(len(some)) {
				return nil, fmt.Errorf("ask systemd: %w: a reply to message %d", errMessage, received.to)
			}
			if values[first+int(at)], err = valueOf(received.body); err != nil {
				return nil, fmt.Errorf("ask systemd for %s of %s: %w", some[at].name, some[at].unit, err)
			}
			left--
		}
		c.sent += uint32(len(some))
	}
	return values, nil
}

// call calls a method of the manager and returns the body of the reply, which the next message overwrites. Signals that
// arrive before the reply are passed to onSignal, if that is not nil.
func (c *connection) call(onSignal func(message), method string, args arguments) ([]byte, error) {
	c.sent++
	if _, err := c.out.Write(appendCall(nil, c.sent, managerPath, managerInterface, method, args)); err != nil {
		return nil, err
	}
	for {
		received, err := c.in.next()
		if err == nil {
			err = received.failure()
		}
		switch {
		case err != nil:
			return nil, err
		case received.kind == reply && received.to == c.sent:
			return received.body, nil
		case received.kind == signal && onSignal != nil:
			onSignal(received)
		}
	}
}

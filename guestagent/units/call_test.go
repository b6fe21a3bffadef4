package units

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// manager answers over a connection as systemd does, with the value that a function returns for a unit's
// property. It sends a signal about something else before each answer, as systemd does to all its clients.
func manager(t *testing.T, conn net.Conn, property func(path dbus.ObjectPath, face, name string) any) {
	t.Helper()
	serve(t, conn, func(call *dbus.Message, send func(...*dbus.Message) error) error {
		path, _ := call.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
		face, _ := call.Body[0].(string)
		name, _ := call.Body[1].(string)
		value := property(path, face, name)
		if _, failed := value.(error); !failed {
			value = dbus.MakeVariant(value)
		}
		return send(happening, answerTo(call, value))
	})
}

// serve takes calls over a connection as systemd does, until either side closes it.
func serve(t *testing.T, conn net.Conn, answer func(call *dbus.Message, send func(...*dbus.Message) error) error) {
	t.Helper()
	// As sd-bus, which never answers a question that comes with BEGIN.
	begins := make([]byte, 256)
	n, err := conn.Read(begins)
	if got := string(begins[:n]); err != nil || got != "\x00AUTH EXTERNAL 30\r\nBEGIN\r\n" {
		t.Errorf("it begins with %q, %v", got, err)
		return
	}
	if _, err := conn.Write([]byte("OK 0123456789abcdef0123456789abcdef\r\n")); err != nil {
		t.Error(err)
		return
	}
	in := bufio.NewReader(conn)
	send := func(messages ...*dbus.Message) error {
		for _, m := range messages {
			if err := m.EncodeTo(conn, binary.LittleEndian); err != nil {
				return err
			}
		}
		return nil
	}
	for {
		call, err := dbus.DecodeMessage(in)
		if err != nil {
			return // it closed
		}
		if err := answer(call, send); err != nil {
			return
		}
	}
}

// answerTo makes an answer of a value, or of an error.
func answerTo(call *dbus.Message, value any) *dbus.Message {
	answer := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()),
		dbus.FieldSender:      dbus.MakeVariant("org.freedesktop.systemd1"),
	}}
	if err, failed := value.(error); failed {
		answer.Type = dbus.TypeError
		answer.Headers[dbus.FieldErrorName] = dbus.MakeVariant("org.freedesktop.systemd1.NoSuchUnit")
		value = err.Error()
	}
	if value != nil {
		answer.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(value))
		answer.Body = []any{value}
	}
	return answer
}

var happening = &dbus.Message{
	Type: dbus.TypeSignal,
	Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath(managerPath)),
		dbus.FieldInterface: dbus.MakeVariant(managerInterface),
		dbus.FieldMember:    dbus.MakeVariant("UnitNew"),
		dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf("", dbus.ObjectPath(managerPath))),
	},
	Body: []any{"some.service", dbus.ObjectPath("/org/freedesktop/systemd1/unit/some_2eservice")},
}

// askIt asks a manager of that kind.
func askIt(t *testing.T, questions []property,
	property func(path dbus.ObjectPath, face, name string) any) ([]value, error) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	here, there := ends[0], ends[1]
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	deadline, _ := ctx.Deadline()
	if err := errors.Join(here.SetDeadline(deadline), there.SetDeadline(deadline)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		manager(t, there, property)
	}()
	answers, err := askAll(here, questions)
	if err := here.Close(); err != nil {
		t.Error(err)
	}
	<-done
	return answers, err
}

// askAll asks half of the questions first, and then the others.
func askAll(conn io.ReadWriter, questions []property) ([]value, error) {
	c := &connection{out: conn, in: messages{from: conn}}
	if err := c.authenticate(); err != nil {
		return nil, err
	}
	half := len(questions) / 2
	answers, err := c.get(questions[:half])
	if err != nil {
		return nil, err
	}
	others, err := c.get(questions[half:])
	return append(answers, others...), err
}

func TestPropertiesOfAllTypesAreRead(t *testing.T) {
	values := map[string]any{
		"text": "active", "nothing": "", "path": dbus.ObjectPath("/org/x"), "yes": true, "no": false,
		"list": []string{"a.service", "", "ünïcode.service"}, "empty": []string{}, "count": uint32(7),
		"moment": uint64(1) << 40,
		"job": struct {
			Number uint32
			Object dbus.ObjectPath
		}{12, "/org/freedesktop/systemd1/job/12"},
		"files": []struct {
			Path string
			May  bool
		}{{"/etc/default/x", true}, {"/run/y", false}},
	}
	var questions []property
	var want []value
	for name, value := range map[string]value{
		"text": {texts: []string{"active"}}, "nothing": {texts: []string{""}}, "path": {texts: []string{"/org/x"}}, "yes": {set: true}, "no": {},
		"list": {texts: []string{"a.service", "", "ünïcode.service"}}, "empty": {}, "count": {number: 7},
		"moment": {number: 1 << 40}, "job": {number: 12}, "files": {texts: []string{"/etc/default/x", "/run/y"}},
	} {
		questions, want = append(questions, property{"a-b@1.service", unitInterface, name}), append(want, value)
	}
	got, err := askIt(t, questions, func(path dbus.ObjectPath, face, name string) any {
		if path != "/org/freedesktop/systemd1/unit/a_2db_401_2eservice" || face != unitInterface {
			t.Errorf("it asks %s for %s", path, face)
		}
		return values[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(value{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestMoreQuestionsThanAreAskedAtOnceAreAnsweredInTheirOrder(t *testing.T) {
	var questions []property
	for i := range 3*maxInFlight + 7 {
		questions = append(questions, property{fmt.Sprintf("u%d.service", i), unitInterface, "Id"})
	}
	answers, err := askIt(t, questions, func(path dbus.ObjectPath, _, _ string) any { return string(path) })
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range answers {
		if want := fmt.Sprintf("/u%d_2eservice", i); !strings.HasSuffix(a.text(), want) {
			t.Fatalf("answer %d is %q", i, a.text())
		}
	}
}

func TestWhatSystemdCannotTellIsAnError(t *testing.T) {
	_, err := askIt(t, []property{{"gone.service", unitInterface, "Id"}}, func(dbus.ObjectPath, string, string) any {
		return errors.New("Unit gone.service not found.")
	})
	if err == nil || !strings.Contains(err.Error(), "NoSuchUnit: Unit gone.service not found.") {
		t.Errorf("got error %v", err)
	}
}

// said is a connection on which all was said already.
type said struct{ io.Reader }

func (said) Write(p []byte) (int, error) { return len(p), nil }

// Whatever is said instead of answers ends in answers or an error, and takes no more memory than there are bytes.
func FuzzConverse(f *testing.F) {
	var good bytes.Buffer
	good.WriteString("OK 0\r\n")
	variant := dbus.MakeVariant([]string{"a.service", "b.service"})
	for _, m := range []*dbus.Message{happening,
		{Type: dbus.TypeMethodReply, Body: []any{variant}, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(uint32(1)),
			dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf(variant)),
		}}} {
		if err := m.EncodeTo(&good, binary.LittleEndian); err != nil {
			f.Fatal(err)
		}
	}
	answers, err := askAll(said{bytes.NewReader(good.Bytes())}, []property{{"a.service", unitInterface, "After"}})
	if err != nil || len(answers[0].texts) != 2 {
		f.Fatalf("got %v, %v", answers, err)
	}
	f.Add(good.Bytes())
	f.Add([]byte("REJECTED EXTERNAL\r\n"))
	f.Add(good.Bytes()[:good.Len()-3])
	f.Fuzz(func(t *testing.T, text []byte) {
		answers, err := askAll(said{bytes.NewReader(text)},
			[]property{{"a.service", unitInterface, "After"}, {"b.service", unitInterface, "Id"}})
		for _, a := range answers {
			if err == nil && len(strings.Join(a.texts, "")) > len(text) {
				t.Errorf("%d bytes became %q", len(text), a.texts)
			}
		}
	})
}

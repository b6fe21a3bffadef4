package units

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

const ownJob, otherJob = dbus.ObjectPath("/org/freedesktop/systemd1/job/7"),
	dbus.ObjectPath("/org/freedesktop/systemd1/job/8")

func removed(job dbus.ObjectPath, unit, result string) *dbus.Message {
	return &dbus.Message{
		Type: dbus.TypeSignal,
		Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath(managerPath)),
			dbus.FieldInterface: dbus.MakeVariant(managerInterface),
			dbus.FieldMember:    dbus.MakeVariant("JobRemoved"),
			dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(uint32(0), job, "", "")),
		},
		Body: []any{uint32(7), job, unit, result},
	}
}

// systemd answers each connection by a function, which gets the method and its arguments.
// Properties of units are those of a map.
func systemd(t *testing.T, properties map[string]any, method func(name string, args []any, call *dbus.Message,
	send func(...*dbus.Message) error) error) {
	t.Helper()
	answered(t, func(call *dbus.Message, send func(...*dbus.Message) error) error {
		name, _ := call.Headers[dbus.FieldMember].Value().(string)
		if name == "Get" {
			property, _ := call.Body[1].(string)
			return send(happening, answerTo(call, dbus.MakeVariant(properties[property])))
		}
		return method(name, call.Body, call, send)
	})
}

// answered has the calls of each connection to systemd answered by a function.
func answered(t *testing.T, answer func(call *dbus.Message, send func(...*dbus.Message) error) error) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "private")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	before := privateSocket
	privateSocket = socket
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the test has ended
			}
			serve(t, conn, answer)
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(func() {
		privateSocket = before
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
}

var restartedOnce = map[string]any{
	"TimeoutStopUSec": uint64(5e6), "TimeoutStartUSec": uint64(5e6), "Job": struct {
		Number uint32
		Object dbus.ObjectPath
	}{0, "/"},
	"ActiveExitTimestampMonotonic": uint64(1000), "ActiveEnterTimestampMonotonic": uint64(251000),
	"InactiveExitTimestampMonotonic": uint64(1500),
	"ActiveState":                    "active",
}

func TestAJobIsAwaitedWhereverItsEndIsToldOf(t *testing.T) {
	for when, after := range map[string]bool{"after the answer": true, "before the answer": false} {
		var called []string
		systemd(t, restartedOnce,
			func(name string, args []any, call *dbus.Message, send func(...*dbus.Message) error) error {
				for _, arg := range args {
					name += " " + arg.(string) //nolint:forcetypeassert // a panic fails the test
				}
				called = append(called, name)
				if after {
					return send(happening, removed(otherJob, "b.service", "failed"), answerTo(call, ownJob), happening,
						removed(otherJob, "a.service", "canceled"), removed(ownJob, "a.service", "done"))
				}
				return send(removed(ownJob, "a.service", "done"),
					removed(otherJob, "b.service", "failed"), answerTo(call, ownJob))
			})
		away, err := new(Manager).Restart(t.Context(), "a.service")
		if err != nil || away != 250*time.Millisecond {
			t.Errorf("%s: away for %v, %v", when, away, err)
		}
		if !slices.Equal(called, []string{"TryRestartUnit a.service replace"}) {
			t.Errorf("%s: called %q", when, called)
		}
	}
}

func TestAJobThatFailsIsAnError(t *testing.T) {
	systemd(t, restartedOnce, func(_ string, _ []any, call *dbus.Message, send func(...*dbus.Message) error) error {
		return send(answerTo(call, ownJob), removed(ownJob, "a.service", "failed"))
	})
	if err := new(Manager).ReloadUnit(t.Context(), "a.service"); !errors.Is(err, ErrJob) ||
		!strings.Contains(err.Error(), "reload a.service: the job did not succeed: failed") {
		t.Errorf("got error %v", err)
	}
}

func TestAJobThatSystemdDoesNotTakeIsAnError(t *testing.T) {
	systemd(t, restartedOnce, func(_ string, _ []any, call *dbus.Message, send func(...*dbus.Message) error) error {
		return send(answerTo(call, errors.New("Unit a.service not found.")))
	})
	if err := new(Manager).Stop(t.Context(), "a.service"); err == nil ||
		!strings.Contains(err.Error(),
			"stop a.service: org.freedesktop.systemd1.NoSuchUnit: Unit a.service not found.") {
		t.Errorf("got error %v", err)
	}
}

func TestAConnectionThatIsLostDuringAJobIsAnError(t *testing.T) {
	systemd(t, restartedOnce, func(_ string, _ []any, call *dbus.Message, send func(...*dbus.Message) error) error {
		return errors.Join(send(answerTo(call, ownJob)), net.ErrClosed)
	})
	if _, err := new(Manager).Restore(t.Context(), "a.service"); err == nil ||
		!strings.Contains(err.Error(), "restart a.service: the connection to systemd was lost") {
		t.Errorf("got error %v", err)
	}
}

func TestAJobIsAwaitedNoLongerThanTheCallerWaits(t *testing.T) {
	systemd(t, restartedOnce, func(_ string, _ []any, call *dbus.Message, send func(...*dbus.Message) error) error {
		return send(answerTo(call, ownJob))
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := new(Manager).Restart(ctx, "a.service")
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "systemd did not finish the job") {
		t.Errorf("got error %v", err)
	}
}

func TestAReexecutionEndsWithTheConnectionAndTheNextAnswer(t *testing.T) {
	again := 0
	systemd(t, map[string]any{"SystemState": "running"},
		func(name string, _ []any, _ *dbus.Message, _ func(...*dbus.Message) error) error {
			if again++; name != "Reexecute" {
				t.Errorf("called %s", name)
			}
			return net.ErrClosed
		})
	if err := new(Manager).Reexecute(t.Context()); err != nil || again != 1 {
		t.Errorf("called %d times, %v", again, err)
	}
}

func TestAReexecutionThatIsRefusedIsAnError(t *testing.T) {
	systemd(t, nil, func(_ string, _ []any, call *dbus.Message, send func(...*dbus.Message) error) error {
		return send(answerTo(call, errors.New("There is just not enough space in /run/.")))
	})
	if err := new(Manager).Reexecute(t.Context()); err == nil || !strings.Contains(err.Error(), "not enough space") {
		t.Errorf("got error %v", err)
	}
}

func TestWhatFailedIsListed(t *testing.T) {
	type unit struct {
		Name, Description, Load, Active, Sub, Following string
		Object                                          dbus.ObjectPath
		Job                                             uint32
		JobType                                         string
		JobObject                                       dbus.ObjectPath
	}
	list := []unit{{"a.service", "Ä", "loaded", "failed", "failed", "", "/a", 0, "", "/"},
		{"longer@b.service", "", "loaded", "failed", "dead", "x", "/b", 3, "start", "/j"}}
	systemd(t, nil, func(name string, args []any, call *dbus.Message, send func(...*dbus.Message) error) error {
		states, _ := args[0].([]string)
		if name != "ListUnitsFiltered" || !slices.Equal(states, []string{"failed"}) {
			t.Errorf("called %s with %v", name, args)
		}
		return send(happening, answerTo(call, list))
	})
	failed, err := new(Manager).Failed(t.Context())
	if err != nil || !slices.Equal(failed, []string{"a.service", "longer@b.service"}) {
		t.Errorf("%q, %v", failed, err)
	}
	list = nil
	if failed, err := new(Manager).Failed(t.Context()); err != nil || len(failed) != 0 {
		t.Errorf("%q, %v", failed, err)
	}
}

func TestInstancesOfTemplatesAreListed(t *testing.T) {
	type unit struct {
		Name, Description, Load, Active, Sub, Following string
		Object                                          dbus.ObjectPath
		Job                                             uint32
		JobType                                         string
		JobObject                                       dbus.ObjectPath
	}
	var list []unit
	for _, name := range []string{"a@1.service", "a@2.socket", "b@1.service", "a.service", "a@x@y.service"} {
		list = append(list, unit{Name: name, Active: "active", Object: "/u", JobObject: "/"})
	}
	systemd(t, nil, func(name string, args []any, call *dbus.Message, send func(...*dbus.Message) error) error {
		if states, _ := args[0].([]string); name != "ListUnitsFiltered" || slices.Contains(states, "inactive") {
			t.Errorf("called %s with %v", name, args)
		}
		return send(happening, answerTo(call, list))
	})
	got, err := new(Manager).Instances(t.Context(), []string{"a@.service"})
	if err != nil || !slices.Equal(got, []string{"a@1.service", "a@x@y.service"}) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFilesThatAreInNoDirectoryAreLeftOut(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	for _, path := range []string{filepath.Join(first, "a.conf"), filepath.Join(second, "a.conf"),
		filepath.Join(second, "b.conf")} {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := present([]string{filepath.Join(first, "absent"), first, second}, []string{"a.conf", "b.conf", "c.conf"})
	if err != nil || !slices.Equal(got, []string{"a.conf", "b.conf"}) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestObjectsAreNamedAsSystemdDoes(t *testing.T) {
	for unit, want := range map[string]string{
		"": "", "a-b@1.service": "/unit/a_2db_401_2eservice", "9p.mount": "/unit/_39p_2emount",
		"ü.slice": "/unit/_c3_bc_2eslice",
	} {
		if got := objectOf(unit); got != managerPath+want {
			t.Errorf("%q: %s", unit, got)
		}
	}
}

func TestAConnectionIsUsedAgainUnlessItWasClosed(t *testing.T) {
	systemd(t, map[string]any{"ActiveState": "active"},
		func(name string, _ []any, _ *dbus.Message, _ func(...*dbus.Message) error) error {
			t.Errorf("called %s", name)
			return net.ErrClosed
		})
	before := keepFor
	t.Cleanup(func() { keepFor = before })
	var m Manager
	ask := func() *connection {
		t.Helper()
		if state, err := m.ActiveState(t.Context(), "a.service"); err != nil || state != "active" {
			t.Fatalf("%q, %v", state, err)
		}
		m.mutex.Lock()
		defer m.mutex.Unlock()
		return m.idle
	}
	until := func(what string, done func() bool) {
		t.Helper()
		for limit := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("not %s in ten seconds", what)
			}
		}
	}

	keepFor = time.Hour
	first := ask()
	if again := ask(); again != first || first.sent != 2 {
		t.Errorf("two questions went over two connections, %d over the first", first.sent)
	}
	if err := first.socket.CloseWrite(); err != nil { // the other side closes, too
		t.Fatal(err)
	}
	until("closed by the other side", func() bool { return !first.alive() })
	keepFor = time.Millisecond
	if ask() == first {
		t.Error("a connection is kept that the other side has closed")
	}
	until("given up", func() bool {
		m.mutex.Lock()
		defer m.mutex.Unlock()
		return m.idle == nil
	})
}

// Only the files are applied that are named and exist: others may declare accounts that were removed in this VM.
func TestAccountsAreMadeOfTheNamedFilesAlone(t *testing.T) {
	directory := t.TempDir()
	tool := "#!/bin/sh\necho \"$@\" >" + directory + "/called\n"
	for name, text := range map[string]string{"systemd-sysusers": tool, "a.conf": "", "b.conf": ""} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", directory+":"+os.Getenv("PATH"))
	directories := accountDirs
	t.Cleanup(func() { accountDirs = directories })
	accountDirs = []string{directory}
	if err := ApplyAccounts(t.Context(), []string{"gone.conf"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(directory + "/called"); err == nil {
		t.Error("without files it applies all")
	}
	if err := ApplyAccounts(t.Context(), []string{"b.conf", "gone.conf"}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(directory + "/called"); err != nil || string(got) != "-- b.conf\n" {
		t.Errorf("%q, %v", got, err)
	}
}

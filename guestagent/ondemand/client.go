package ondemand

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin/paths"
)

// dialLimit is how long a client waits for an agent that is being started, or replaced.
const dialLimit = time.Minute

// Usage of the command of this package.
const Usage = `usage: sharedos component list
       sharedos component add NAME
       sharedos component remove NAME

list shows the components of this VM. add attaches a component that is offered on demand, remove detaches it.`

// ErrUsage means that the arguments are none of Usage.
var ErrUsage = errors.New("not a command")

// Program returns what this program is to do if it was called as a generator, a stand-in or a
// command of a person; nil if it was called as the agent.
func Program(arguments []string, out io.Writer) func() error {
	if len(arguments) == 0 {
		return nil
	}
	switch name := filepath.Base(arguments[0]); {
	case name == filepath.Base(paths.Generator) && len(arguments) > 1:
		return func() error { return Generate(arguments[1:]) }
	case name == filepath.Base(paths.Command):
		return func() error { return command(arguments[1:], out) }
	case len(arguments) == 3 && arguments[1] == paths.UseVerb:
		return func() error {
			_, err := ask(request{Verb: attach, Name: arguments[2], Used: true, Triggered: triggered()})
			return err
		}
	}
	if len(arguments) > 2 {
		// Linux gives the interpreter of a script what follows it on the first line as one argument (execve(2)).
		if component, is := strings.CutPrefix(arguments[1], paths.CallVerb+" "); is {
			return func() error { return call(component, arguments[2], arguments[3:]) }
		}
	}
	return nil
}

// triggered reports whether systemd has started this process for a socket, a timer or a path (systemd.exec(5)).
func triggered() bool { return os.Getenv("LISTEN_FDS") != "" || os.Getenv("TRIGGER_UNIT") != "" }

// command carries out a command of a person.
func command(arguments []string, out io.Writer) error {
	if len(arguments) < 2 || arguments[0] != "component" {
		return ErrUsage
	}
	switch verb := arguments[1]; {
	case verb == "list" && len(arguments) == 2:
		answer, err := ask(request{Verb: list})
		if err != nil {
			return err
		}
		return show(out, answer.Components)
	case verb == "add" && len(arguments) == 3:
		_, err := ask(request{Verb: attach, Name: arguments[2]})
		return err
	case verb == "remove" && len(arguments) == 3:
		_, err := ask(request{Verb: detach, Name: arguments[2]})
		return err
	}
	return ErrUsage
}

func show(out io.Writer, components []Component) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(table, "COMPONENT\tATTACHED\tON DEMAND"); err != nil {
		return err
	}
	word := map[bool]string{true: "yes", false: "no"}
	for _, one := range components {
		if _, err := fmt.Fprintf(table, "%s\t%s\t%s\n", one.Name, word[one.Attached], word[one.OnDemand]); err != nil {
			return err
		}
	}
	return table.Flush()
}

// call attaches a component and becomes the command of it that the caller wanted.
func call(component, path string, arguments []string) error {
	if _, err := ask(request{Verb: attach, Name: component, Used: true}); err != nil {
		return fmt.Errorf("%s is of component %q: %w", path, component, err)
	}
	standIn, err := isStandIn(path)
	if err != nil {
		return err
	}
	if standIn {
		return fmt.Errorf(
			"component %q is attached, but this process still sees the /usr from before (it has a mount namespace of "+
				"its own); start it again", component)
	}
	return fmt.Errorf("execute %s: %w", path, syscall.Exec(path, append([]string{path}, arguments...), os.Environ()))
}

// isStandIn reports whether the file at a path is the stand-in of a command.
func isStandIn(path string) (_ bool, err error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrPermission) {
		return false, nil // a stand-in can be read by everybody
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	first := []byte("#!" + paths.Agent + " " + paths.CallVerb + " ")
	has := make([]byte, len(first))
	if _, err := io.ReadFull(file, has); err != nil {
		return false, nil //nolint:nilerr // it is shorter
	}
	return bytes.Equal(has, first), nil
}

// An agent that is replaced leaves the answer to the next one. A request is sent again for
// dialLimit, and so often at least.
const (
	minAsks  = 3
	askPause = time.Second
)

// ask sends a request to the agent and waits for the answer.
func ask(asked request) (answer response, err error) {
	for i, begun := 0, time.Now(); i < minAsks || time.Since(begun) < dialLimit; i++ {
		if i > 0 {
			time.Sleep(askPause)
		}
		if answer, err = askOnce(asked); err == nil {
			break
		}
	}
	if err == nil && answer.Error != "" {
		err = errors.New(answer.Error)
	}
	return answer, err
}

func askOnce(asked request) (answer response, err error) {
	connection, err := dial()
	if err != nil {
		return answer, fmt.Errorf("the agent of this VM does not answer: %w", err)
	}
	defer func() { err = errors.Join(err, connection.Close()) }()
	if err := connection.SetDeadline(time.Now().Add(moveLimit)); err != nil {
		return answer, err
	}
	if err := json.NewEncoder(connection).Encode(asked); err != nil {
		return answer, fmt.Errorf("ask the agent of this VM: %w", err)
	}
	if err := json.NewDecoder(connection).Decode(&answer); err != nil {
		return answer, fmt.Errorf("the agent of this VM has not answered: %w", err)
	}
	return answer, nil
}

func dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialLimit)
	defer cancel()
	for {
		connection, err := (&net.Dialer{}).DialContext(ctx, "unix", mounts.OnDemandSocket)
		if err == nil || ctx.Err() != nil {
			return connection, err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// In a takeover this agent stops serving and starts its successor, as a further process of the same service. Until the
// successor has proved itself, this agent stays the main process of the service, and systemd starts its binary again if
// both end. Once the successor has answered an operator, its binary replaces this one's, and it becomes the main
// process.
const (
	// upWithin bounds the time until a successor listens, answerWithin the time until it has answered an operator,
	// whose host asks continuously.
	upWithin     = time.Minute
	answerWithin = time.Minute
	// holdFor is how long it has to go on running after that.
	holdFor = 3 * time.Second
	// successorVariable is the environment variable with the socket on which the previous agent waits for this one.
	successorVariable = "SHAREDOS_SUCCESSOR"
	readyWord         = "READY=1"
	answeredWord      = "SHAREDOS_ANSWERED=1"
)

// judge returns the socket of the previous agent that waits for this one to prove itself; "" if there is none.
func judge() string { return os.Getenv(successorVariable) }

// errSuccessor means that an agent failed to take over.
var errSuccessor = errors.New("the agent that was to take over did not")

// takeoverPlaces are the files of a takeover. All of them are lost at a boot, which starts the agent of the VM's
// definition.
type takeoverPlaces struct {
	// binary is what systemd starts, next the successor's binary while it is tried.
	binary, next string
	// record is the record of the last takeover, socket receives the successor's messages.
	record, socket string
}

// takeoverRecord exists while an agent is tried, and after one has failed.
type takeoverRecord struct {
	To tree.Digest `json:"to"`
	// Refused is why it does not run; "" while it is tried.
	Refused string `json:"refused,omitempty"`
}

// report describes an agent that did not take over to the host.
func (r takeoverRecord) report(status *agentapi.StatusResponse) {
	if r.Refused != "" {
		status.AgentRefused, status.RefusedAgentDigest = fmt.Sprintf("agent %s: %s", r.To, r.Refused), r.To.String()
	}
}

func (p takeoverPlaces) save(record takeoverRecord) error {
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if failpoint.Built {
		if err := failpoint.Hit("before the record of a takeover"); err != nil {
			return err
		}
	}
	if err := fileio.Replace(p.record, data, 0o600); err != nil {
		return err
	}
	if failpoint.Built {
		return failpoint.Hit("after the record of a takeover")
	}
	return nil
}

// settle returns the record of the last agent that did not take over, an empty one if there was none or it is this
// agent. An agent that was killed while it waited for its successor leaves a record of one that is tried: its successor
// is gone, too.
func (p takeoverPlaces) settle(digest func() (tree.Digest, error)) (refused takeoverRecord, err error) {
	record, err := p.load()
	if errors.Is(err, fs.ErrNotExist) {
		return takeoverRecord{},
			fileio.Remove(p.next) // of an agent that was killed before it recorded that it tries it
	}
	if err != nil {
		return takeoverRecord{}, err
	}
	own, err := digest()
	if err != nil {
		return takeoverRecord{}, err
	}
	if record.To == own {
		return takeoverRecord{}, p.clear()
	}
	if record.Refused == "" {
		record.Refused = "the agent before it was ended while it waited for it"
		if err := errors.Join(p.save(record), fileio.Remove(p.next)); err != nil {
			return takeoverRecord{}, err
		}
	}
	return record, nil
}

func (p takeoverPlaces) load() (record takeoverRecord, err error) {
	data, err := fileio.Read(p.record, 64<<10)
	if err != nil {
		return record, err
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return record, fmt.Errorf("decode %s: %w", p.record, err)
	}
	return record, nil
}

func (p takeoverPlaces) clear() error {
	return errors.Join(fileio.Remove(p.record), fileio.Remove(p.socket))
}

// handOver starts the successor and waits until it has proved itself. Then this process is no longer the main process
// of the service, and has to end. After a failure the successor was killed, and the record says why.
func (p takeoverPlaces) handOver(ctx context.Context, limits takeoverLimits, adopt func(pid int) error) error {
	tried, err := p.load()
	if err != nil {
		return fmt.Errorf("%w: %w", errSuccessor, err)
	}
	pid, err := p.try(ctx, limits)
	if err == nil {
		err = p.clear()
		if failpoint.Built {
			err = errors.Join(err, failpoint.Hit("before the service has its new process"))
		}
		err = errors.Join(err, adopt(pid))
		if failpoint.Built {
			err = errors.Join(err, failpoint.Hit("after the service has its new process"))
		}
		return err
	}
	err = fmt.Errorf("%w: %w", errSuccessor, err)
	tried.Refused = err.Error()
	return errors.Join(err, p.save(tried), fileio.Remove(p.next), fileio.Remove(p.socket))
}

// takeoverLimits are the time limits of a takeover.
type takeoverLimits struct{ up, answer, hold time.Duration }

// try runs the successor until it has proved itself and its binary is in place. It kills a successor that fails.
func (p takeoverPlaces) try(ctx context.Context, limits takeoverLimits) (pid int, err error) {
	if err := fileio.Remove(p.socket); err != nil {
		return 0, err
	}
	heard, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: p.socket, Net: "unixgram"})
	if err != nil {
		return 0, fmt.Errorf("listen for it: %w", err)
	}
	words := make(chan string, 8)
	go listenFor(heard, words)
	defer func() {
		err = errors.Join(err, heard.Close())
		for range words { // until it has noticed
		}
	}()
	successor := exec.Command(p.next, "serve") //nolint:noctx // it outlives this process
	successor.Env = append(os.Environ(), successorVariable+"="+p.socket)
	successor.Stdout, successor.Stderr = os.Stdout, os.Stderr
	if err := successor.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- successor.Wait() }() // as long as it or this process lives
	err = proven(ctx, limits, words, ended)
	if failpoint.Built && err == nil {
		err = failpoint.Hit("before the successor is put in place")
	}
	if err == nil {
		err = os.Rename(p.next, p.binary)
	}
	if failpoint.Built && err == nil {
		err = failpoint.Hit("after the successor is put in place")
	}
	if err == nil {
		return successor.Process.Pid, nil
	}
	// It must not serve at the same time as the next agent.
	if killErr := successor.Process.Kill(); killErr != nil && !errors.Is(killErr, os.ErrProcessDone) {
		err = errors.Join(err, killErr)
	}
	return 0, err
}

// listenFor passes on messages until the socket is closed.
func listenFor(heard *net.UnixConn, words chan<- string) {
	defer close(words)
	buffer := make([]byte, 4096)
	for {
		n, err := heard.Read(buffer)
		if err != nil {
			return
		}
		for word := range strings.SplitSeq(string(buffer[:n]), "\n") {
			select {
			case words <- word:
			default: // more messages than a successor has to send
			}
		}
	}
}

// proven waits until a successor listens, has answered an operator and has gone on running for a while.
func proven(ctx context.Context, limits takeoverLimits, words <-chan string, ended <-chan error) error {
	await := func(what string, limit time.Duration, word string) error {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case err := <-ended:
				return fmt.Errorf("it ended before it %s: %w", what, exitOf(err))
			case <-timer.C:
				if word == "" {
					return nil
				}
				return fmt.Errorf("it has not %s within %v", what, limit)
			case got, more := <-words:
				if !more {
					return errors.New("it cannot be heard any more")
				}
				if word != "" && got == word {
					return nil
				}
			}
		}
	}
	if err := await("listened", limits.up, readyWord); err != nil {
		return err
	}
	if err := await("answered the host", limits.answer, answeredWord); err != nil {
		return err
	}
	return await("had run for a while", limits.hold, "")
}

// exitOf returns how a process ended. A successor must not end, even successfully.
func exitOf(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// adopt makes another process of this service its main process (sd_notify(3), MAINPID), and waits until systemd has
// processed that: a service ends with its main process.
func adopt(pid int) error {
	if err := notify(serviceManager(), fmt.Sprintf("MAINPID=%d", pid)); err != nil {
		return err
	}
	return notified()
}

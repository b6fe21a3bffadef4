//go:build faults

package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/crashtest"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/live"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/refresh"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// systemdVersion is a version that has soft-reboots.
const systemdVersion = 257

// runAgent is the agent. It continues the refresh of its journal, or begins the requested one, and prints
// a crashtest.Result when no refresh is in flight. If a signal stops it before, it prints nothing.
func runAgent(begins bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	engine, booted, err := newEngine()
	if err != nil {
		return err
	}
	if err := engine.Start(ctx); err != nil {
		return err
	}
	if begins {
		if err := begin(engine); err != nil {
			return err
		}
	}
	var status refresh.Status
	for {
		if status, err = engine.Status(); err != nil {
			return err
		}
		if status.Report == nil || status.Report.GetDone() || ctx.Err() != nil {
			break
		}
		engine.Await(ctx, status.Message())
	}
	ended := ctx.Err() != nil
	stop()
	engine.Wait()
	if ended {
		return nil
	}
	if status.Stack.Same(booted) {
		if err := boot.MarkGood(booted); err != nil { // as the service does when all units have started
			return err
		}
	}
	result := crashtest.Result{
		Stack: status.Stack, State: string(status.State), Committed: status.Report.GetCommitted(),
		Error:   status.Report.GetError(),
		Pending: status.Pending,
	}
	if result.Report, err = proto.Marshal(status.Report); err != nil {
		return err
	}
	remaining, pending, err := engine.OldCode(context.Background())
	if err != nil {
		return err
	}
	result.Remaining = remaining
	for _, line := range pending {
		if !slices.Contains(result.Pending, line) { // as package service puts them together
			result.Pending = append(result.Pending, line)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// assess is an agent that answers one AssessRequest, and prints a crashtest.Result.
func assess() error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	engine, _, err := newEngine()
	if err != nil {
		return err
	}
	if err := engine.Start(ctx); err != nil {
		return err
	}
	defer engine.Wait()
	data, err := os.ReadFile(requestFile)
	if err != nil {
		return err
	}
	request := &agentapi.AssessRequest{}
	if err := proto.Unmarshal(data, request); err != nil {
		return err
	}
	found, err := engine.Assess(ctx, request)
	if err != nil {
		return err
	}
	var result crashtest.Result
	if result.Impact, err = proto.Marshal(found); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

func begin(engine *refresh.Engine) error {
	data, err := os.ReadFile(requestFile)
	if err != nil {
		return err
	}
	request := &agentapi.RefreshRequest{}
	if err := proto.Unmarshal(data, request); err != nil {
		return err
	}
	started, err := engine.Refresh(request)
	if err == nil && !started {
		err = errors.New("there is nothing to do")
	}
	return err
}

// newEngine makes the engine as package service does, with replacements for what a namespace lacks.
func newEngine() (*refresh.Engine, release.Stack, error) {
	record, notSwitched, err := boot.ReadBootRecord()
	if err != nil {
		return nil, release.Stack{}, err
	}
	var operators []ed25519.PublicKey
	for _, text := range record.Operators {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, release.Stack{}, err
		}
		operators = append(operators, key)
	}
	usr, err := live.NewUsr(mounts.UsrRecord)
	if err != nil {
		return nil, release.Stack{}, err
	}
	base := live.NewSystem(usr, units{}, boot.AgentUnit)
	var moved *agentapi.Report
	if m := record.Moved; m != nil {
		moved = refresh.Moved(m.From, record.Stack, m.Carried, m.Conflicts)
	}
	return &refresh.Engine{
		Layers: layers{}, Usr: usr, Etc: live.Etc{}, Units: units{}, System: system{base}, Health: health{},
		Records: live.Records{Configured: record.Configured, Detaches: record.Detaches}, Blobs: blobs{},
		Starter: starter{live.Starter{Units: units{}}},
		Refused: record.Refused, NotSwitched: notSwitched, Operators: operators,
		Booted: record.Stack, Generation: record.Generation, Agent: boot.AgentUnit,
		Moved: moved, Network: &live.Network{Record: mounts.NetworkRecord},
	}, record.Stack, nil
}

// starter starts a stack. A machine does not go on beyond the request of a kexec, whose kernel another
// machine pretends to run, so that it does not matter whether the host's kernel could start another one.
type starter struct{ live.Starter }

// Obstacles implements refresh.Starter.
func (starter) Obstacles(context.Context) (map[refresh.Rung]string, error) { return nil, nil }

// layers are the layers, which are all mounted. There is no dm-verity, so a layer is verified in its file.
type layers struct{ live.Layers }

// Check implements refresh.Layers.
func (layers) Check(_ context.Context, one release.Layer) error {
	_, err := os.ReadDir(mounts.LayerPath(one.ID))
	return err
}

// Read implements refresh.Layers.
func (layers) Read(_ context.Context, one release.Layer) (err error) {
	file, err := os.Open(filepath.Join(imagesDir, one.ID.Hex()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return layer.Verify(file, one)
}

// system is this system. It has no cgroups of services, so process 1 says to which unit a process belongs.
type system struct{ *live.System }

// BootID implements refresh.System. The kernel's own is the same in all machines.
func (system) BootID() (string, error) {
	data, err := os.ReadFile(bootID)
	return string(data), err
}

// Kernel implements refresh.System.
func (s system) Kernel() (string, error) {
	data, err := os.ReadFile(kernelFile)
	if errors.Is(err, os.ErrNotExist) {
		return s.System.Kernel()
	}
	return string(data), err
}

// Snapshot implements refresh.System.
func (s system) Snapshot(ctx context.Context, changes *impact.Changes, named []string,
	swapped bool) (impact.Snapshot, error) {
	snapshot, err := s.System.Snapshot(ctx, changes, named, swapped)
	if err != nil {
		return snapshot, err
	}
	answer, err := ask("processes", "")
	if err != nil {
		return snapshot, err
	}
	if snapshot.Units == nil {
		snapshot.Units = map[string]impact.Unit{}
	}
	for unit, pid := range answer.Processes {
		for i := range snapshot.Processes {
			if snapshot.Processes[i].PID == pid {
				snapshot.Processes[i].Unit = unit
			}
			if snapshot.Processes[i].PID == 1 {
				snapshot.Processes[i].Unit = impact.ManagerUnit
			}
		}
	}
	for unit := range answer.Processes {
		snapshot.Units[unit] = unitFacts(unit, answer.Processes)
	}
	return snapshot, nil
}

// unitFacts are what systemd would say of a unit.
func unitFacts(unit string, running map[string]int) impact.Unit {
	facts := impact.Unit{Name: unit, State: "inactive", Fragment: strings.TrimPrefix(unitDirectory, "/") + unit}
	if _, always := services[unit]; always {
		facts.Fragment = "etc/systemd/system/" + unit
	}
	if _, runs := running[unit]; runs || unit == startTarget {
		facts.State = "active"
	}
	return facts
}

// units asks process 1 about units.
type units struct{}

// ask calls a method of process 1.
func ask(method, unit string) (answer reply, err error) {
	conn, err := net.Dial("unix", managerSocket)
	if err != nil {
		return answer, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return answer, err
	}
	if err := json.NewEncoder(conn).Encode(call{method, unit}); err != nil {
		return answer, err
	}
	if err := json.NewDecoder(conn).Decode(&answer); err != nil {
		return answer, fmt.Errorf("ask process 1 to %s %s: %w", method, unit, err)
	}
	if answer.Error != "" {
		err = errors.New(answer.Error)
	}
	return answer, err
}

// Begin implements live.Targets.
func (units) Begin(_ context.Context, target string) error {
	_, err := ask("begin", target)
	return err
}

// Version implements live.Targets.
func (units) Version(context.Context) (int, error) { return systemdVersion, nil }

// Facts implements live.FactsOf.
func (units) Facts(_ context.Context, names []string) (map[string]impact.Unit, error) {
	answer, err := ask("processes", "")
	if err != nil {
		return nil, err
	}
	facts := map[string]impact.Unit{}
	for _, name := range names {
		facts[name] = unitFacts(name, answer.Processes)
	}
	return facts, nil
}

// Instances implements live.FactsOf.
func (units) Instances(context.Context, []string) ([]string, error) { return nil, nil }

// Restart implements refresh.Units.
func (units) Restart(_ context.Context, unit string) (time.Duration, error) {
	answer, err := ask("restart", unit)
	if err != nil {
		return 0, err
	}
	// In the agent this failpoint is in package units, which talks to systemd.
	return away(answer), failpoint.Hit("after the restart of a unit")
}

// Restore implements refresh.Units.
func (u units) Restore(ctx context.Context, unit string) (time.Duration, error) {
	if answer, err := ask("state", unit); err != nil || answer.State == "inactive" {
		if err == nil {
			_, err = ask("start", unit)
		}
		return 0, err
	}
	return u.Restart(ctx, unit)
}

func away(answer reply) time.Duration {
	return time.Duration(answer.Started-answer.Stopped) * time.Microsecond
}

// Restarted implements refresh.Units.
func (units) Restarted(_ context.Context, unit string, since uint64) (bool, time.Duration, error) {
	answer, err := ask("state", unit)
	return err == nil && answer.Started >= since, away(answer), err
}

// ActiveState implements refresh.Units.
func (units) ActiveState(_ context.Context, unit string) (string, error) {
	answer, err := ask("state", unit)
	return answer.State, err
}

// Active implements refresh.Units.
func (units) Active(_ context.Context, unit string) (string, uint64, error) {
	answer, err := ask("state", unit)
	return answer.State, answer.Started, err
}

// Order implements refresh.Units.
func (units) Order(_ context.Context, names []string, _ map[string]impact.Unit) ([]string, map[string][]string, error) {
	return slices.Sorted(slices.Values(names)), nil, nil
}

// Stop implements refresh.Units.
func (units) Stop(_ context.Context, unit string) error {
	_, err := ask("stop", unit)
	return err
}

// Startable implements refresh.Units as package units does.
func (units) Startable(_ context.Context, unit, link string) (running bool, why string, err error) {
	if _, err := os.Lstat(link); errors.Is(err, os.ErrNotExist) {
		return false, "it is disabled here", nil
	} else if err != nil {
		return false, "", err
	}
	answer, err := ask("state", unit)
	return answer.State == "active", "", err
}

// Start implements refresh.Units.
func (units) Start(_ context.Context, unit string) (time.Duration, bool, error) {
	answer, err := ask("start", unit)
	return away(answer), false, err
}

// Withdraw implements refresh.Units.
func (units) Withdraw(_ context.Context, unit string) error {
	_, err := ask("stop", unit)
	return err
}

// Ran implements refresh.Units.
func (units) Ran(context.Context) ([]string, error) {
	answer, err := ask("processes", "")
	return slices.Sorted(maps.Keys(answer.Processes)), err
}

// Failure implements refresh.Units.
func (units) Failure(_ context.Context, unit string) string { return unit + " does not run" }

// The methods below need do nothing: no test looks at what they change in a real system.

// Reload implements refresh.Units.
func (units) Reload(context.Context) error { return nil }

// Reexecute implements refresh.Units.
func (units) Reexecute(context.Context) error { return nil }

// ReloadUnit implements refresh.Units.
func (units) ReloadUnit(context.Context, string) error { return nil }

// ApplyAccounts implements refresh.Units.
func (units) ApplyAccounts(context.Context, []string) error { return nil }

// ApplyTemporary implements refresh.Units.
func (units) ApplyTemporary(context.Context, []string) error { return nil }

// State implements refresh.Units.
func (units) State(context.Context) (string, error) { return "running", nil }

// Failed implements refresh.Units.
func (units) Failed(context.Context) ([]string, error) { return nil, nil }

// health carries out checks that are commands of two words. A check is good if /usr has the mark of
// the release that is the second word.
type health struct{}

// Check implements refresh.Health.
func (health) Check(_ context.Context, check *agentapi.HealthCheck) error {
	mark, err := os.ReadFile("/usr/share/mark")
	if err != nil {
		return err
	}
	if good := check.GetCommand().GetArgv()[1]; !strings.HasPrefix(string(mark), good) {
		return fmt.Errorf("/usr is of release %q, not %q", mark, good)
	}
	return nil
}

// blobs are the contents lists that the test uploaded.
type blobs struct{}

// Open implements refresh.Blobs.
func (blobs) Open(digest tree.Digest) (io.ReadCloser, error) {
	return os.Open(filepath.Join(mounts.BlobsDir, digest.Hex()))
}

// Drop implements refresh.Blobs.
func (blobs) Drop() error {
	entries, err := os.ReadDir(mounts.BlobsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(mounts.BlobsDir, entry.Name())))
	}
	return err
}

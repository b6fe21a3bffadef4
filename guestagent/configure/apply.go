package configure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

// application is one application of a plan.
type application struct {
	*Configurator
	at      *place
	plan    *plan
	secrets guestconfig.Secrets
	request *agentapi.ConfigureRequest
	open    *attempt
	// restarts are what was interrupted.
	restarts []*agentapi.UnitRestart
}

// apply carries the plan out, and takes it back if a step or a health check fails.
func (c *Configurator) apply(ctx context.Context, at *place, record *Record, p *plan,
	request *agentapi.ConfigureRequest) ([]*agentapi.UnitRestart, error) {
	a := &application{Configurator: c, at: at, plan: p, secrets: request.GetSecrets(), request: request}
	if err := a.secrets.Check(p.document); err != nil {
		return nil, err
	}
	good := a.goodChecks(ctx)
	if err := a.begin(record); err != nil {
		return nil, fmt.Errorf("%w: record how to take it back: %w", ErrRefused, err)
	}
	err := a.run(ctx)
	if err == nil {
		err = a.settle(ctx, good)
	}
	if err == nil {
		err = a.removeAccounts(ctx)
	}
	if err == nil {
		err = a.forgetBootNetworks(ctx)
	}
	if err == nil {
		err = a.finish(record)
	}
	if err == nil { // from here on it is not taken back any more
		return a.restarts, c.records().endAttempt(a.plan.next)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackLimit)
	defer cancel()
	if back := c.takeBack(ctx, a.open, record); back != nil {
		return a.restarts, fmt.Errorf("%w; and %w", err, back)
	}
	return a.restarts, fmt.Errorf("%w: %w", ErrTakenBack, err)
}

// begin records what takes the application back. Nothing is changed before it is on the disk.
func (a *application) begin(record *Record) error {
	r := a.records()
	if err := r.prepare(); err != nil {
		return err
	}
	a.open = &attempt{
		From: record.ID, To: a.plan.next.ID, Units: map[string]unit{},
		Accounts: a.plan.newAccounts, Sysctl: a.plan.previous,
	}
	if a.plan.swap != nil {
		a.open.Swap, a.open.Units[guestconfig.SwapUnit] = a.plan.swap, unit{Active: a.plan.swap.active}
	}
	if n := a.plan.network; n.any() {
		a.open.Manager, a.open.Networks = n.manager, append(slices.Sorted(maps.Keys(n.changed)), n.gone...)
	}
	for i := range a.plan.writes {
		a.open.Steps = append(a.open.Steps, step{Path: a.plan.writes[i].item.Path, Before: a.plan.writes[i].now})
	}
	for _, s := range a.plan.removals {
		a.open.Steps = append(a.open.Steps, step{Path: s.Path, Before: s.Before})
	}
	for _, s := range a.open.Steps {
		if s.Before == nil || s.Before.Link != "" {
			continue
		}
		content, err := a.at.read(s.Path)
		if err != nil {
			return err
		}
		if err := r.save(undoName, s.Path, content); err != nil {
			return err
		}
		if _, known := record.Entries[s.Path]; !known && a.plan.next.Entries[s.Path].Was != nil {
			if err := r.save(savedName, s.Path, content); err != nil {
				return err
			}
		}
	}
	for _, names := range [][]string{a.plan.stops, a.plan.starts, a.plan.halts, a.plan.enables, a.plan.disables} {
		for _, name := range names {
			enabled := a.plan.enabled[name]
			a.open.Units[name] = unit{Active: a.plan.active[name], Enabled: &enabled}
		}
	}
	for _, affected := range a.plan.assessed {
		if _, known := a.open.Units[affected.Unit]; !known {
			a.open.Units[affected.Unit] = unit{Active: true}
		}
	}
	return writeJSON(r.path(attemptName), a.open)
}

// note keeps what the attempt has done so far.
func (a *application) note() error { return writeJSON(a.records().path(attemptName), a.open) }

// touch notes that a unit is about to be started, stopped, restarted or reloaded.
func (a *application) touch(name string) error {
	if slices.Contains(a.open.Touched, name) {
		return nil
	}
	a.open.Touched = append(a.open.Touched, name)
	return a.note()
}

func (a *application) run(ctx context.Context) error {
	if err := a.stopSwap(ctx); err != nil {
		return err
	}
	for _, name := range slices.Concat(a.plan.stops, a.plan.halts) {
		if err := a.touch(name); err != nil {
			return err
		}
		if err := a.Units.Withdraw(ctx, name); err != nil {
			return err
		}
		a.restarts = append(a.restarts, &agentapi.UnitRestart{Unit: name, Level: agentapi.Level_RESTART})
	}
	for _, name := range a.plan.disables {
		if err := a.Units.Disable(ctx, name); err != nil {
			return fmt.Errorf("disable %s: %w", name, err)
		}
	}
	if err := a.files(ctx); err != nil {
		return err
	}
	if a.plan.changes.Manager() || len(a.plan.disables) > 0 {
		if err := a.Units.Reload(ctx); err != nil {
			return err
		}
	}
	if err := a.startSwap(ctx); err != nil {
		return err
	}
	for _, name := range a.plan.enables {
		if err := a.enable(ctx, name); err != nil {
			return err
		}
	}
	if err := a.setSysctl(a.plan.sysctl); err != nil {
		return err
	}
	if err := a.renewNetwork(ctx); err != nil {
		return err
	}
	if err := a.renew(ctx); err != nil {
		return err
	}
	return a.start(ctx)
}

// files writes and removes files: those that declare accounts first, since others may belong to these.
func (a *application) files(ctx context.Context) error {
	declares := func(w write) bool {
		return w.item.Path == guestconfig.SysusersFile || w.item.Path == guestconfig.TmpfilesFile
	}
	accounts := len(a.plan.newAccounts) > 0
	for _, w := range a.plan.writes {
		if declares(w) {
			accounts = true
			if err := a.write(w); err != nil {
				return err
			}
		}
	}
	if accounts {
		if err := a.Units.ApplyAccounts(ctx, []string{path.Base(guestconfig.SysusersFile)}); err != nil {
			return err
		}
		if err := a.checkNumbers(); err != nil {
			return err
		}
		if err := a.Units.ApplyTemporary(ctx, []string{path.Base(guestconfig.TmpfilesFile)}); err != nil {
			return err
		}
	}
	for _, w := range a.plan.writes {
		if !declares(w) {
			if err := a.write(w); err != nil {
				return err
			}
		}
	}
	for _, s := range a.plan.removals {
		if s.after == nil {
			if err := a.at.remove(s.Path); err != nil {
				return err
			}
			continue
		}
		if err := a.put(s.Path, *s.after, s.content); err != nil {
			return err
		}
	}
	return nil
}

// checkNumbers checks that accounts have the numbers that are configured: systemd-sysusers chooses
// another for one that is taken.
func (a *application) checkNumbers() error {
	for _, name := range a.plan.newAccounts {
		want := a.plan.document.Users[name].UID
		if want == nil {
			continue
		}
		is, found, err := a.number("passwd", name)
		if err != nil {
			return err
		}
		if !found || is != *want {
			return fmt.Errorf(
				"users: %s: uid: the guest does not give it the number %d, which is taken: choose another", name, *want)
		}
	}
	return nil
}

// write writes one file, and notes what it is then.
func (a *application) write(w write) error {
	item, content := w.item, w.item.Content
	state := State{Link: item.Link, Mode: item.Mode}
	if item.Link == "" {
		var err error
		if state.UID, state.GID, err = a.owner(item); err != nil {
			return err
		}
	}
	if item.Secret {
		content, state.Salt = a.secrets[item.Path], newSalt()
	}
	if w.keys != nil {
		content = a.MergeKeys(item.Content, w.keys)
	}
	if item.Link == "" {
		state.Digest = digestOf(content, state.Salt)
	}
	if err := a.put(item.Path, state, content); err != nil {
		return err
	}
	if entry, managed := a.plan.next.Entries[item.Path]; managed {
		entry.Is, entry.SecretVersion = state, item.SecretVersion
		a.plan.next.Entries[item.Path] = entry
	}
	return nil
}

// put writes a file and notes the directories that it made.
func (a *application) put(name string, state State, content []byte) error {
	made, err := a.at.put(name, state, content)
	if len(made) > 0 {
		a.open.Directories = append(a.open.Directories, made...)
		err = errors.Join(err, a.note())
	}
	return err
}

func (a *application) enable(ctx context.Context, name string) error {
	if err := a.Units.Enable(ctx, name); err != nil {
		return fmt.Errorf("enable %s: %w", name, err)
	}
	enabled, err := a.Units.Enabled(ctx, name)
	if err != nil {
		return err
	}
	if !enabled {
		return fmt.Errorf("enable %s: its unit file has no section [Install] that says what wants it", name)
	}
	return nil
}

// setSysctl sets kernel parameters.
func (c *Configurator) setSysctl(values map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if err := c.setParameter(name, values[name]); err != nil {
			return err
		}
	}
	return nil
}

// setParameter sets a kernel parameter. fs.ErrNotExist if there is none of this name.
func (c *Configurator) setParameter(name, value string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("set the kernel parameter %s: %w", name, err)
		}
	}()
	file, err := os.OpenFile(c.sysctlFile(name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value + "\n")
	return errors.Join(err, file.Close())
}

// renew restarts and reloads the units that use what has changed.
func (a *application) renew(ctx context.Context) error {
	byName := map[string]impact.Affected{}
	var names []string
	for _, affected := range a.plan.assessed {
		if affected.Unit == impact.ManagerUnit {
			continue // it was reloaded
		}
		byName[affected.Unit] = affected
		names = append(names, affected.Unit)
	}
	names, _, err := a.Units.Order(ctx, names, a.plan.facts)
	if err != nil {
		return err
	}
	for _, name := range names {
		affected := byName[name]
		if affected.Outcome.Along() {
			continue // systemd restarts it with another one
		}
		if err := a.touch(name); err != nil {
			return err
		}
		restart := &agentapi.UnitRestart{Unit: name, Level: affected.Outcome.Level()}
		if affected.Outcome == impact.Reloaded {
			err = a.Units.ReloadUnit(ctx, name)
		} else {
			var away time.Duration
			away, err = a.Units.Restart(ctx, name)
			restart.InterruptionUs = away.Microseconds()
		}
		if err != nil {
			err = fmt.Errorf("%w: %s", err, a.Units.Failure(ctx, name))
			restart.Error = err.Error()
		}
		a.restarts = append(a.restarts, restart)
		if err != nil {
			return err
		}
	}
	return nil
}

// start starts the units that are to run.
func (a *application) start(ctx context.Context) error {
	for _, name := range a.plan.starts {
		if err := a.touch(name); err != nil {
			return err
		}
		_, skipped, err := a.Units.Start(ctx, name)
		if err != nil {
			return fmt.Errorf("%w: %s", err, a.Units.Failure(ctx, name))
		}
		state, err := a.Units.ActiveState(ctx, name)
		if err != nil {
			return err
		}
		if managed, is := a.plan.next.Units[name]; is {
			managed.Runs = isActive(state) && !skipped
			a.plan.next.Units[name] = managed
		}
	}
	return nil
}

// goodChecks are the health checks that are good now. The others say nothing about the configuration.
func (a *application) goodChecks(ctx context.Context) (good []*agentapi.HealthCheck) {
	for _, check := range a.request.GetHealthChecks() {
		if a.check(ctx, check) == nil {
			good = append(good, check)
		}
	}
	return good
}

func (a *application) check(ctx context.Context, check *agentapi.HealthCheck) error {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	return a.Health.Check(ctx, check)
}

// settle waits until the health checks are good, and that they and the units that were touched stay so.
func (a *application) settle(ctx context.Context, checks []*agentapi.HealthCheck) error {
	if len(a.open.Touched) == 0 && len(checks) == 0 {
		return nil
	}
	for _, check := range checks {
		end := time.Now().Add(cmp.Or(a.ReadyLimit, readyLimit))
		for err := a.check(ctx, check); err != nil; err = a.check(ctx, check) {
			if time.Now().After(end) || ctx.Err() != nil {
				return fmt.Errorf("health check %q: %w", check.GetName(), err)
			}
			time.Sleep(readyPause)
		}
	}
	hold := time.Duration(max(0, a.request.GetSettleMs())) * time.Millisecond
	end := time.Now().Add(min(hold, applyLimit))
	for {
		for _, name := range a.open.Touched {
			if slices.Contains(a.plan.stops, name) || slices.Contains(a.plan.halts, name) {
				continue
			}
			state, err := a.Units.ActiveState(ctx, name)
			if err != nil {
				return err
			}
			if state == "failed" {
				return errors.New(a.Units.Failure(ctx, name))
			}
		}
		left := time.Until(end)
		if left <= 0 || len(a.open.Touched) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(left, readyPause)):
		}
		for _, check := range checks {
			if err := a.check(ctx, check); err != nil {
				return fmt.Errorf("health check %q: %w", check.GetName(), err)
			}
		}
	}
}

// removeAccounts removes accounts that are not configured any more. It comes last: an account that
// is made again may get another number.
func (a *application) removeAccounts(ctx context.Context) error {
	for _, name := range a.plan.goneAccounts {
		if err := a.Units.RemoveAccount(ctx, name); err != nil {
			return fmt.Errorf("remove the account %s: %w", name, err)
		}
	}
	return nil
}

// finish makes the new record the one that counts, and removes directories that were made and are empty now.
func (a *application) finish(record *Record) error {
	next := a.plan.next
	for name := range a.plan.document.Sysctl {
		now, err := fileio.Read(a.sysctlFile(name), maxParameter)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil {
			next.SysctlIs[name] = value(now)
		}
	}
	next.Directories = slices.Clone(record.Directories)
	for _, made := range a.open.Directories {
		if !slices.Contains(next.Directories, made) {
			next.Directories = append(next.Directories, made)
		}
	}
	slices.Sort(next.Directories) // parents first
	for _, directory := range slices.Backward(slices.Clone(next.Directories)) {
		used := slices.ContainsFunc(slices.Collect(maps.Keys(next.Entries)), func(name string) bool {
			return strings.HasPrefix(actual(name), directory+"/")
		})
		if used {
			continue
		}
		gone, err := a.at.removeDirectory(directory)
		if err != nil {
			return err
		}
		if gone {
			next.Directories = slices.DeleteFunc(next.Directories,
				func(other string) bool { return other == directory })
		}
	}
	if err := a.records().commit(next); err != nil {
		return err
	}
	a.id.Store(&next.ID)
	return nil
}

// takeBack undoes an attempt. Whatever fails does not keep the rest from being undone. The attempt stays on
// the disk until all of it is undone. A unit that does not run again and a kernel parameter that is gone are
// told, as ErrTakenBack, and do not keep the attempt: nothing else could be configured as long as they last.
func (c *Configurator) takeBack(ctx context.Context, open *attempt, record *Record) error {
	at, err := openPlace(c.Root)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnfinished, err)
	}
	var failures, left []error
	try := func(err error) {
		if err != nil {
			failures = append(failures, err)
		}
	}
	for _, name := range open.Touched { // before the files of a new unit go
		if !open.Units[name].Active {
			try(c.Units.Withdraw(ctx, name))
		}
	}
	try(c.takeSwapBack(ctx, open))
	for _, name := range slices.Sorted(maps.Keys(open.Units)) {
		if was := open.Units[name].Enabled; was != nil && !*was {
			try(c.setEnabled(ctx, name, false))
		}
	}
	for _, s := range slices.Backward(open.Steps) {
		try(c.undo(at, s))
	}
	for _, directory := range slices.Backward(open.Directories) {
		_, err := at.removeDirectory(directory)
		try(err)
	}
	for _, name := range slices.Sorted(maps.Keys(open.Sysctl)) {
		if err := c.setParameter(name, open.Sysctl[name]); errors.Is(err, fs.ErrNotExist) {
			left = append(left, err)
		} else {
			try(err)
		}
	}
	try(c.Units.Reload(ctx))
	if err := c.takeNetworkBack(ctx, open, record); err != nil {
		left = append(left, err)
	}
	for _, name := range slices.Sorted(maps.Keys(open.Units)) {
		if was := open.Units[name].Enabled; was != nil && *was {
			try(c.setEnabled(ctx, name, true))
		}
	}
	for _, name := range open.Touched {
		if open.Units[name].Active {
			if _, err := c.Units.Restore(ctx, name); err != nil {
				left = append(left, fmt.Errorf("%s does not run again: %w", name, err))
			}
		}
	}
	try(c.remakeAccounts(ctx, open, record))
	for _, name := range open.Accounts {
		_, exists, err := c.number("passwd", name)
		try(err)
		if exists {
			try(c.Units.RemoveAccount(ctx, name))
		}
	}
	try(at.Close())
	if len(failures) > 0 {
		return fmt.Errorf("%w: %w", ErrUnfinished, errors.Join(append(failures, left...)...))
	}
	if err := c.records().endAttempt(record); err != nil || len(left) == 0 {
		return err
	}
	return fmt.Errorf("%w, but not all is as before: %w", ErrTakenBack, errors.Join(left...))
}

// remakeAccounts makes the accounts of record again that an attempt has removed. The files that declare them are back.
func (c *Configurator) remakeAccounts(ctx context.Context, open *attempt, record *Record) error {
	for _, name := range record.Accounts {
		_, exists, err := c.number("passwd", name)
		if err != nil {
			return err
		}
		if !exists && !slices.Contains(open.Accounts, name) {
			return c.Units.ApplyAccounts(ctx, []string{path.Base(guestconfig.SysusersFile)})
		}
	}
	return nil
}

func (c *Configurator) setEnabled(ctx context.Context, name string, wanted bool) error {
	is, err := c.Units.Enabled(ctx, name)
	switch {
	case err != nil || is == wanted:
		return err
	case wanted:
		return c.Units.Enable(ctx, name)
	default:
		return c.Units.Disable(ctx, name)
	}
}

// undo makes a path what it was before an attempt.
func (c *Configurator) undo(at *place, s step) error {
	if s.Before == nil {
		return at.remove(s.Path)
	}
	var content []byte
	if s.Before.Link == "" {
		var err error
		if content, err = c.records().saved(undoName, s.Path); err != nil {
			return fmt.Errorf("take %s back: %w", s.Path, err)
		}
	}
	_, err := at.put(s.Path, *s.Before, content)
	return err
}

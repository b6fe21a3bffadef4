package configure

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// plan is what an application does.
type plan struct {
	document *guestconfig.Document
	// next is the record at its end.
	next *Record
	// writes are files that are written, sorted by path; removals are steps for paths that the
	// configuration no longer has.
	writes   []write
	removals []step
	// stops are units whose files go, starts and halts those that are to be started and stopped,
	// enables and disables the others.
	stops, starts, halts, enables, disables []string
	// enabled is whether the units of the plan are enabled now, active whether they run.
	enabled, active map[string]bool
	// newAccounts are users that do not exist yet, goneAccounts those that were made and are not configured any more.
	newAccounts, goneAccounts []string
	// sysctl are the values to set, by name; previous are those of now.
	sysctl, previous map[string]string
	network          networkChange
	swap             *swapChange
	changes          *impact.Changes
	// assessed is what is interrupted, and facts what systemd knows of the units.
	assessed []impact.Affected
	facts    map[string]impact.Unit
}

// write is a file that is written. Its owner is looked up when it is: the account may be made before.
type write struct {
	item guestconfig.Item
	now  *State
	// keys are merged into the file instead of a content; nil for other files.
	keys []string
	user string
}

func (p *plan) nothing() bool {
	return len(p.writes)+len(p.removals)+len(p.stops)+len(p.starts)+len(p.halts)+len(p.enables)+
		len(p.disables)+len(p.newAccounts)+
		len(p.goneAccounts)+len(p.sysctl) == 0 && p.swap == nil
}

// change is what somebody changed in the guest.
type change struct {
	why string
	// lost is true if putting it back loses what somebody made: not so where a file is gone, or
	// where a unit does not run.
	lost bool
}

// drift returns what is not as it was configured.
func (c *Configurator) drift(ctx context.Context, p *place, record *Record) (map[string]change, error) {
	drift := map[string]change{}
	for name, entry := range record.Entries {
		now, err := p.look(name, entry.Is.Salt)
		if err != nil && !errors.Is(err, errOdd) {
			drift[name] = change{err.Error(), true}
			continue
		}
		if errors.Is(err, errOdd) {
			drift[name] = change{err.Error(), true}
		} else if why := entry.Is.differs(now); why != "" {
			drift[name] = change{why, now != nil}
		}
	}
	document, err := record.document()
	if err != nil {
		return nil, err
	}
	for name, was := range record.Units {
		u := document.Units[name]
		if u.Enabled != nil {
			enabled, err := c.Units.Enabled(ctx, name)
			if err != nil {
				return nil, err
			}
			if enabled != *u.Enabled {
				drift[name] = change{map[bool]string{true: "it was enabled", false: "it was disabled"}[enabled], true}
			}
		}
		if u.Started != nil {
			state, err := c.Units.ActiveState(ctx, name)
			if err != nil {
				return nil, err
			}
			if *u.Started && was.Runs && (state == "inactive" || state == "failed") || !*u.Started && isActive(state) {
				drift[name] = change{"it is " + state, drift[name].lost || isActive(state)}
			}
		}
	}
	if document.Swap != 0 {
		state, err := c.Units.ActiveState(ctx, guestconfig.SwapUnit)
		if err != nil {
			return nil, err
		}
		if is, err := c.swapSize(); err != nil || is != document.Swap || !isActive(state) && state != "deactivating" {
			drift[guestconfig.SwapUnit] = change{fmt.Sprintf("the swap file has %d MiB, and its unit is %s", is>>20,
				state), false}
		}
	}
	return drift, errors.Join(c.driftOfUsers(p, record, document, drift), c.driftOfSysctl(record, drift))
}

// driftOfUsers adds accounts that are gone, and managed blocks of keys that were changed.
func (c *Configurator) driftOfUsers(p *place, record *Record, document *guestconfig.Document,
	drift map[string]change) error {
	for _, name := range record.Accounts {
		_, exists, err := c.number("passwd", name)
		if err != nil {
			return err
		}
		if !exists {
			drift[name] = change{why: "it is gone"}
			continue
		}
		file, keys := keysFile(document.Users[name].Home), document.Users[name].AuthorizedKeys
		now, err := p.look(file, nil)
		var existing []byte
		if err == nil && now != nil {
			existing, err = p.read(file)
		}
		is := string(existing)
		switch {
		case err != nil:
			drift[file] = change{err.Error(), true}
		case is == string(c.MergeKeys(existing, keys)):
		case is == string(c.MergeKeys(existing, nil)):
			drift[file] = change{why: "the configured keys are gone"}
		default:
			drift[file] = change{"the configured keys were changed", true}
		}
	}
	return nil
}

// driftOfSysctl adds kernel parameters that were set to something else. One that is gone, such as
// that of a network interface, cannot be put back.
func (c *Configurator) driftOfSysctl(record *Record, drift map[string]change) error {
	for name, was := range record.SysctlIs {
		now, err := fileio.Read(c.sysctlFile(name), maxParameter)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if value(now) != was {
			drift[name] = change{"its value was changed", true}
		}
	}
	return nil
}

// maxParameter bounds the value of a kernel parameter, in bytes.
const maxParameter = 64 << 10

// value is the value of a kernel parameter without what is spaces alone.
func value[T string | []byte](text T) string { return strings.Join(strings.Fields(string(text)), " ") }

// keysFile is the file of the authorized keys of an account.
func keysFile(home string) string { return path.Join(home, ".ssh/authorized_keys") }

func isActive(state string) bool {
	return state == "active" || state == "reloading" || state == "refreshing" || state == "activating"
}

// plan decides what has to be done. The error is ErrRefused if something must not be overwritten.
func (c *Configurator) plan(ctx context.Context, at *place, record *Record, document *guestconfig.Document,
	request *agentapi.ConfigureRequest) (*plan, error) {
	id, err := document.ID()
	if err != nil {
		return nil, err
	}
	p := &plan{
		document: document, changes: impact.NewChanges(), enabled: map[string]bool{}, active: map[string]bool{},
		sysctl: map[string]string{}, previous: map[string]string{},
		next: &Record{ID: id, Document: request.GetDocument(), Entries: map[string]Entry{},
			Units: map[string]UnitRecord{}, Directories: slices.Clone(record.Directories), Sysctl: map[string]string{},
			SysctlIs: map[string]string{}},
	}
	if id == "" {
		p.next.Document = nil
	}
	drift, err := c.drift(ctx, at, record)
	if err != nil {
		return nil, err
	}
	var refused []string
	for _, name := range slices.Sorted(maps.Keys(drift)) {
		if drift[name].lost && !slices.Contains(request.GetOverwrite(), name) {
			refused = append(refused, fmt.Sprintf("%s: %s since it was configured", name, drift[name].why))
		}
	}
	why, err := c.planManager(p, record)
	if err != nil {
		return nil, err
	}
	if why != "" {
		refused = append(refused, why)
	}
	for _, item := range document.Items(p.network.manager) {
		why, err := c.planItem(at, record, p, item, drift)
		if err != nil {
			return nil, err
		}
		if why != "" {
			refused = append(refused, item.Path+": "+why)
		}
	}
	if zone := document.TimeZone; zone != "" {
		if _, err := os.Stat(filepath.Join(c.Root, guestconfig.ZonesDirectory, zone)); errors.Is(err, fs.ErrNotExist) {
			refused = append(refused, fmt.Sprintf("time_zone: the guest has no time zone %q", zone))
		} else if err != nil {
			return nil, err
		}
	}
	if len(refused) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrRefused, strings.Join(refused, "; "))
	}
	for _, name := range slices.Sorted(maps.Keys(record.Entries)) {
		if _, stays := p.next.Entries[name]; stays {
			continue
		}
		if err := c.planRemoval(at, p, name, record.Entries[name]); err != nil {
			return nil, err
		}
	}
	if err := c.planUnits(ctx, record, p); err != nil {
		return nil, err
	}
	if err := c.planAccounts(at, record, p); err != nil {
		return nil, err
	}
	if err := c.planSwap(ctx, record, p); err != nil {
		return nil, err
	}
	if err := c.planNetworks(record, p); err != nil {
		return nil, err
	}
	return p, c.planSysctl(record, p)
}

// planItem decides what to do with one file. why says why it cannot be written.
func (c *Configurator) planItem(at *place, record *Record, p *plan, item guestconfig.Item,
	drift map[string]change) (why string, err error) {
	entry, ours := record.Entries[item.Path]
	var salt []byte
	if ours {
		salt = entry.Is.Salt
	}
	now, err := at.look(item.Path, salt)
	if errors.Is(err, errOdd) {
		return errOdd.Error(), nil
	}
	if err != nil {
		return err.Error(), nil //nolint:nilerr // it is the answer
	}
	if ours {
		p.next.Entries[item.Path] = entry
		if drift[item.Path].why == "" && c.has(entry, item) {
			return "", nil
		}
	} else if now != nil {
		stack, known, err := c.Stack.Entry(actual(item.Path))
		if err != nil {
			return "", err
		}
		if !known || !isStacks(now, stack) {
			return "there is a file that this configuration has not written: remove it in the guest, or use another path", nil
		}
		p.next.Entries[item.Path] = Entry{Was: now}
	} else {
		p.next.Entries[item.Path] = Entry{}
	}
	p.writes = append(p.writes, write{item: item, now: now})
	p.change(item.Path, now != nil, true)
	return "", nil
}

// change notes that a path differs, for the assessment of what uses it.
func (p *plan) change(name string, before, after bool) {
	entry := func(is bool, digest byte) *tree.Entry {
		if !is {
			return nil
		}
		return &tree.Entry{Path: actual(name), Type: tree.Regular, Digest: tree.Digest{digest}}
	}
	p.changes.Add(actual(name), entry(before, 1), entry(after, 2))
}

// isStacks reports whether a file is as the stack has it.
func isStacks(now *State, stack *tree.Entry) bool {
	switch {
	case stack == nil:
		return false
	case stack.Type == tree.Symlink:
		return now.Link == stack.Link
	case stack.Type == tree.Regular:
		return now.Link == "" && now.Digest == stack.Digest.Hex() && now.Mode == stack.Mode&0o7777 &&
			now.UID == stack.UID && now.GID == stack.GID
	}
	return false
}

// has reports whether a file that was written is what an item says.
func (c *Configurator) has(entry Entry, item guestconfig.Item) bool {
	if item.Link != "" || entry.Is.Link != "" {
		return item.Link == entry.Is.Link
	}
	uid, gid, err := c.owner(item)
	if err != nil || entry.Is.UID != uid || entry.Is.GID != gid || entry.Is.Mode != item.Mode {
		return false
	}
	if item.Secret {
		return len(entry.Is.Salt) > 0 && entry.SecretVersion == item.SecretVersion
	}
	return len(entry.Is.Salt) == 0 && entry.Is.Digest == digestOf(item.Content, nil)
}

// planRemoval gives a path back: the stack's own file returns if it has one.
func (c *Configurator) planRemoval(at *place, p *plan, name string, entry Entry) error {
	now, err := at.look(name, entry.Is.Salt)
	if err != nil && !errors.Is(err, errOdd) {
		return err
	}
	if errors.Is(err, errOdd) {
		return fmt.Errorf("%w: %s: %w: remove it in the guest", ErrRefused, name, err)
	}
	s := step{Path: name, Before: now}
	stack, known, err := c.Stack.Entry(actual(name))
	if err != nil {
		return err
	}
	seeded := tree.OwnerOf(actual(name)) == tree.OwnedByVM
	switch {
	case !known || seeded:
		if s.after = entry.Was; entry.Was != nil && entry.Was.Link == "" {
			if s.content, err = c.records().saved(savedName, name); err != nil {
				return err
			}
		}
	case stack == nil:
	case stack.Type == tree.Symlink:
		s.after = &State{Link: stack.Link}
	case stack.Type == tree.Regular:
		s.after = &State{Mode: stack.Mode & 0o7777, UID: stack.UID, GID: stack.GID, Digest: stack.Digest.Hex()}
		s.content, err = c.records().saved(savedName, name)
		if err != nil || digestOf(s.content, nil) != s.after.Digest { // a refresh has brought another version since
			s.content, err = c.Stack.Read(actual(name))
		}
		if err != nil {
			return err
		}
	}
	p.removals = append(p.removals, s)
	p.change(name, now != nil, s.after != nil)
	return nil
}

// planUnits decides which units are enabled, disabled, started and stopped.
func (c *Configurator) planUnits(ctx context.Context, record *Record, p *plan) error {
	before, err := record.document()
	if err != nil {
		return err
	}
	names := slices.AppendSeq(slices.Collect(maps.Keys(p.document.Units)), maps.Keys(record.Units))
	names = slices.AppendSeq(names, maps.Keys(before.Units))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		u, wanted := p.document.Units[name]
		had, managed := record.Units[name]
		if strings.Contains(name, "@.") {
			continue // a template neither runs nor is it enabled
		}
		enabled, err := c.Units.Enabled(ctx, name)
		if err != nil {
			return err
		}
		state, err := c.Units.ActiveState(ctx, name)
		if err != nil {
			return err
		}
		active := isActive(state)
		p.enabled[name], p.active[name] = enabled, active
		goes := before.Units[name].Content != nil && u.Content == nil &&
			!slices.ContainsFunc(p.removals, func(s step) bool {
				return s.Path == guestconfig.UnitDirectory+name && s.after != nil
			})
		next := UnitRecord{}
		if u.Enabled != nil {
			if next.Enabled = had.Enabled; next.Enabled == nil {
				next.Enabled = &enabled
			}
			p.enable(name, enabled, *u.Enabled)
		} else if managed && had.Enabled != nil {
			p.enable(name, enabled, *had.Enabled && !goes)
		} else if goes {
			p.enable(name, enabled, false)
		}
		if u.Started != nil {
			if next.Active = had.Active; next.Active == nil {
				next.Active = &active
			}
			next.Runs = *u.Started && (had.Runs || state == "active")
			p.run(name, state, *u.Started)
		} else if managed && had.Active != nil && !goes {
			p.run(name, state, *had.Active)
		}
		if goes && active {
			p.stops = append(p.stops, name)
		}
		if wanted && (next.Enabled != nil || next.Active != nil) {
			p.next.Units[name] = next
		}
	}
	return nil
}

func (p *plan) enable(name string, is, wanted bool) {
	switch {
	case wanted && !is:
		p.enables = append(p.enables, name)
	case !wanted && is:
		p.disables = append(p.disables, name)
	}
}

func (p *plan) run(name, state string, wanted bool) {
	switch {
	case wanted && !isActive(state):
		p.starts = append(p.starts, name)
	case !wanted && isActive(state):
		p.halts = append(p.halts, name)
	}
}

// planAccounts decides which accounts are made and removed, and whose keys are written.
func (c *Configurator) planAccounts(at *place, record *Record, p *plan) error {
	before, err := record.document()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(p.document.Users)) {
		u := p.document.Users[name]
		number, exists, err := c.number("passwd", name)
		if err != nil {
			return err
		}
		ours := slices.Contains(record.Accounts, name)
		switch {
		case exists && !ours:
			return fmt.Errorf(
				"%w: users: the guest has an account %q that this configuration has not made: choose another name",
				ErrRefused, name)
		case !exists:
			p.newAccounts = append(p.newAccounts, name)
		}
		if !ours || before.Users[name].Home != u.Home {
			uid := u.UID
			if exists {
				uid = &number
			}
			if err := checkHome(at, record, u.Home, uid); err != nil {
				return fmt.Errorf("%w: users: %s: home: %w", ErrRefused, name, err)
			}
		}
		p.next.Accounts = append(p.next.Accounts, name)
		if err := c.planKeys(at, p, name, u.Home, u.AuthorizedKeys); err != nil {
			return err
		}
	}
	for _, name := range record.Accounts {
		if _, stays := p.document.Users[name]; stays {
			continue
		}
		_, exists, err := c.number("passwd", name)
		if err != nil {
			return err
		}
		if exists {
			p.goneAccounts = append(p.goneAccounts, name)
		}
	}
	return nil
}

// checkHome refuses a home that has files of somebody else: systemd-tmpfiles would give the
// directory to the account. uid is that of the account; nil if it is not known.
func checkHome(at *place, record *Record, home string, uid *uint32) error {
	if slices.Contains(record.Directories, actual(home)) {
		return nil
	}
	owner, used, err := at.home(home)
	if err != nil || !used || uid != nil && *uid == owner {
		return err
	}
	return fmt.Errorf(
		"%s has files and belongs to %d: choose another directory, or give this one to the uid of the account", home,
		owner)
}

// planKeys writes the managed block of a user's authorized keys. The rest of the file is the user's.
func (c *Configurator) planKeys(at *place, p *plan, name, home string, keys []string) error {
	file := keysFile(home)
	now, err := at.look(file, nil)
	if err != nil {
		return fmt.Errorf("%w: users: %s: authorized_keys: %w", ErrRefused, name, err)
	}
	if now == nil && len(keys) == 0 {
		return nil
	}
	var existing []byte
	if now != nil {
		if existing, err = at.read(file); err != nil {
			return fmt.Errorf("%w: users: %s: authorized_keys: %w", ErrRefused, name, err)
		}
	}
	if string(c.MergeKeys(existing, keys)) == string(existing) {
		return nil
	}
	p.writes = append(p.writes, write{
		item: guestconfig.Item{Path: file, At: []string{"users", name, "authorized_keys"}, Content: existing,
			Mode: 0o600, Owner: name, Group: name},
		now: now, keys: append([]string{}, keys...), user: name,
	})
	return nil
}

// planSysctl decides which kernel parameters are set.
func (c *Configurator) planSysctl(record *Record, p *plan) error {
	names := slices.AppendSeq(slices.Collect(maps.Keys(p.document.Sysctl)), maps.Keys(record.Sysctl))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		want, wanted := p.document.Sysctl[name]
		now, err := fileio.Read(c.sysctlFile(name), maxParameter)
		if errors.Is(err, fs.ErrNotExist) && !wanted {
			continue // what it was about is gone, such as a network interface
		}
		if err != nil {
			return fmt.Errorf("%w: sysctl: read %s: %w", ErrRefused, name, err)
		}
		is, was := strings.TrimSpace(string(now)), record.Sysctl[name]
		if _, had := record.Sysctl[name]; !had {
			was = is
		}
		if !wanted {
			want = was
		} else {
			p.next.Sysctl[name] = was
		}
		if value(want) != value(is) {
			p.sysctl[name], p.previous[name] = want, is
		}
	}
	return nil
}

// sysctlFile is the file of a kernel parameter: the first separator of a name decides which one
// separates (sysctl.d(5)).
func (c *Configurator) sysctlFile(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		name = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	return filepath.Join(c.Root, "proc/sys", filepath.Join("/", name))
}

// owner returns the numbers of an item's owner and group.
func (c *Configurator) owner(item guestconfig.Item) (uid, gid uint32, err error) {
	for _, one := range []struct {
		file, name string
		to         *uint32
	}{{"passwd", item.Owner, &uid}, {"group", item.Group, &gid}} {
		number, found, err := c.number(one.file, one.name)
		if err != nil {
			return 0, 0, err
		}
		if !found {
			return 0, 0, fmt.Errorf("%s: the guest has no account %q in /etc/%s", item.Path, one.name, one.file)
		}
		*one.to = number
	}
	return uid, gid, nil
}

// number looks an account up in passwd or group. A number stands for itself.
func (c *Configurator) number(file, name string) (number uint32, found bool, err error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), true, nil
	}
	text, err := fileio.Read(filepath.Join(c.Root, "etc", file), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) > 2 && fields[0] == name {
			n, err := strconv.ParseUint(fields[2], 10, 32)
			return uint32(n), err == nil, err
		}
	}
	return 0, false, nil
}

// assess finds out which units use what changes, and describes what is interrupted.
func (p *plan) assess(ctx context.Context, c *Configurator, policy *agentapi.UnitPolicy) (*agentapi.Impact, error) {
	policy = withPaths(policy)
	changed, restart, reload := map[string]bool{}, map[string]bool{}, map[string]bool{}
	declare := func(unit, name string) {
		if policy.Paths[unit] == nil {
			policy.Paths[unit] = &agentapi.PathList{}
		}
		policy.Paths[unit].Paths = append(policy.Paths[unit].Paths, "/"+actual(name))
	}
	for _, w := range p.writes {
		changed[w.item.Path] = true
		for _, unit := range w.item.Restart {
			declare(unit, w.item.Path)
			restart[unit] = true
		}
		for _, unit := range w.item.Reload {
			declare(unit, w.item.Path)
			reload[unit] = true
		}
		if w.item.Unit != "" && !strings.Contains(w.item.Unit, "@.") {
			declare(w.item.Unit, w.item.Path)
			restart[w.item.Unit] = true
		}
	}
	for _, s := range p.removals {
		changed[s.Path] = true
	}
	for unit := range reload {
		if !restart[unit] && policy.Units[unit] == "" {
			policy.Units[unit] = string(impact.Reload)
		}
	}
	assessment, facts, err := c.Engine.AssessFiles(ctx, p.changes, policy)
	if err != nil {
		return nil, err
	}
	p.facts = facts
	handled := slices.Concat(p.stops, p.halts)
	for i := range assessment.Affected {
		affected := &assessment.Affected[i]
		if restart[affected.Unit] && affected.Outcome == impact.Reloaded {
			affected.Outcome = impact.Restarted
			assessment.Level = max(assessment.Level, affected.Outcome.Level())
		}
		if !affected.Outcome.Keeps() && !slices.Contains(handled, affected.Unit) && affected.Outcome != impact.Stopped {
			p.assessed = append(p.assessed, *affected)
		}
	}
	message := assessment.Message()
	for _, name := range handled {
		if !slices.ContainsFunc(message.GetUnits(), func(u *agentapi.UnitImpact) bool { return u.GetUnit() == name }) {
			message.Units = append(message.Units,
				&agentapi.UnitImpact{Unit: name, Level: agentapi.Level_RESTART,
					Reason: "it is stopped: the configuration says so"})
		}
		message.Level = max(message.GetLevel(), agentapi.Level_RESTART)
	}
	for _, name := range p.starts {
		message.Starts = append(message.Starts,
			&agentapi.UnitStart{Unit: name, WantedBy: "the configuration of the VM"})
	}
	p.impactOfNetwork(message)
	message.ChangedPaths = uint64(len(changed))
	return message, nil
}

package etcmerge

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// planner decides about every path before anything is changed.
type planner struct {
	placing

	carrier   Carrier
	live, new *os.Root
	old       *Baseline
	// aside is the name of the set of replaced files that this carry makes.
	aside       string
	keep        []string
	differences []Difference
	deferred    []deferredEntry
	// bases are the contents of the old release's account files, by path.
	bases map[string]string
	// leftBases are the contents from which the next carry starts where entries were left out, by path.
	leftBases AccountTexts
	// ofOtherType are the paths that are of another type here.
	ofOtherType map[string]bool
	// lockFailure is why the account files cannot be merged now, nil if they can.
	lockFailure *obstacle
	steps       []step
	outcome     Outcome
	// before and after are the numbers in this VM of the accounts of the old and of the new release.
	before, after ownerNumbers
	seeds         seeds
	// left are the paths of components that stay, as the old stack has them.
	left []*tree.Entry
	// purge are the paths of components that go once the carry is settled, unless they were changed here.
	purge []*tree.Entry
}

func newPlanner(c Carrier, live *os.Root, old *Baseline, next *os.Root) *planner {
	p := &planner{carrier: c, live: live, old: old, new: next, aside: asideName(c.To), keep: c.Keep,
		bases: map[string]string{}, ofOtherType: map[string]bool{}}
	p.seeds.rule.Delivered = asIn(live, old)
	p.placing = placing{root: live, sync: c.sync,
		skip: func(name string, o *obstacle) { p.report(obstacleConflict(name, o)) }}
	return p
}

func (p *planner) conflict(name string, kind Kind, reason string) {
	p.report(Conflict{Path: name, Kind: kind, Reason: reason})
}

func (p *planner) report(c Conflict) {
	if c.Kind == OtherType {
		p.ofOtherType[c.Path] = true
	}
	p.outcome.Conflicts = append(p.outcome.Conflicts, c)
}

// lockAccounts takes the lock of the account files. If that is impossible, they are left for the next carry.
func (p *planner) lockAccounts(ctx context.Context, limit time.Duration) (unlock func() error, err error) {
	unlock, err = lockAccounts(ctx, p.live, limit)
	if err == nil {
		return unlock, nil
	}
	if o := asObstacle(err); o != nil && ctx.Err() == nil {
		p.lockFailure = &obstacle{AccountsLocked, err}
		return func() error { return nil }, nil
	}
	return nil, err
}

// plan decides about all paths. The account files come first: the others have owners.
func (p *planner) plan(ctx context.Context) error {
	accounts := func(d Difference) bool { return accountFiles[d.Path] != nil }
	merged, err := p.mergeAccounts()
	if err != nil {
		return err
	}
	var last []step
	for _, d := range p.differences {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !utf8.ValidString(d.Path) || d.New != nil && !utf8.ValidString(d.New.Link) {
			p.conflict(d.Path, Unreadable, "its name is not UTF-8, which the record for the rollback cannot represent")
			continue
		}
		before := len(p.steps)
		if err := p.decide(d, merged); err != nil {
			o := asObstacle(err)
			if o == nil {
				return err
			}
			p.skip(d.Path, o)
		}
		if accounts(d) { // they are changed last, and in their order
			last = append(last, p.steps[before:]...)
			p.steps = p.steps[:before]
		}
	}
	if err := p.generateOwn(); err != nil {
		return err
	}
	if err := p.changedHere(ctx); err != nil {
		return err
	}
	for _, c := range p.seeds.conflicts() {
		p.report(c)
	}
	slices.SortStableFunc(last,
		func(a, b step) int { return slices.Index(AccountOrder, a.Path) - slices.Index(AccountOrder, b.Path) })
	p.steps = append(p.steps, last...)
	now, err := entryAt(p.live, formerPath)
	if err != nil {
		return err
	}
	if isRegular(now) {
		p.steps = append(p.steps, step{Path: formerPath, before: now, Always: true})
	}
	return nil
}

// decide plans one path.
func (p *planner) decide(d Difference, merged AccountMerge) error {
	if p.purgeable(d) {
		ours, err := lstatOwner(p.live, d.Path)
		if err != nil {
			return err
		}
		p.purge = append(p.purge, p.before.asHere(clone(d.Old), ours))
	}
	if tree.OwnerOf(d.Path) == tree.OwnedByVM {
		d.New = p.after.apply(d.New)
		return p.seed(d)
	}
	ours, err := entryAt(p.live, d.Path)
	if err != nil {
		return err
	}
	if p.ofBaseline(d.Path) {
		ours = clone(d.Old)
	}
	if ours != nil && p.kept(d.Path) {
		p.hold(d, ours)
		return nil
	}
	if stays, err := p.leave(&d, ours); stays || err != nil {
		return err
	}
	d.Old, d.New = p.before.asHere(d.Old, ours), p.after.apply(d.New)
	if tree.OwnerOf(d.Path) == tree.CarriedByOS {
		return p.planCarried(d, ours)
	}
	decision := Decide(d, ours)
	if decision.Action != Keep {
		if err := p.carrier.checkMounts(p.live, d.Path); err != nil {
			return err
		}
	}
	switch decision.Action {
	case Keep:
	case Conflicting:
		return p.conflicting(d, ours, decision)
	case Remove:
		p.steps = append(p.steps, step{Path: d.Path, before: ours})
	case Write:
		p.write(d, ours)
	case Blend:
		p.blend(d, ours)
	case Merge:
		p.merge(d, ours, merged)
	}
	return nil
}

// ofBaseline reports whether this VM's version of a path is that of the baseline, which the root
// does not show any more.
func (p *planner) ofBaseline(name string) bool {
	return mergedByContent(name) && p.carrier.leftAlone(name)
}

// base is the content of a path in the baseline.
func (p *planner) base(name string) content { return text(string(p.old.contents[name])) }

// kept reports whether the path is pinned.
func (p *planner) kept(name string) bool {
	for _, pattern := range p.keep {
		pattern = strings.TrimSuffix(strings.TrimPrefix(pattern, "/"), "/")
		for at := name; at != "."; at = path.Dir(at) {
			if matched, err := path.Match(pattern, at); matched && err == nil {
				return true
			}
		}
	}
	return false
}

// hold keeps a path as it is. A file that nobody changed here is still in the layers of the running release,
// so a copy is written: otherwise the path would have the new release's version after the next boot.
func (p *planner) hold(d Difference, ours *tree.Entry) {
	if ours.Type != tree.Regular && ours.Type != tree.Symlink && ours.Type != tree.Directory || alike(ours, d.New) {
		return
	}
	s := step{Path: d.Path, before: ours, after: clone(ours), content: present(p.live, d.Path)}
	if p.ofBaseline(d.Path) {
		s.content, s.previous = p.base(d.Path), p.base(d.Path)
	}
	p.steps = append(p.steps, s)
}

// conflicting leaves a path as it is, unless it is generated or a link that leads nowhere in the new release.
func (p *planner) conflicting(d Difference, ours *tree.Entry, decision Decision) error {
	if p.generate(d.Path, ours) {
		return nil
	}
	if alternative(d.Path) && d.New != nil && ours != nil && ours.Type == tree.Symlink && !p.leadsSomewhere(ours.Link) {
		p.conflict(d.Path, Changed,
			"it was set to "+ours.Link+" here, which the release does not have: it has the release's choice now")
		p.write(d, ours)
		return nil
	}
	if p.old.Unlisted {
		decision.Reason = "differs from the release, and may be of an earlier release, which is not recorded here"
	}
	p.conflict(d.Path, decision.Kind, decision.Reason)
	return nil
}

// generate has a generated file generated again. It reports false if the path is none.
func (p *planner) generate(name string, ours *tree.Entry) bool {
	generator := GeneratorOf(name)
	if generator == nil {
		return false
	}
	p.steps = append(p.steps, step{Path: name, before: ours, Always: true})
	if !slices.Contains(p.outcome.Generate, generator.Name) {
		p.outcome.Generate = append(p.outcome.Generate, generator.Name)
	}
	return true
}

// generateOwn has files generated again that only this VM has, and that would hide what the new release has below /usr.
func (p *planner) generateOwn() error {
	for i := range Generators {
		if !Generators[i].ofUsr {
			continue
		}
		for _, name := range Generators[i].outputs {
			if slices.ContainsFunc(p.differences, func(d Difference) bool { return d.Path == name }) || p.kept(name) {
				continue
			}
			ours, err := entryAt(p.live, name)
			if err == nil && isRegular(ours) {
				if _, missing := p.new.Lstat(name); !errors.Is(missing, fs.ErrNotExist) {
					continue // it is the release's, or a change of it: the release's is as old as its inputs
				}
				if err = p.carrier.checkMounts(p.live, name); err == nil {
					p.generate(name, ours)
				}
			}
			if o := asObstacle(err); o != nil {
				p.skip(name, o)
			} else if err != nil {
				return err
			}
		}
	}
	return nil
}

// leadsSomewhere reports whether an absolute target exists: below /usr in the new release, elsewhere here.
func (p *planner) leadsSomewhere(target string) bool {
	name := strings.TrimPrefix(path.Clean(target), "/")
	root := p.live
	if strings.HasPrefix(name, "usr/") && !strings.HasPrefix(name, "usr/local/") {
		root = p.new
	}
	_, err := root.Lstat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

func (p *planner) write(d Difference, ours *tree.Entry) {
	if d.New.Type != tree.Directory && d.New.Type != tree.Regular && d.New.Type != tree.Symlink {
		p.conflict(d.Path, Unsupported,
			"the release has a "+d.New.Type.String()+" there, which is not carried into a running system")
		return
	}
	s := step{Path: d.Path, before: ours, after: clone(d.New), content: p.released(d)}
	// Files of /etc are replaced one by one, and each has an overlay's copy of its own.
	if d.New.Type == tree.Regular && tree.OwnerOf(d.Path) != tree.Merged {
		// An error is not reported here: reading the content then fails, too, and reports it.
		s.file, _ = several(p.new, d.Path)
	}
	p.steps = append(p.steps, s)
}

// released returns the content of the new release's version of a file, and checks that the layers
// have what the contents list says.
func (p *planner) released(d Difference) content {
	return func(to io.Writer) (err error) {
		file, err := p.new.Open(d.Path)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		sum := sha256.New()
		if _, err := io.Copy(io.MultiWriter(to, sum), file); err != nil {
			return err
		}
		if tree.Digest(sum.Sum(nil)) != d.New.Digest {
			return errLayer(d.Path)
		}
		return nil
	}
}

// present returns the content that a file has in this VM.
func present(live *os.Root, name string) content {
	return func(to io.Writer) (err error) {
		from, err := live.Open(name)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, from.Close()) }()
		_, err = io.Copy(to, from)
		return err
	}
}

// errLayer is the path at which the layers do not have what the contents list says.
type errLayer string

func (e errLayer) Error() string {
	return "the layers do not have at " + string(e) + " what the contents list says"
}

// blend merges a path by attribute.
func (p *planner) blend(d Difference, ours *tree.Entry) {
	after, fromHere, conflicts := blend(d.Old, ours, d.New)
	for _, c := range conflicts {
		if c.Kind != Changed || !p.alternativeOrGenerated(d, ours, &after, &fromHere) {
			p.report(c)
		}
	}
	if alike(ours, after) {
		return
	}
	content := p.released(d)
	if fromHere {
		content = present(p.live, d.Path)
	}
	p.steps = append(p.steps, step{Path: d.Path, before: ours, after: after, content: content})
}

// alternativeOrGenerated resolves a conflict about the content of a path that is no configuration file.
func (p *planner) alternativeOrGenerated(d Difference, ours *tree.Entry, after **tree.Entry, fromHere *bool) bool {
	if p.generate(d.Path, ours) {
		return true
	}
	if !alternative(d.Path) || ours.Type != tree.Symlink || p.leadsSomewhere(ours.Link) {
		return false
	}
	*after, *fromHere = clone(d.New), false
	return false
}

// mergeAccounts merges all account files. If none of them differs, it only finds the numbers of accounts.
func (p *planner) mergeAccounts() (AccountMerge, error) {
	texts := [3]AccountTexts{{}, {}, {}}
	for name, data := range p.old.contents {
		texts[0][name] = string(data)
	}
	for i, root := range []*os.Root{1: p.live, 2: p.new} {
		if root == nil {
			continue // the baseline is in memory
		}
		for _, name := range AccountOrder {
			if root == p.live && p.carrier.leftAlone(name) {
				texts[i][name] = texts[0][name] // the root shows the new release's, and this VM has the old one's
				continue
			}
			info, err := plainAt(root, name)
			if err == nil && (info == nil || info.IsDir()) {
				continue
			}
			var data []byte
			if err == nil {
				data, err = readAt(root, name)
			}
			switch o := asObstacle(err); {
			case err == nil:
				texts[i][name] = string(data)
			case o == nil || root != p.live:
				return AccountMerge{}, err
			}
		}
	}
	for _, entry := range p.deferred {
		if accountFiles[entry.Path] == nil {
			continue
		}
		texts[0][entry.Path] = entry.Base
	}
	p.bases = texts[0]
	// What was left out is in the old release nevertheless, and files may belong to it.
	released := AccountTexts{}
	for name, data := range p.old.contents {
		released[name] = string(data)
	}
	before := newAccountMerging(texts[0], texts[1], released)
	p.before = ownerNumbers{before.renumbering(passwdPath, texts[1][passwdPath]),
		before.renumbering(groupPath, texts[1][groupPath])}
	if p.lockFailure != nil {
		after := newAccountMerging(texts[0], texts[1], texts[2])
		p.after = ownerNumbers{after.renumbering(passwdPath, texts[1][passwdPath]),
			after.renumbering(groupPath, texts[1][groupPath])}
		return AccountMerge{}, nil
	}
	merged := MergeAccounts(texts[0], texts[1], texts[2])
	p.leftBases = merged.Left
	p.after = ownerNumbers{merged.Users, merged.Groups}
	return merged, nil
}

func (p *planner) merge(d Difference, ours *tree.Entry, all AccountMerge) {
	if p.lockFailure != nil {
		p.conflict(d.Path, AccountsLocked, p.lockFailure.Error())
		return
	}
	merged := all.Texts[d.Path]
	for _, c := range all.Conflicts {
		if c.Path == d.Path {
			p.report(c)
		}
	}
	old := d.Old
	if old == nil {
		old = ours
	}
	// Content is merged by entry, and only the other attributes are merged here. What differs from
	// the release's content is this VM's.
	here, next := clone(ours), clone(d.New)
	here.Digest, here.Size = tree.Sum([]byte(merged)), int64(len(merged))
	old = clone(old)
	old.Digest, old.Size = next.Digest, next.Size
	after, _, conflicts := blend(old, here, next)
	for _, c := range conflicts {
		p.report(c)
	}
	// What stays as it was, unlike the new release, is written, too: a file that nobody changed here
	// is still in the layers of the running release, and the next boot would show the new one's.
	if !alike(ours, after) || !alike(after, d.New) {
		s := step{Path: d.Path, before: ours, after: after, content: text(merged)}
		if p.ofBaseline(d.Path) {
			s.previous = p.base(d.Path)
		}
		p.steps = append(p.steps, s)
	}
}

// writeDeferred writes the list of paths that the next carry tries again, or removes it, and removes that of an earlier
// version.
func (p *planner) writeDeferred() error {
	var data []byte
	if list := p.toDefer(); len(list) > 0 {
		var err error
		if data, err = json.Marshal(list); err != nil {
			return err
		}
	}
	if err := p.carrier.placeDeferred(data); err != nil {
		return err
	}
	former, err := entryAt(p.live, formerPath)
	if err != nil || !isRegular(former) {
		return err
	}
	err = p.live.Remove(formerPath)
	if o := asObstacle(err); o != nil { // it is not read any more
		p.report(obstacleConflict(formerPath, o))
		return nil
	}
	return err
}

// asHere returns an entry of the old release with the owner that this VM's version has, if that is the same account:
// a file from a layer has the release's number, and one that was carried has the VM's.
func (n ownerNumbers) asHere(e, ours *tree.Entry) *tree.Entry {
	if e == nil || ours == nil {
		return e
	}
	mapped := n.apply(e)
	e = clone(e)
	if ours.UID == mapped.UID {
		e.UID = mapped.UID
	}
	if ours.GID == mapped.GID {
		e.GID = mapped.GID
	}
	if maps := mapped.Xattrs; ours.Xattrs[accessList] == maps[accessList] && maps[accessList] != "" {
		e.Xattrs[accessList] = maps[accessList]
	}
	return e
}

package publish

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxAccountFile bounds /etc/passwd and /etc/group in bytes.
const maxAccountFile = 16 << 20

// pinAccounts gives accounts the numbers that they have in the previous release: in /etc/passwd and /etc/group, as
// owners of entries, and in access control lists. A new account that has one of these numbers gets a free one. It
// returns the changes. The error matches ErrAccounts if there is no such assignment.
func pinAccounts(read *rootfs.System, before *release.Manifest) ([]string, error) {
	users, groups := owners(read.Tree.Entries)
	uids, err := renumber("user", before.Users, read.Users, users)
	if err != nil {
		return nil, err
	}
	gids, err := renumber("group", before.Groups, read.Groups, groups)
	if err != nil {
		return nil, err
	}
	if len(uids)+len(gids) == 0 {
		return nil, nil
	}
	pinned := append(movedBy("user", read.Users, uids), movedBy("group", read.Groups, gids)...)
	for i := range read.Tree.Entries {
		own(&read.Tree.Entries[i], uids, gids)
	}
	if err := rewrite(read.Tree, "etc/passwd", func(fields []string) error {
		return errors.Join(uids.field(fields, 2), gids.field(fields, 3))
	}); err != nil {
		return nil, err
	}
	if err := rewrite(read.Tree, "etc/group",
		func(fields []string) error { return gids.field(fields, 2) }); err != nil {
		return nil, err
	}
	if read.Users, read.Groups, err = rootfs.Accounts(read.Tree); err != nil {
		return nil, err
	}
	return pinned, nil
}

// numbers maps account numbers that change.
type numbers map[uint32]uint32

func (n numbers) of(number uint32) uint32 {
	if to, ok := n[number]; ok {
		return to
	}
	return number
}

// owners returns the numbers of the owners of entries.
func owners(entries []tree.Entry) (users, groups map[uint32]bool) {
	users, groups = map[uint32]bool{}, map[uint32]bool{}
	for i := range entries {
		users[entries[i].UID], groups[entries[i].GID] = true, true
	}
	return users, groups
}

// renumber finds numbers so that each account that is in both maps gets its old number. Accounts that did not share a
// number do not share one afterwards. used are further numbers that are taken.
func renumber(what string, old, new map[string]uint32, used map[uint32]bool) (numbers, error) {
	// Accounts can share a number, so numbers are mapped and not accounts.
	holds := map[uint32][]string{}
	for _, name := range slices.Sorted(maps.Keys(new)) {
		holds[new[name]] = append(holds[new[name]], name)
	}
	to, holder := numbers{}, map[uint32]uint32{}
	for _, number := range slices.Sorted(maps.Keys(holds)) {
		for _, name := range holds[number] {
			want, ok := old[name]
			if !ok {
				continue
			}
			if other, taken := to[number]; taken && other != want {
				return nil, fmt.Errorf("%w, and cannot be pinned: %ss %s share the number %d, and had %d and %d",
					ErrAccounts, what, strings.Join(holds[number], " and "), number, other, want)
			}
			if other, taken := holder[want]; taken && other != number {
				return nil, fmt.Errorf("%w, and cannot be pinned: %ss %s and %s shared the number %d, and no longer do",
					ErrAccounts, what, holds[other][0], name, want)
			}
			to[number], holder[want] = want, number
		}
	}
	// New accounts keep their numbers if no account has or had these, unless it shared them with one that stays.
	former := map[uint32]bool{}
	for name, number := range old {
		if _, stays := new[name]; !stays {
			former[number] = true
		}
	}
	taken := map[uint32]bool{}
	maps.Copy(taken, used)
	for _, accounts := range []map[string]uint32{old, new} {
		for _, number := range accounts {
			taken[number] = true
		}
	}
	for _, number := range slices.Sorted(maps.Keys(holds)) {
		if _, pinned := to[number]; pinned {
			continue
		}
		if _, needed := holder[number]; !needed && !former[number] {
			to[number] = number
			continue
		}
		free, ok := freeNumber(number, taken)
		if !ok {
			return nil, fmt.Errorf("%w, and cannot be pinned: no number is free for %s %s",
				ErrAccounts, what, holds[number][0])
		}
		to[number], taken[free] = free, true
	}
	maps.DeleteFunc(to, func(from, to uint32) bool { return from == to })
	return to, nil
}

// freeNumber returns a free number of the same kind: for system accounts the highest below 1000, as systemd-sysusers
// does, and for others the lowest from 1000 (sysusers.d(5), adduser.conf(5)).
func freeNumber(number uint32, taken map[uint32]bool) (uint32, bool) {
	const firstSystem, firstUser, lastUser = 100, 1000, 59_999
	if number < firstUser {
		for n := uint32(firstUser - 1); n >= firstSystem; n-- {
			if !taken[n] {
				return n, true
			}
		}
		return 0, false
	}
	for n := uint32(firstUser); n <= lastUser; n++ {
		if !taken[n] {
			return n, true
		}
	}
	return 0, false
}

func movedBy(what string, accounts map[string]uint32, by numbers) []string {
	var moved []string
	for _, name := range slices.Sorted(maps.Keys(accounts)) {
		if to, ok := by[accounts[name]]; ok {
			moved = append(moved, fmt.Sprintf("%s %s from %d to %d", what, name, accounts[name], to))
		}
	}
	return moved
}

// own renumbers the owner of an entry, and the accounts in its access control lists.
func own(e *tree.Entry, uids, gids numbers) {
	e.UID, e.GID = uids.of(e.UID), gids.of(e.GID)
	for _, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
		if list, ok := e.Xattrs[name]; ok {
			e.Xattrs = maps.Clone(e.Xattrs)
			e.Xattrs[name] = tree.RenumberACL(list, uids.of, gids.of)
		}
	}
}

// field renumbers one field of a line, if it is there.
func (n numbers) field(fields []string, i int) error {
	if i >= len(fields) {
		return nil
	}
	number, err := strconv.ParseUint(fields[i], 10, 32)
	if err != nil {
		return fmt.Errorf("number of %q: %w", fields[0], err)
	}
	if to, ok := n[uint32(number)]; ok {
		fields[i] = strconv.FormatUint(uint64(to), 10)
	}
	return nil
}

// rewrite changes the lines of a file of accounts. It keeps everything else byte for byte.
func rewrite(t *tree.Tree, name string, change func(fields []string) error) error {
	data, err := t.ReadFile(name, maxAccountFile)
	if err != nil {
		return fmt.Errorf("pin accounts: %w", err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(data)) {
		rest := strings.TrimRight(line, "\n")
		if strings.TrimSpace(rest) != "" && !strings.ContainsRune("#+-", rune(rest[0])) {
			fields := strings.Split(rest, ":")
			if err := change(fields); err != nil {
				return fmt.Errorf("pin accounts: %s: %w", name, err)
			}
			line = strings.Join(fields, ":") + line[len(rest):]
		}
		text.WriteString(line)
	}
	e, err := t.Resolve(name)
	if err != nil {
		return fmt.Errorf("pin accounts: %w", err)
	}
	changed := []byte(text.String())
	e.Size, e.Digest = int64(len(changed)), tree.Sum(changed)
	t.Content = &rewritten{Content: t.Content, digest: e.Digest, data: changed}
	return nil
}

// rewritten adds one content to others.
type rewritten struct {
	tree.Content
	digest tree.Digest
	data   []byte
}

// Open implements tree.Content.
func (r *rewritten) Open(digest tree.Digest) (io.ReadCloser, error) {
	if digest == r.digest {
		return io.NopCloser(bytes.NewReader(r.data)), nil
	}
	return r.Content.Open(digest)
}

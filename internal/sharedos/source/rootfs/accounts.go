package rootfs

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxAccounts bounds /etc/passwd and /etc/group in bytes.
const maxAccounts = 16 << 20

// Accounts maps the names of users and groups in /etc/passwd and /etc/group to their numbers.
func Accounts(t *tree.Tree) (users, groups map[string]uint32, err error) {
	if users, err = accounts(t, "etc/passwd"); err != nil {
		return nil, nil, err
	}
	if groups, err = accounts(t, "etc/group"); err != nil {
		return nil, nil, err
	}
	return users, groups, nil
}

// accounts reads name and number, the first and third field of passwd(5) and group(5).
func accounts(t *tree.Tree, p string) (map[string]uint32, error) {
	data, err := t.ReadFile(p, maxAccounts)
	if err != nil {
		return nil, fmt.Errorf("read accounts: %w", err)
	}
	all := make(map[string]uint32)
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimRight(line, "\n")
		// Lines with "+" and "-" refer to NIS (nsswitch.conf(5), compat mode), not to an account of this tree.
		if strings.TrimSpace(line) == "" || strings.ContainsRune("#+-", rune(line[0])) {
			continue
		}
		fields := strings.Split(line, ":")
		if len(fields) < 3 || fields[0] == "" {
			return nil, fmt.Errorf("read accounts: %s line %d: %q: %w", p, number,
				source.Shorten(line), source.ErrMalformed)
		}
		id, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read accounts: %s line %d: number of %q: %w: %w", p, number, fields[0],
				err, source.ErrMalformed)
		}
		// If two lines have the same name, lookups find the first one.
		if _, ok := all[fields[0]]; !ok {
			all[fields[0]] = uint32(id)
		}
	}
	return all, nil
}

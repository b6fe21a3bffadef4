package publish

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

func TestNumbersOfAccountsMustNotPassToOthers(t *testing.T) {
	type accounts = map[string]uint32
	for name, test := range map[string]struct {
		old, new accounts
		want     []string
	}{
		"nothing moved": {accounts{"a": 1}, accounts{"a": 1, "b": 2}, nil},
		"one moved": {accounts{"a": 1}, accounts{"a": 2},
			[]string{"user a from 1 to 2", "group a from 1 to 2", "pin_accounts"}},
		"one is gone":                    {accounts{"a": 1, "b": 2}, accounts{"a": 1}, nil},
		"the number of one that is gone": {accounts{"a": 1, "b": 2}, accounts{"a": 1, "c": 2}, []string{"user c has the number 2, which b had", "group c"}},
		"a renamed account": {accounts{"a": 1}, accounts{"b": 1},
			[]string{"user b has the number 1, which a had"}},
		"one that shares a number":  {accounts{"root": 0}, accounts{"root": 0, "toor": 0}, nil},
		"one of two that shared it": {accounts{"root": 0, "toor": 0}, accounts{"root": 0, "admin": 0}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkAccounts(&release.Manifest{Users: test.old, Groups: test.old},
				&release.Manifest{Users: test.new, Groups: test.new})
			if errors.Is(err, ErrAccounts) != (test.want != nil) {
				t.Fatalf("got %v", err)
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
			// pin_accounts finds an assignment with nothing to refuse.
			pinned, err := renumber("user", test.old, test.new, nil)
			if err != nil {
				t.Fatal(err)
			}
			after := maps.Clone(test.new)
			for name := range after {
				after[name] = pinned.of(after[name])
			}
			if err := checkAccounts(&release.Manifest{Users: test.old}, &release.Manifest{Users: after}); err != nil {
				t.Errorf("once pinned: %v", err)
			}
		})
	}
}

func TestAccountsOfAllReleasesCount(t *testing.T) {
	type accounts = map[string]uint32
	newest := accounts{"a": 1, "b": 2}
	all := withAccounts(withAccounts(newest, accounts{"a": 9, "gone": 3, "renamed": 2}),
		accounts{"gone": 4, "older": 5})
	if want := (accounts{"a": 1, "b": 2, "gone": 3, "older": 5}); !maps.Equal(all, want) {
		t.Errorf("got %v, want %v", all, want)
	}
}

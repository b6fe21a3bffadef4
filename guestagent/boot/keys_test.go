package boot

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAuthorizedKeysKeepTheUsersLines(t *testing.T) {
	block := keysBegin + "\nk1\n" + keysEnd + "\n"
	for name, test := range map[string]struct {
		existing string
		keys     []string
		want     string
	}{
		"no file":               {"", []string{"k1"}, block},
		"no file and no keys":   {"", nil, ""},
		"a user's file":         {"mine\n", []string{"k1"}, "mine\n" + block},
		"no newline at the end": {"mine", []string{"k1"}, "mine\n" + block},
		"the block changes": {"a\n" + keysBegin + "\nold\n" + keysEnd + "\nb\n",
			[]string{"k1"}, "a\n" + block + "b\n"},
		"the block goes":           {"a\n" + block + "b\n", nil, "a\nb\n"},
		"a user's file, no keys":   {"mine", nil, "mine"},
		"a block without its end":  {keysBegin + "\nmine\n", []string{"k1"}, block + "mine\n"},
		"an end without its begin": {keysEnd + "\n", []string{"k1"}, keysEnd + "\n" + block},
	} {
		t.Run(name, func(t *testing.T) {
			if got := string(mergeAuthorizedKeys([]byte(test.existing), test.keys)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestAuthorizedKeysMergeTwiceIsMergeOnce(t *testing.T) {
	line := rapid.SampledFrom([]string{"", "mine", "# note", "ssh-rsa AAAA", keysEnd})
	rapid.Check(t, func(t *rapid.T) {
		existing := []byte(strings.Join(rapid.SliceOf(line).Draw(t, "lines"), "\n"))
		keys := rapid.SliceOfN(rapid.SampledFrom([]string{"k1", "k2", "k3"}), 0, 3).Draw(t, "keys")
		once := mergeAuthorizedKeys(existing, keys)
		if twice := mergeAuthorizedKeys(once, keys); !bytes.Equal(once, twice) {
			t.Fatalf("once %q, twice %q", once, twice)
		}
		if gone := mergeAuthorizedKeys(once, nil); strings.TrimRight(string(gone),
			"\n") != strings.TrimRight(string(existing), "\n") {
			t.Fatalf("the user had %q and keeps %q", existing, gone)
		}
	})
}

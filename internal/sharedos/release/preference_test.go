package release

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestPreferencesOfAStack(t *testing.T) {
	var long []Preference
	for i := range 5 {
		long = append(long, Preference{fmt.Sprintf("/%d%s", i, strings.Repeat("a", maxPreferencePath-2)), "nginx"})
	}
	for name, test := range map[string]struct {
		prefer []Preference
		valid  bool
	}{
		"two":            {[]Preference{{"/etc/a", "nginx"}, {"/usr", "site"}}, true},
		"not sorted":     {[]Preference{{"/usr", "nginx"}, {"/etc/a", "site"}}, false},
		"twice":          {[]Preference{{"/usr", "nginx"}, {"/usr", "site"}}, false},
		"the root":       {[]Preference{{"/", "nginx"}}, false},
		"relative":       {[]Preference{{"etc/a", "nginx"}}, false},
		"not clean":      {[]Preference{{"/etc/../a", "nginx"}}, false},
		"a slash at end": {[]Preference{{"/etc/", "nginx"}}, false},
		"a zero byte":    {[]Preference{{"/etc/\x00", "nginx"}}, false},
		"not UTF-8":      {[]Preference{{"/etc/\xff", "nginx"}}, false},
		"too long":       {[]Preference{{"/" + strings.Repeat("a", maxPreferencePath), "nginx"}}, false},
		"no name":        {[]Preference{{"/etc/a", "No Name"}}, false},
		"too much":       {long, false},
		"too many":       {make([]Preference, MaxPreferences+1), false},
	} {
		stack := exampleStack()
		stack.Prefer = test.prefer
		encoded, err := stack.Encode()
		if (err == nil) != test.valid || err != nil && !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		read, err := DecodeStack(encoded)
		if err != nil || len(read.Prefer) != len(test.prefer) {
			t.Errorf("%s: read %+v, %v", name, read, err)
		}
		without := read.Record(digestOf("a"))
		if without.Prefer = nil; read.Record(digestOf("a")).SameReleases(without) {
			t.Errorf("%s: the same without preferences", name)
		}
	}
}

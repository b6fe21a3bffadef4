package etcmerge

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestANumberIsTakenOnlyByAnAccountThatIsNotTheReleases(t *testing.T) {
	type accounts = map[string]uint32
	for name, test := range map[string]struct {
		next accounts
		here string
		want []Taken
	}{
		"a local account has it": {accounts{"sshd": 990}, "me:x:990:990::/:\n",
			[]Taken{{Name: "sshd", Number: 990, Here: "me"}}},
		"nobody has it":                        {accounts{"sshd": 990}, "me:x:991:990::/:\n", nil},
		"the account is here":                  {accounts{"sshd": 990}, "sshd:x:990:990::/:\nme:x:990:990::/:\n", nil},
		"the name is here with another number": {accounts{"sshd": 990}, "sshd:x:1000:1000::/:\n", nil},
		"and its number is another's": {accounts{"sshd": 990},
			"sshd:x:1000:1000::/:\nme:x:990:1::/:\n", []Taken{{Name: "sshd", Number: 990, Here: "me"}}},
		"it got another number here with an earlier release": {accounts{"sshd": 990},
			"sshd:x:999:1::/:\nme:x:990:990::/:\n",
			[]Taken{{Name: "sshd", Number: 990, Here: "me"}}},
		"the release gives it another number": {accounts{"sshd": 990},
			"sshd:x:989:1::/:\nme:x:990:990::/:\n", []Taken{{Name: "sshd", Number: 990, Here: "me"}}},
		"two accounts of the release share it": {accounts{"root": 0, "toor": 0}, "root:x:0:0::/:\n", nil},
		"the release gives it to another account": {accounts{"new": 990}, "old:x:990:990::/:\n",
			[]Taken{{Name: "new", Number: 990, Here: "old"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, TakenNumbers(false, test.next, test.here)); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

// A boot onto another stack cannot be refused, so it reports files in /usr that belong to another account here.
func TestABootReportsFilesThatBelongToAnotherAccountHere(t *testing.T) {
	directory := t.TempDir()
	files{"etc/passwd": "me:x:990:990::/:\n", "etc/group": "root:x:0:\n"}.write(t, directory+"/live")
	files{"etc/passwd": "svc:x:990:990::/:\n", "etc/group": "svc:x:990:\n", "usr/lib/a": "1",
		"usr/lib/svc/key": "1"}.write(t, directory+"/new")
	must(t, os.Chown(directory+"/new/usr/lib/svc/key", 990, 990))
	got, err := ForeignFiles(directory+"/live", directory+"/new")
	must(t, err)
	if len(got) != 1 || got[0].Path != "usr/lib/svc/key" || got[0].Kind != ForeignOwner || got[0].Advice() == "" {
		t.Errorf("%+v", got)
	}
	must(t, os.WriteFile(directory+"/live/etc/passwd", []byte("svc:x:990:990::/:\n"), 0o600))
	if got, err := ForeignFiles(directory+"/live", directory+"/new"); err != nil || got != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

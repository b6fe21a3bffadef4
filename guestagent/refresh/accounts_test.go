package refresh

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// withAccount makes the release "two" bring the user svc with the number 990, who owns a file.
func (w *world) withAccount(owned string) {
	w.t.Helper()
	m := *w.releases["two"].manifest
	m.Users = map[string]uint32{"root": 0, "svc": 990}
	entries := []tree.Entry{
		{Path: ".", Type: tree.Directory, Mode: 0o755}, {Path: "etc", Type: tree.Directory, Mode: 0o755},
		{Path: settings, Type: tree.Regular, Mode: 0o644, Size: 1, Digest: tree.Sum([]byte("etc two"))},
		{Path: "usr", Type: tree.Directory, Mode: 0o755}, {Path: "usr/lib", Type: tree.Directory, Mode: 0o755},
		{Path: library, Type: tree.Regular, Mode: 0o644, Size: 1, Digest: tree.Sum([]byte("library two"))},
		{Path: "var", Type: tree.Directory, Mode: 0o755},
	}
	entries = append(entries,
		tree.Entry{Path: owned, Type: tree.Regular, Mode: 0o600, UID: 990, Size: 1, Digest: tree.Sum([]byte("key"))})
	t, err := tree.New(entries, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	var contents bytes.Buffer
	if m.Contents, err = release.WriteContents(&contents, t.Entries); err != nil {
		w.t.Fatal(err)
	}
	w.resign(&m, "two")
	w.releases["two"].contents = contents.Bytes()
}

func TestARefreshIsRefusedIfFilesOfUsrWouldBelongToAnAccountOfTheVM(t *testing.T) {
	local := etcmerge.AccountTexts{"etc/passwd": "root:x:0:0::/:\nme:x:990:990::/:\n"}
	for name, test := range map[string]struct {
		owned    string
		accounts etcmerge.AccountTexts
		refused  bool
	}{
		"a key below /usr":      {"usr/lib/svc.key", local, true},
		"data of the VM":        {"var/data", local, false},
		"nobody has the number": {"usr/lib/svc.key", etcmerge.AccountTexts{"etc/passwd": "root:x:0:0::/:\nme:x:991:990::/:\n"}, false},
		"the account is here": {"usr/lib/svc.key",
			etcmerge.AccountTexts{"etc/passwd": "root:x:0:0::/:\nsvc:x:990:990::/:\n"}, false},
		"there are no accounts": {"usr/lib/svc.key", etcmerge.AccountTexts{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.withAccount(test.owned)
			w.accounts = test.accounts
			e, stop := w.engine()
			defer stop()
			w.give("one", "two")
			request := w.ask("one", "two")
			target, err := openTarget(request.Target, w.releases["one"].stack, e.Operators, false)
			if err != nil {
				t.Fatal(err)
			}
			if err := target.checkAccounts(t.Context(), e.Etc, e.Blobs); errors.Is(err, ErrAccounts) != test.refused ||
				(err != nil) != test.refused {
				t.Errorf("%v", err)
			}
			if !test.refused {
				return
			}
			if _, err := e.Assess(t.Context(),
				&agentapi.AssessRequest{Target: request.Target}); !errors.Is(err, ErrAccounts) {
				t.Errorf("the plan says %v", err)
			}
			report := w.refresh(e, request).Report
			if !report.GetRefused() || report.GetRefusal() != agentapi.Refusal_REFUSAL_ACCOUNTS || w.count > 0 &&
				w.usr != w.releases["one"].stack.Base {
				t.Errorf("%v", report)
			}
			for _, part := range []string{"user svc", "990", "user me", "usermod -u", "/" + test.owned} {
				if !strings.Contains(report.GetError(), part) {
					t.Errorf("%q lacks %q", report.GetError(), part)
				}
			}
		})
	}
}

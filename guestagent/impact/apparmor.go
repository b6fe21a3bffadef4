package impact

import (
	"slices"
	"strings"
)

// AttachesDisconnected reports whether the text of a file of AppArmor profiles (apparmor.d(5)) has the named profile
// attach disconnected paths. A process under a profile that does not is refused files of a mount that was detached,
// a /usr that was swapped out among them.
//
// It reads no more of the language than the heads of profiles, each on one line, as they are written:
//
//	profile name /path/of/a/program flags=(attach_disconnected) {
func AttachesDisconnected(text, profile string) bool {
	for line := range strings.Lines(text) {
		head, opens := strings.CutSuffix(strings.TrimSpace(line), "{")
		head, flags, has := strings.Cut(head, "flags=(")
		if !opens || !has || strings.HasPrefix(head, "#") {
			continue
		}
		words := strings.Fields(head)
		if len(words) > 0 && words[0] == "profile" {
			words = words[1:]
		}
		if len(words) == 0 || strings.Trim(words[0], `"`) != profile {
			continue
		}
		flags, _, _ = strings.Cut(flags, ")")
		return slices.Contains(strings.FieldsFunc(flags, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }), "attach_disconnected")
	}
	return false
}

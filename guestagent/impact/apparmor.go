package impact

import (
	"slices"
	"strings"
)

// AttachesDisconnected reports whether a file of AppArmor profiles (apparmor.d(5)) sets attach_disconnected for the
// named profile. Without it, a process that the profile confines is denied files on a detached mount, such as a
// swapped-out /usr.
//
// It understands only the first line of a profile, in the usual form:
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
		return slices.Contains(strings.FieldsFunc(flags,
			func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }), "attach_disconnected")
	}
	return false
}

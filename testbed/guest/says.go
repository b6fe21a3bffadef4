package guest

import "strings"

// unwrap removes what breaks a text into lines: space, and Terraform's frame.
var unwrap = strings.NewReplacer(" ", "", "\n", "", "\t", "", "│", "")

// Says reports whether an error contains a text, also one that a guest said: that is shown in marked lines of limited
// width (package plain).
func Says(err error, text string) bool {
	if err == nil {
		return false
	}
	said := strings.ReplaceAll(unwrap.Replace(err.Error()), "guest|", "")
	return strings.Contains(said, unwrap.Replace(text))
}

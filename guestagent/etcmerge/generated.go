package etcmerge

import (
	"path"
	"slices"
	"strings"
)

// Generator is a tool that generates files below /etc from others. If this VM and the release both changed such a
// file, neither version is right: the tool generates it again in the VM, from the VM's inputs and the release's.
type Generator struct {
	Name string
	// Command is the tool with its arguments. It runs in the VM once the new /usr is mounted.
	Command []string
	// outputs are patterns (path.Match) of the files that it generates.
	outputs []string
	// ofUsr is true if its inputs are files of the OS, and its output takes the place of one that the OS
	// has below /usr. Then an output that only this VM has is generated again whenever the OS changes.
	ofUsr bool
}

// Generators are all that are known.
var Generators = []Generator{
	{Name: "ld.so.cache", Command: []string{"ldconfig"}, outputs: []string{"etc/ld.so.cache"}},
	{
		Name: "ca-certificates", Command: []string{"update-ca-certificates"},
		outputs: []string{"etc/ssl/certs/ca-certificates.crt", "etc/ssl/certs/*.pem", "etc/ssl/certs/*.[0-9]",
			"etc/ssl/certs/java/cacerts"},
	},
	{Name: "ca-trust", Command: []string{"update-ca-trust"}, outputs: []string{"etc/pki/ca-trust/extracted/*/*",
		"etc/pki/ca-trust/extracted/*/*/*"}},
	{Name: "mailcap", Command: []string{"update-mime"}, outputs: []string{"etc/mailcap"}},
	{Name: "aliases", Command: []string{"newaliases"}, outputs: []string{"etc/aliases.db"}},
	{Name: "hwdb", Command: []string{"systemd-hwdb", "update"},
		outputs: []string{"etc/udev/hwdb.bin"}, ofUsr: true}, // hwdb(7)
	{Name: "shells", Command: []string{"update-shells"}, outputs: []string{"etc/shells"}},
}

// GeneratorOf returns the generator of a path; nil if the path is not generated.
func GeneratorOf(name string) *Generator {
	for i := range Generators {
		if slices.ContainsFunc(Generators[i].outputs, func(pattern string) bool {
			matched, err := path.Match(pattern, name)
			return matched && err == nil
		}) {
			return &Generators[i]
		}
	}
	return nil
}

// GeneratorNamed returns a generator by its name; nil if there is none.
func GeneratorNamed(name string) *Generator {
	at := slices.IndexFunc(Generators, func(g Generator) bool { return g.Name == name })
	if at < 0 {
		return nil
	}
	return &Generators[at]
}

// Failed returns the conflict of a tool that failed.
func (g *Generator) Failed(cause error) Conflict {
	return Conflict{Path: g.outputs[0], Kind: Generated, Reason: strings.Join(g.Command, " ") +
		" failed, so it may be outdated: " + cause.Error()}
}

// alternative reports whether a path is a link of update-alternatives(1).
func alternative(name string) bool { return strings.HasPrefix(name, "etc/alternatives/") }

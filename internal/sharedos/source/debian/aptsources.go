package debian

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// aptSources reports whether a path is one of apt's lists of archives (sources.list(5)).
func aptSources(path string) bool {
	return path == "etc/apt/sources.list" || strings.HasPrefix(path, "etc/apt/sources.list.d/")
}

// suitesOf takes suites and components from the base's sources of apt: from Debian's own archives, whose suites have
// no key of their own.
func (s *Source) suitesOf(base source.Base) error {
	lines, err := aptLines(base.Tree)
	if err != nil {
		return fmt.Errorf("read the sources of apt of base %q: %w", base.Name, err)
	}
	var suites, components []string
	for _, line := range lines {
		suites = appendNew(suites, line.suite)
		for _, component := range line.components {
			components = appendNew(components, component)
		}
	}
	if len(suites) == 0 {
		return fmt.Errorf(
			"base %q has no sources of apt that name a suite of Debian: set suite to the code name of its release",
			base.Name)
	}
	s.Suite = suites[0]
	if s.AdditionalSuites == nil {
		s.AdditionalSuites = append([]string{}, suites[1:]...)
	}
	if len(s.Components) == 0 {
		s.Components = components
	}
	return nil
}

// aptLine is one suite of sources.list(5).
type aptLine struct {
	suite      string
	components []string
}

// maxSources bounds a file with sources of apt in bytes.
const maxSources = 1 << 20

// aptLines reads the sources of apt of a tree, in both forms of sources.list(5). It leaves out what
// is not an archive of packages, what is disabled, and archives with a key of their own in the file.
func aptLines(t *tree.Tree) ([]aptLine, error) {
	var lines []aptLine
	for _, e := range t.Entries {
		if !aptSources(e.Path) || e.Type != tree.Regular {
			continue
		}
		text, err := t.ReadFile(e.Path, maxSources)
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", e.Path, err)
		}
		switch filepath.Ext(e.Path) {
		case ".list":
			lines = append(lines, oneLines(string(text))...)
		case ".sources":
			lines = append(lines, stanzas(string(text))...)
		}
	}
	return lines, nil
}

// oneLines reads lines of the form "deb [option=value] address suite component...".
func oneLines(text string) (lines []aptLine) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, isDeb := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !isDeb {
			continue
		}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			_, after, closed := strings.Cut(rest, "]")
			if !closed || strings.Contains(rest[:len(rest)-len(after)], "signed-by=") {
				continue
			}
			rest = after
		}
		if fields := strings.Fields(rest); len(fields) > 2 {
			lines = append(lines, aptLine{fields[1], fields[2:]})
		}
	}
	return lines
}

// stanzas reads the deb822 form.
func stanzas(text string) (lines []aptLine) {
	fields := map[string]string{}
	end := func() {
		own := strings.Contains(fields["signed-by"], "BEGIN PGP") ||
			strings.EqualFold(strings.TrimSpace(fields["enabled"]), "no")
		if !own && slices.Contains(strings.Fields(fields["types"]), "deb") {
			for _, suite := range strings.Fields(fields["suites"]) {
				if components := strings.Fields(fields["components"]); len(components) > 0 {
					lines = append(lines, aptLine{suite, components})
				}
			}
		}
		clear(fields)
	}
	last := ""
	for line := range strings.Lines(text) {
		trimmed := strings.TrimRight(line, "\r\n")
		switch {
		case strings.TrimSpace(trimmed) == "":
			end()
		case strings.HasPrefix(trimmed, "#"):
		case trimmed[0] == ' ' || trimmed[0] == '\t':
			fields[last] += "\n" + trimmed
		default:
			name, value, _ := strings.Cut(trimmed, ":")
			last = strings.ToLower(strings.TrimSpace(name))
			fields[last] = value
		}
	}
	end()
	return lines
}

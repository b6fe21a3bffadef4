package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string
)

// policy is the content security policy of a page: it loads nothing, and runs no script and no style but its own.
var policy = fmt.Sprintf("default-src 'none'; script-src '%s'; style-src '%s'; base-uri 'none'; form-action 'none'",
	digest(pageJS), digest(pageCSS))

// digest is the source expression of a text in a content security policy (W3C CSP Level 3, section 2.3.1).
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"size": size, "short": Short, "count": count, "kind": kindName,
	"join": func(parts []string) string { return strings.Join(parts, ", ") },
	"day": func(t time.Time) string {
		if t.IsZero() {
			return "unknown"
		}
		return t.UTC().Format("2006-01-02 15:04")
	},
	"took": took,
	"class": func(vm VM) string {
		class, _ := condition(vm)
		return class
	},
	"some": some,
}).Parse(pageHTML))

// view is a report as the page shows it.
type view struct {
	*Report
	Picture picture
	Policy  string
	// CSS and JS are parts of this program.
	CSS template.CSS
	JS  template.JS
	// Waiting and Troubled are VMs, and Held and Conflicts are lines of tables.
	Waiting   []waiting
	Troubled  []trouble
	Held      []Hold
	Conflicts []conflict
	Refreshed []VM
	// SavedPercent of Full is saved: from 0 to 100.
	SavedPercent, StoredPercent int
}

type waiting struct {
	VM string
	Wait
}

type conflict struct {
	VM string
	Conflict
}

// trouble is why a VM, or the report, needs a person.
type trouble struct{ Of, What string }

// WritePage writes a report as one HTML file.
func WritePage(to io.Writer, r *Report) error {
	shown := view{Report: r, Picture: newPicture(r), Policy: policy, CSS: template.CSS(pageCSS), JS: template.JS(pageJS)} //nolint:gosec // both are embedded
	for _, vm := range r.VMs {
		for _, wait := range vm.Waits {
			shown.Waiting = append(shown.Waiting, waiting{vm.Name, wait})
		}
		shown.Held = append(shown.Held, vm.Held...)
		shown.Troubled = append(shown.Troubled, troubles(vm)...)
		if vm.LastRefresh == nil {
			continue
		}
		shown.Refreshed = append(shown.Refreshed, vm)
		for _, one := range vm.LastRefresh.Conflicts {
			shown.Conflicts = append(shown.Conflicts, conflict{vm.Name, one})
		}
	}
	for _, layer := range r.Layers {
		if !layer.InPool {
			shown.Troubled = append(shown.Troubled,
				trouble{"layer " + Short(layer.ID),
					"its volume is gone from the storage pool, and something refers to it"})
		}
	}
	for _, one := range r.Incomplete {
		shown.Troubled = append(shown.Troubled, trouble{"this report", one})
	}
	if r.Space.Full > 0 && r.Space.Saved > 0 {
		shown.SavedPercent = int(100 * float64(r.Space.Saved) / float64(r.Space.Full))
	}
	shown.StoredPercent = 100 - shown.SavedPercent
	var whole bytes.Buffer // so that a failure writes nothing
	if err := page.Execute(&whole, shown); err != nil {
		return fmt.Errorf("write the report as a page: %w", err)
	}
	if _, err := whole.WriteTo(to); err != nil {
		return fmt.Errorf("write the report as a page: %w", err)
	}
	return nil
}

func troubles(vm VM) []trouble {
	var found []trouble
	if vm.State == "crashed" || vm.State == "paused" {
		found = append(found, trouble{vm.Name, "it is " + vm.State})
	}
	if vm.Agent == Silent {
		found = append(found,
			trouble{vm.Name, "it does not answer, so that what it runs is taken from its definition: " + vm.Silence})
	}
	if last := vm.LastRefresh; last.failed() {
		found = append(found,
			trouble{vm.Name, fmt.Sprintf("its last refresh, to %s, was %s: %s", last.To.Text(),
				last.Result, last.Error)})
	}
	for _, fault := range vm.Faults {
		found = append(found, trouble{vm.Name, fault})
	}
	return found
}

// some lists the first names of many.
func some(names []string) string {
	const shown = 8
	if len(names) <= shown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
}

// took writes a time in milliseconds.
func took(ms float64) string {
	switch {
	case ms >= 60_000:
		return time.Duration(ms * float64(time.Millisecond)).Round(time.Second).String()
	case ms >= 1000:
		return fmt.Sprintf("%.1f s", ms/1000)
	default:
		return fmt.Sprintf("%.0f ms", ms)
	}
}

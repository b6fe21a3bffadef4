package report_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/report"
)

// example is a report on six VMs with every section filled.
func example(t *testing.T) *report.Report {
	t.Helper()
	text, err := os.ReadFile("testdata/example.json")
	must(t, err)
	var r report.Report
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	must(t, decoder.Decode(&r))
	return &r
}

func pageOf(t *testing.T, r *report.Report) string {
	t.Helper()
	var out bytes.Buffer
	must(t, report.WritePage(&out, r))
	return out.String()
}

func parse(t *testing.T, page string) *html.Node {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	must(t, err)
	return root
}

// elements returns all elements of a name; "" is every one.
func elements(root *html.Node, name string) []*html.Node {
	var found []*html.Node
	for node := range root.Descendants() {
		if node.Type == html.ElementNode && (name == "" || node.Data == name) {
			found = append(found, node)
		}
	}
	return found
}

func attribute(node *html.Node, name string) string {
	for _, one := range node.Attr {
		if one.Key == name {
			return one.Val
		}
	}
	return ""
}

func textOf(node *html.Node) string {
	var text strings.Builder
	for one := range node.Descendants() {
		if one.Type == html.TextNode {
			text.WriteString(one.Data)
		}
	}
	return text.String()
}

// rows returns the texts of the cells of a section's table.
func rows(t *testing.T, root *html.Node, section string) [][]string {
	t.Helper()
	var found [][]string
	for _, one := range elements(root, "section") {
		if attribute(one, "id") != section {
			continue
		}
		for _, body := range elements(one, "tbody") {
			if attribute(body.Parent, "class") != "data" {
				continue
			}
			for _, row := range elements(body, "tr") {
				var cells []string
				for cell := range row.ChildNodes() {
					if cell.Type == html.ElementNode {
						cells = append(cells, strings.Join(strings.Fields(textOf(cell)), " "))
					}
				}
				found = append(found, cells)
			}
		}
	}
	return found
}

func TestThePageHasATableForEachQuestion(t *testing.T) {
	root := parse(t, pageOf(t, example(t)))
	for section, want := range map[string][]string{
		"waits": {"db-a", "power-off and start", "kernel 6.12.88 runs, 6.12.101 is installed",
			"a running system cannot take it on"},
		"vms": {"web-a", "running", "debian-13, release 2", "nginx, release 1", "6.12.101+deb13-cloud-amd64",
			"3", "61 MiB of 4.0 GiB"},
		"layers": {"3f9a6c02d1b7", "base debian-13, release 1", "full", "252 MiB", "6", "1.2 GiB",
			"db-a, test, web-a, web-b, web-c, web-d"},
		"held":      {"web-b", "90aa12bc34de", "cron.service pid 311 (cron): /usr/lib/x86_64-linux-gnu/libz.so.1"},
		"conflicts": {"web-a", "/etc/nginx/nginx.conf", "changed here and in the release", "compare it with /etc/nginx/nginx.conf of the release"},
		"releases": {"debian-13", "base", "2, newest", "b2e4a1c07d55", "2026-11-30 06:00",
			"Debian GNU/Linux 13 (trixie)", "6.12.101+deb13-cloud-amd64", "2", "3"},
		"troubles": {"web-c",
			"its last refresh, to debian-13, release 2, was rolled back: health check page: http://127.0.0.1/ answered 502"},
	} {
		found := rows(t, root, section)
		if !slices.ContainsFunc(found, func(row []string) bool { return slices.Equal(row, want) }) {
			t.Errorf("section %s has no row %q, but %q", section, want, found)
		}
	}
	refreshed := rows(t, root, "refreshes")
	if len(refreshed) != 4 ||
		!slices.Equal(refreshed[0][:7],
			[]string{"db-a", "debian-13, release 1", "debian-13, release 2", "committed",
				"restart", "1.2 s", "9.8 s"}) {
		t.Errorf("refreshes: %q", refreshed)
	}
}

// What needs a person is listed, and nothing else.
func TestThePageListsTroubles(t *testing.T) {
	root := parse(t, pageOf(t, &report.Report{
		VMs: []report.VM{
			{Name: "good", State: "running", Agent: report.Answers}, {Name: "off", State: "off", Agent: report.NotAsked},
			{Name: "paused", State: "paused", Agent: report.NotAsked}, {Name: "crashed", State: "crashed", Agent: report.NotAsked},
			{Name: "silent", State: "running", Agent: report.Silent, Silence: "no route"},
		},
		Layers: []report.Layer{{ID: "sha256:" + strings.Repeat("a", 64), InPool: true},
			{ID: "sha256:" + strings.Repeat("b", 64)}},
	}))
	want := [][]string{
		{"paused", "it is paused"}, {"crashed", "it is crashed"},
		{"silent", "it does not answer, so that what it runs is taken from its definition: no route"},
		{"layer bbbbbbbbbbbb", "its volume is gone from the storage pool, and something refers to it"},
	}
	if got := rows(t, root, "troubles"); !slices.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("troubles: %q", got)
	}
}

// The rules of HTML and ARIA that a screen reader depends on.
func TestThePageIsReadableByAScreenReader(t *testing.T) {
	for name, r := range map[string]*report.Report{"example": example(t), "empty": {Pool: "empty"}} {
		root := parse(t, pageOf(t, r))
		if attribute(elements(root, "html")[0], "lang") != "en" {
			t.Errorf("%s: the language is not given", name)
		}
		for _, landmark := range []string{"header", "nav", "main", "footer", "h1", "title"} {
			if len(elements(root, landmark)) != 1 {
				t.Errorf("%s: there are %d elements %s", name, len(elements(root, landmark)), landmark)
			}
		}
		ids := map[string]bool{}
		for _, one := range elements(root, "") {
			if id := attribute(one, "id"); id != "" && ids[id] {
				t.Errorf("%s: two elements have the id %q", name, id)
			} else {
				ids[id] = true
			}
		}
		for _, one := range elements(root, "") {
			for _, id := range strings.Fields(attribute(one, "aria-labelledby")) {
				if !ids[id] {
					t.Errorf("%s: %s is labelled by %q, which does not exist", name, one.Data, id)
				}
			}
			if link := attribute(one, "href"); link != "" && !ids[strings.TrimPrefix(link, "#")] {
				t.Errorf("%s: the link %q leads nowhere", name, link)
			}
			if attribute(one, "role") == "img" && attribute(one, "aria-label")+attribute(one, "aria-labelledby") == "" {
				t.Errorf("%s: a picture has no text alternative", name)
			}
			if one.Data == "section" && attribute(one, "aria-labelledby") == "" {
				t.Errorf("%s: a section has no name", name)
			}
		}
		for _, table := range elements(root, "table") {
			if attribute(table, "aria-hidden") == "true" {
				continue // the picture
			}
			if len(elements(table, "caption")) != 1 {
				t.Errorf("%s: a table has no caption", name)
			}
			for _, head := range elements(table, "th") {
				if attribute(head, "scope") == "" {
					t.Errorf("%s: the head %q has no scope", name, textOf(head))
				}
			}
		}
	}
}

// nothingForeign checks that a page has no script, style or address but its own.
func nothingForeign(t *testing.T, root *html.Node) {
	t.Helper()
	for _, one := range elements(root, "") {
		switch one.Data {
		case "img", "iframe", "object", "embed", "link", "base", "form", "audio", "video", "foreignobject":
			t.Errorf("there is an element %s", one.Data)
		}
		for _, attr := range one.Attr {
			switch {
			case strings.HasPrefix(attr.Key, "on"), attr.Key == "style", attr.Key == "src":
				t.Errorf("%s has the attribute %s=%q", one.Data, attr.Key, attr.Val)
			case attr.Key == "href" && !strings.HasPrefix(attr.Val, "#"):
				t.Errorf("%s leads to %q", one.Data, attr.Val)
			}
		}
	}
	if len(elements(root, "script")) != 1 || len(elements(root, "style")) != 1 {
		t.Errorf("there are %d scripts and %d styles", len(elements(root, "script")), len(elements(root, "style")))
	}
}

func TestThePageRunsNothingButItsOwnScript(t *testing.T) {
	root := parse(t, pageOf(t, example(t)))
	nothingForeign(t, root)
	var policy string
	for _, meta := range elements(root, "meta") {
		if attribute(meta, "http-equiv") == "Content-Security-Policy" {
			policy = attribute(meta, "content")
		}
	}
	for directive, name := range map[string]string{"script-src": "script", "style-src": "style"} {
		sum := sha256.Sum256([]byte(textOf(elements(root, name)[0])))
		if want := fmt.Sprintf("%s 'sha256-%s'", directive,
			base64.StdEncoding.EncodeToString(sum[:])); !strings.Contains(policy, want+";") {
			t.Errorf("the policy %q lacks %q", policy, want)
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") {
		t.Errorf("the policy is %q", policy)
	}
}

// hostile has what breaks out of every context of HTML.
const hostile = `</script></style></title></table>--><script>alert(1)</script><img src=x onerror=alert(1)>` +
	`" onmouseover="alert(1)' onfocus='alert(1) javascript:alert(1) {{.Pool}}`

// poison replaces every text in a value.
func poison(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(hostile)
	case reflect.Pointer:
		if !v.IsNil() {
			poison(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			poison(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				poison(v.Field(i))
			}
		}
	default:
	}
}

func TestHostileTextsStayTexts(t *testing.T) {
	poisoned := example(t)
	poison(reflect.ValueOf(poisoned).Elem())
	root := parse(t, pageOf(t, poisoned))
	nothingForeign(t, root)
	if found := rows(t, root, "vms"); len(found) != len(poisoned.VMs) || !strings.HasPrefix(found[0][0], hostile) {
		t.Errorf("%d rows for %d VMs: %q", len(found), len(poisoned.VMs), found)
	}
}

// VMs that share layers are neighbours, what most of them stand on is at the bottom, and each VM shows how it is.
func TestThePictureShowsVMsOnTheirLayers(t *testing.T) {
	root := parse(t, pageOf(t, example(t)))
	var shown []string
	for _, table := range elements(root, "table") {
		if attribute(table, "class") != "picture" {
			continue
		}
		for _, line := range elements(table, "tr") {
			var cells []string
			for _, cell := range elements(line, "td") {
				cells = append(cells,
					strings.TrimSpace(attribute(cell, "class")+" "+textOf(cell)+" "+attribute(cell, "colspan")))
			}
			shown = append(shown, strings.Join(cells, " | "))
		}
	}
	want := []string{
		"good ● web-a | waits … web-b | bad ! web-c | bad ! web-d | waits … db-a | waits … test",
		"postgresql, release 1: 74 MiB, 1 VM 6", "4 | on component-delta  1 | 1",
		"debian-13, release 2: 48 MiB, 3 VMs 6", "on base-delta  2 | 2 | on base-delta  1 | 1",
		"nginx, release 1: 9.0 MiB, 4 VMs 6", "on component-delta  4 | 2",
		"debian-13, release 1, full: 252 MiB, 6 VMs 6", "on base-full  6",
	}
	if !slices.Equal(shown, want) {
		t.Errorf("the picture is\n%s\nand not\n%s", strings.Join(shown, "\n"), strings.Join(want, "\n"))
	}
}

func TestWhatAVMNeedsDecidesHowItIsShown(t *testing.T) {
	for name, c := range map[string]struct {
		vm   report.VM
		want string
	}{
		"it runs what it should": {report.VM{State: "running", Agent: report.Answers}, "good"},
		"it is off":              {report.VM{State: "off", Agent: report.NotAsked}, "off"},
		"it waits": {report.VM{State: "running", Agent: report.Answers, Waits: []report.Wait{{}}},
			"waits"},
		"it waits and is off": {report.VM{State: "off", Agent: report.NotAsked, Waits: []report.Wait{{}}}, "waits"},
		"it holds a layer": {report.VM{State: "running", Agent: report.Answers, Held: []report.Hold{{}}},
			"waits"},
		"it is silent":       {report.VM{State: "running", Agent: report.Silent}, "bad"},
		"it crashed":         {report.VM{State: "crashed", Agent: report.NotAsked}, "bad"},
		"it is paused":       {report.VM{State: "paused", Agent: report.NotAsked}, "bad"},
		"it lacks something": {report.VM{State: "running", Agent: report.Answers, Faults: []string{"x"}}, "bad"},
		"it was rolled back": {report.VM{State: "running", Agent: report.Answers,
			LastRefresh: &report.Refresh{Result: "rolled back"}}, "bad"},
		"its refresh was refused": {
			report.VM{State: "running", Agent: report.Answers, LastRefresh: &report.Refresh{Result: "refused"}}, "bad",
		},
		"it was refreshed": {report.VM{State: "running", Agent: report.Answers, LastRefresh: &report.Refresh{Result: "committed"}}, "good"},
	} {
		root := parse(t, pageOf(t, &report.Report{VMs: []report.VM{c.vm}}))
		for _, line := range elements(root, "tr") {
			if attribute(line, "class") == "columns" && attribute(elements(line, "td")[0], "class") != c.want {
				t.Errorf("%s: it is shown as %q", name, attribute(elements(line, "td")[0], "class"))
			}
		}
	}
}

// A picture of any number of VMs fits onto a screen, and says what it leaves out.
func TestThePictureIsBounded(t *testing.T) {
	r := &report.Report{Pool: "large"}
	for i := range 1000 {
		name := fmt.Sprintf("vm-%04d", i)
		r.VMs = append(r.VMs, report.VM{Name: name, State: "running", Agent: report.Answers})
		if i%10 == 0 {
			r.Layers = append(r.Layers,
				report.Layer{ID: fmt.Sprintf("sha256:%064d", i), VMs: []string{name}, InPool: true})
		}
	}
	page := pageOf(t, r)
	root := parse(t, page)
	for _, table := range elements(root, "table") {
		if attribute(table, "class") != "picture" {
			continue
		}
		lines := elements(table, "tr")
		if len(elements(lines[0], "td")) != 16 || len(lines) != 1+2*15 {
			t.Errorf("the picture has %d columns and %d lines", len(elements(lines[0], "td")), len(lines))
		}
	}
	for _, want := range []string{"900 VMs", "85 VMs not shown.", "85 layers not shown.", "a group of VMs"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

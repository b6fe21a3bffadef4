package report_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// update writes the picture of the README again.
var update = flag.Bool("update", false, "write examples/report/report.png")

// browserProgram is in the Debian package of the same name, which testbed/install.sh installs.
const browserProgram = "chromium-headless-shell"

// browser is a page in a headless browser, which is driven by the Chrome DevTools Protocol over a
// pair of pipes: JSON messages that end with a zero byte.
type browser struct {
	to      *os.File
	from    *bufio.Reader
	session string
	id      int
	// logged are what the page wrote to the console and what the browser refused, by its policy.
	logged []string
}

// open shows a page.
func open(t *testing.T, page string) *browser {
	t.Helper()
	program, err := exec.LookPath(browserProgram)
	if err != nil {
		t.Fatalf("%s is not installed (make install does it): %v", browserProgram, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute) // it ends in the cleanup
	t.Cleanup(cancel)
	commands, to, err := os.Pipe()
	must(t, err)
	from, answers, err := os.Pipe()
	must(t, err)
	command := exec.CommandContext(ctx, program, "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
		"--user-data-dir="+t.TempDir(), "about:blank")
	command.ExtraFiles = []*os.File{commands, answers} // 3 and 4, as the browser expects
	must(t, command.Start())
	must(t, errors.Join(commands.Close(), answers.Close()))
	b := &browser{to: to, from: bufio.NewReaderSize(from, 1<<20)}
	t.Cleanup(func() {
		b.call(t, "Browser.close", nil, nil)
		if err := errors.Join(to.Close(), command.Wait(), from.Close()); err != nil {
			t.Errorf("end the browser: %v", err)
		}
	})
	var target struct {
		TargetID string `json:"targetId"`
	}
	b.call(t, "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct {
		SessionID string `json:"sessionId"`
	}
	b.call(t, "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.call(t, domain+".enable", nil, nil)
	}
	b.show(t, page)
	return b
}

// show loads a page from a file, as somebody does who got it by mail.
func (b *browser) show(t *testing.T, page string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.html")
	must(t, os.WriteFile(file, []byte(page), 0o600))
	b.call(t, "Page.navigate", map[string]any{"url": (&url.URL{Scheme: "file", Path: file}).String()}, nil)
	for b.evaluate(t, `document.readyState === "complete" && location.protocol === "file:" && !!document.querySelector("footer")`) != true {
		time.Sleep(20 * time.Millisecond) // the context of the test bounds it: the browser ends with it
	}
}

// call calls a method and decodes its result.
func (b *browser) call(t *testing.T, method string, parameters map[string]any, result any) {
	t.Helper()
	b.id++
	message := map[string]any{"id": b.id, "method": method, "params": parameters}
	if parameters == nil {
		delete(message, "params")
	}
	if b.session != "" && method != "Browser.close" {
		message["sessionId"] = b.session
	}
	text, err := json.Marshal(message)
	must(t, err)
	_, err = b.to.Write(append(text, 0))
	must(t, err)
	for {
		text, err := b.from.ReadBytes(0)
		if err != nil {
			t.Fatalf("%s: the browser does not answer: %v", method, err)
		}
		var answer struct {
			ID     int             `json:"id"`
			Method string          `json:"method"`
			Params json.RawMessage `json:"params"`
			Result json.RawMessage `json:"result"`
			Error  *struct {
				Message string `json:"message"`
			} `json:"error"`
		}
		must(t, json.Unmarshal(text[:len(text)-1], &answer))
		switch answer.Method {
		case "Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled":
			b.logged = append(b.logged, string(answer.Params))
		}
		if answer.ID != b.id {
			continue
		}
		if answer.Error != nil {
			t.Fatalf("%s: %s", method, answer.Error.Message)
		}
		if result != nil {
			must(t, json.Unmarshal(answer.Result, result))
		}
		return
	}
}

// evaluate returns the value of an expression in the page.
func (b *browser) evaluate(t *testing.T, expression string) any {
	t.Helper()
	var answer struct {
		Result struct {
			Value any `json:"value"`
		} `json:"result"`
		Exception *struct {
			Text string `json:"text"`
		} `json:"exceptionDetails"`
	}
	b.call(t, "Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &answer)
	if answer.Exception != nil {
		t.Fatalf("%s: %s", expression, answer.Exception.Text)
	}
	return answer.Result.Value
}

func (b *browser) texts(t *testing.T, expression string) []string {
	t.Helper()
	var found []string
	values, _ := b.evaluate(t, expression).([]any)
	for _, value := range values {
		found = append(found, fmt.Sprint(value))
	}
	return found
}

func (b *browser) size(t *testing.T, width int) {
	t.Helper()
	b.call(t, "Emulation.setDeviceMetricsOverride",
		map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}, nil)
}

// media pretends a kind of output and a colour scheme.
func (b *browser) media(t *testing.T, kind, scheme string) {
	t.Helper()
	b.call(t, "Emulation.setEmulatedMedia", map[string]any{
		"media": kind, "features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}},
	}, nil)
}

// pale returns the texts whose contrast is less than 4.5 to 1 (WCAG 2.2, success criterion 1.4.3).
const pale = `(() => {
  const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (element.tagName === "SCRIPT" || ![...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(element.textContent.trim().slice(0, 40));
  }
  return found;
})()`

func TestInABrowserThePageFitsAndIsReadable(t *testing.T) {
	b := open(t, pageOf(t, example(t)))
	for _, width := range []int{360, 768, 1280} {
		b.size(t, width)
		if b.evaluate(t, "document.documentElement.scrollWidth <= innerWidth") != true {
			t.Errorf("at a width of %d, the page has to be scrolled sideways: it is %v wide", width,
				b.evaluate(t, "document.documentElement.scrollWidth"))
		}
		if cut := b.texts(t,
			`[...document.querySelectorAll(".columns span")].filter((s) => s.scrollWidth > s.clientWidth + 1 || s.scrollHeight > s.clientHeight + 1).map((s) => s.textContent)`); len(cut) > 0 {
			t.Errorf("at a width of %d, names in the picture are cut: %q", width, cut)
		}
		if bars := b.texts(t,
			`[...document.querySelectorAll(".bars .on")].filter((bar) => bar.offsetWidth < 20 || bar.offsetHeight < 10).map((bar) => bar.className)`); len(bars) > 0 {
			t.Errorf("at a width of %d, bars are too small: %q", width, bars)
		}
	}
	for _, scheme := range []string{"light", "dark"} {
		b.media(t, "screen", scheme)
		if found := b.texts(t, pale); len(found) > 0 {
			t.Errorf("in the %s, these texts are pale: %q", scheme, found)
		}
	}
	if b.evaluate(t, `getComputedStyle(document.body).backgroundColor`) == "rgb(255, 255, 255)" {
		t.Error("the page is white in the dark")
	}
	b.media(t, "print", "dark")
	if b.evaluate(t, `getComputedStyle(document.body).backgroundColor`) != "rgb(255, 255, 255)" ||
		b.evaluate(t, `getComputedStyle(document.querySelector("nav")).display`) != "none" ||
		b.evaluate(t, `getComputedStyle(document.querySelector(".on")).printColorAdjust`) != "exact" {
		t.Error("in print, the page is not white, has links, or has no bars")
	}
	if len(b.logged) > 0 {
		t.Errorf("the browser complains: %q", b.logged)
	}
}

func TestInABrowserTablesSortAndFilter(t *testing.T) {
	b := open(t, pageOf(t, example(t)))
	sizes := `[...document.querySelectorAll("#layers tbody tr")].map((row) => row.cells[3].textContent)`
	press := `[...document.querySelectorAll("#layers thead button")].find((b) => b.textContent === "Size").click()`
	b.evaluate(t, press)
	rising := []string{"9.0 MiB", "46 MiB", "48 MiB", "74 MiB", "252 MiB"}
	if got := b.texts(t, sizes); !slices.Equal(got, rising) {
		t.Errorf("sorted by size: %q", got)
	}
	b.evaluate(t, press)
	slices.Reverse(rising)
	if got := b.texts(t, sizes); !slices.Equal(got, rising) {
		t.Errorf("sorted the other way: %q", got)
	}
	if got := b.evaluate(t, `document.querySelector('#layers th[aria-sort="descending"]').textContent`); got != "Size" {
		t.Errorf("a screen reader is told that %v is sorted", got)
	}
	b.evaluate(
		t, `{ const input = document.querySelector("#vms input"); input.value = "web .101"; input.dispatchEvent(new Event("input")); }`)
	if got := b.texts(t,
		`[...document.querySelectorAll("#vms tbody tr")].filter((row) => row.offsetHeight > 0).map((row) => row.cells[0].textContent)`); !slices.Equal(got, []string{"web-a", "web-b"}) {
		t.Errorf("filtered: %q", got)
	}
	if got := b.evaluate(t, `document.querySelector("#vms [role=status]").textContent`); got != "2 of 6" {
		t.Errorf("the filter says %v", got)
	}
}

func TestInABrowserThePageWorksWithoutScripts(t *testing.T) {
	b := open(t, "<footer>")
	b.call(t, "Emulation.setScriptExecutionDisabled", map[string]any{"value": true}, nil)
	b.show(t, pageOf(t, example(t)))
	if got := b.evaluate(t, `document.querySelectorAll("#vms tbody tr").length`); got != 6.0 {
		t.Errorf("it has %v VMs", got)
	}
	if got := b.evaluate(t, `document.querySelectorAll("input, button").length`); got != 0.0 {
		t.Errorf("it has %v controls that do nothing", got)
	}
}

// The picture in the README is of the example. It is not compared: fonts differ between machines.
func TestInABrowserThePictureOfTheReadme(t *testing.T) {
	b := open(t, pageOf(t, example(t)))
	b.size(t, 960)
	var shot struct {
		Data string `json:"data"`
	}
	b.call(t, "Page.captureScreenshot", map[string]any{
		"clip": map[string]any{"x": 0, "y": 0, "width": 960,
			"height": b.evaluate(t, `document.querySelector("#troubles").offsetTop`), "scale": 1},
		"captureBeyondViewport": true,
	}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	must(t, err)
	if len(png) < 10_000 {
		t.Errorf("the picture has %d bytes", len(png))
	}
	if *update {
		must(t, os.WriteFile("../../../examples/report/report.png", png, 0o644)) //nolint:gosec // it is published
	}
}

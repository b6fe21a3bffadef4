package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/report"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// gathers returns a report and remembers the configuration that it was asked for.
func gathers(config *host.Config, err error) gatherer {
	return func(_ context.Context, asked host.Config, _ func(string)) (*report.Report, error) {
		*config = asked
		if err != nil {
			return nil, err
		}
		return &report.Report{Format: report.Format, Pool: asked.Pool}, nil
	}
}

func TestTheReportIsWrittenToAFileOrStandardOutput(t *testing.T) {
	var asked host.Config
	var out, said bytes.Buffer
	if code := reportCommand([]string{"--uri", "qemu:///session", "--pool=fast", "--operator-key", "/k"}, &out, &said,
		gathers(&asked, nil)); code != 0 {
		t.Fatalf("exit code %d: %s", code, &said)
	}
	if asked.URI != "qemu:///session" || asked.Pool != "fast" || asked.OperatorKey != "/k" || !asked.ReadOnly {
		t.Errorf("asked for %+v", asked)
	}
	if !strings.HasPrefix(out.String(), "<!DOCTYPE html>") || !strings.Contains(out.String(), "Pool fast") {
		t.Errorf("written: %.80s", &out)
	}
	file := filepath.Join(t.TempDir(), "report.json")
	out.Reset()
	if code := reportCommand([]string{"--json", "--output", file}, &out, &said, gathers(&asked, nil)); code != 0 ||
		out.Len() > 0 || said.Len() > 0 {
		t.Fatalf("exit code %d: %s%s", code, &out, &said)
	}
	text, err := os.ReadFile(file)
	var decoded report.Report
	if err != nil || json.Unmarshal(text, &decoded) != nil || decoded.Pool != "sharedos" {
		t.Errorf("the file has %s, %v", text, err)
	}
}

// What the provider reads from the environment holds for the report, too.
func TestTheReportHasTheDefaultsOfTheProvider(t *testing.T) {
	t.Setenv("SHAREDOS_POOL", "other")
	t.Setenv("SHAREDOS_OPERATOR_KEY", "/other/key")
	var asked host.Config
	var out, said bytes.Buffer
	if code := reportCommand(nil, &out, &said, gathers(&asked, nil)); code != 0 || asked.Pool != "other" ||
		asked.OperatorKey != "/other/key" {
		t.Errorf("exit code %d, asked for %+v: %s", code, asked, &said)
	}
}

func TestAReportThatFailsSaysWhatToDo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.html")
	for _, c := range []struct {
		args []string
		err  error
		code int
		said []string
	}{
		{[]string{"--help"}, nil, 0, []string{"Usage:", "-operator-key", "-json"}},
		{[]string{"--nothing"}, nil, 2, []string{"-nothing", "Usage:"}},
		{[]string{"pool"}, nil, 2, []string{`unexpected argument "pool"`}},
		{[]string{"--pool", "lost"}, fmt.Errorf("pool: %w", store.ErrNoPool), 1, []string{`pool "lost"`, "--pool", "virsh pool-list"}},
		{nil, fmt.Errorf("key: %w", release.ErrKey), 1, []string{"--operator-key"}},
		{nil, errors.New("libvirt is tired"), 1, []string{"libvirt is tired"}},
		{[]string{"--output", "/nowhere/report.html"}, nil, 1, []string{"/nowhere/"}},
	} {
		var asked host.Config
		var out, said bytes.Buffer
		args := c.args
		if c.err != nil {
			args = append(args, "--output", file)
		}
		if code := reportCommand(args, &out, &said, gathers(&asked, c.err)); code != c.code || out.Len() > 0 {
			t.Errorf("%q: exit code %d, written: %.80s", args, code, &out)
		}
		for _, want := range c.said {
			if !strings.Contains(said.String(), want) {
				t.Errorf("%q: it does not say %q, but: %s", args, want, &said)
			}
		}
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was left: %v", err)
	}
}

// heard is a writer that tells what was written.
type heard chan string

func (h heard) Write(text []byte) (int, error) {
	h <- string(text)
	return len(text), nil
}

func TestAStepThatTakesLongIsTold(t *testing.T) {
	said := make(heard, 8)
	slow := func(_ context.Context, _ host.Config, progress func(string)) (*report.Report, error) {
		progress("asking 2 VMs")
		for told := range said { // the step takes until it is told; the one before may have been told, too
			if told == "report: asking 2 VMs\n" {
				return &report.Report{}, nil
			}
		}
		return nil, errors.New("nothing is told")
	}
	var out bytes.Buffer
	if err := writeReport(t.Context(), reportOptions{limit: time.Minute}, &out, slow,
		&slowSteps{to: said, after: time.Millisecond}); err != nil {
		t.Error(err)
	}
}

// A step that has ended is not shown.
func TestAStepThatHasEndedIsNotTold(t *testing.T) {
	said := make(heard, 8)
	steps := &slowSteps{to: said, after: time.Millisecond}
	for range 100 {
		steps.begin("first")
		steps.end()
		for len(said) > 0 {
			<-said // it may have been slow enough
		}
		time.Sleep(100 * time.Microsecond)
		if len(said) > 0 {
			t.Fatalf("after its end it was told: %q", <-said)
		}
	}
}

package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// agent returns the failpoints of an agent in a temporary directory, and the list of what they did.
func agent(t *testing.T, armed string) (p *points, did *[]string) {
	t.Helper()
	did = &[]string{}
	p = &points{
		directory: t.TempDir(),
		kill:      func() error { *did = append(*did, Kill); return nil },
	}
	p.sleep = func(time.Duration) {
		*did = append(*did, Pause)
		if len(*did) > 1 { // long enough
			if err := os.Remove(filepath.Join(p.directory, Triggered)); err != nil {
				t.Error(err)
			}
		}
	}
	if armed != "" {
		if err := os.WriteFile(filepath.Join(p.directory, Armed), []byte(armed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p, did
}

func (p *points) read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.directory, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAPointThatIsNotArmedDoesNothing(t *testing.T) {
	for _, armed := range []string{"", "kill 1 after journal swapped\n"} {
		p, did := agent(t, armed)
		if err := p.hit("before journal swapped"); err != nil || len(*did) > 0 {
			t.Errorf("armed %q: %v, %v", armed, *did, err)
		}
	}
}

func TestAPointTriggersOnceAtItsTurn(t *testing.T) {
	p, did := agent(t, "kill 2 a b\npause 1 c\nfail 1 a b\n")
	if err := p.hit("c"); err != nil || strings.Join(*did, " ") != "pause pause" {
		t.Errorf("c: %v, %v", *did, err)
	}
	if err := p.hit("a b"); !errors.Is(err, ErrInjected) {
		t.Errorf("first time: %v", err)
	}
	if err := p.hit("a b"); err != nil || strings.Join(*did, " ") != "pause pause kill" {
		t.Errorf("second time: %v, %v", *did, err)
	}
	if err := p.hit("a b"); err != nil || len(*did) != 3 {
		t.Errorf("third time: %v, %v", *did, err)
	}
	if got := p.read(t, Triggered); got != "a b\na b\n" {
		t.Errorf("triggered: %q", got)
	}
	if got := p.read(t, Armed); got != "" {
		t.Errorf("still armed: %q", got)
	}
}

func TestAPointTriggersAtEachOfItsTurns(t *testing.T) {
	p, _ := agent(t, "fail 3 a\nfail 1 a\nfail 2 b\n")
	for turn, want := range []bool{true, false, true, false} {
		if err := p.hit("a"); errors.Is(err, ErrInjected) != want {
			t.Errorf("turn %d: %v", turn+1, err)
		}
	}
	if got := p.read(t, Armed); got != "fail 2 b\n" {
		t.Errorf("still armed: %q", got)
	}
}

func TestReachedPointsAreListedIfTheFileExists(t *testing.T) {
	p, _ := agent(t, "")
	if err := os.WriteFile(filepath.Join(p.directory, Reached), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "a"} {
		if err := p.hit(name); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.read(t, Reached); got != "a\nb\na\n" {
		t.Errorf("reached: %q", got)
	}
}

// A shipped agent must have no failpoints: they would be a way to make it fail.
func TestOnlyABuildForFaultsHasPoints(t *testing.T) {
	for tag, want := range map[string]bool{"": false, "faults": true} {
		binary := filepath.Join(t.TempDir(), "agent")
		// As the GNUmakefile compiles it, so that most of it is in Go's cache.
		build := exec.CommandContext(t.Context(), "go", "build", "-tags="+tag, "-trimpath",
			"-ldflags=-s -w", "-o", binary, "..")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		data, err := os.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		for _, trace := range []string{"failpoint.Hit", Directory, "before journal"} {
			if got := strings.Contains(string(data), trace); got != want {
				t.Errorf("built with tag %q it contains %q: %v", tag, trace, got)
			}
		}
	}
}

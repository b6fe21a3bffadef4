package workspace

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func TestAStepIsToldWithItsObjectAndProgress(t *testing.T) {
	const head = "2026-01-02T03:04:05.678+0100 [INFO]  provider.terraform-provider-sharedos: "
	for name, test := range map[string]struct{ line, want string }{
		"quoted object": {
			head + `uploading a layer: @module=sharedos tf_rpc=Create progress=12% object="sharedos_base \"debian-13\"" timestamp=x`,
			`sharedos_base "debian-13": uploading a layer 12%`,
		},
		"a colon in the message": {
			head + `waiting: 10 s: object=web-a tf_rpc=Create`,
			"web-a: waiting: 10 s",
		},
		"the object first":         {head + `starting: object=web-a`, "web-a: starting"},
		"talk without an object":   {head + `configuring server automatic mTLS: timestamp=x`, ""},
		"another level":            {"2026-01-02T03:04:05.678+0100 [DEBUG] provider.terraform-provider-sharedos: x: object=a", ""},
		"a line of someone else's": {"2026-01-02T03:04:05.678+0100 [INFO]  backend/local: x: object=a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := parseStep(test.line); got != test.want || ok != (test.want != "") {
				t.Errorf("parseStep(%q) = %q, %v; want %q", test.line, got, ok, test.want)
			}
		})
	}
}

func TestALogIsFollowedFromWhereItStood(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	line := func(step string) string {
		return "x [INFO]  provider.terraform-provider-sharedos: " + step + ": object=o\n"
	}
	write := func(text string) {
		t.Helper()
		file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	write(line("before"))
	var mu sync.Mutex
	var told []string
	from := logEnd(path)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	done := make(chan struct{})
	go func() {
		defer close(done)
		followLog(ctx, path, from, func(step string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, step)
		})
	}()
	whole := line("torn")
	write(line("first") + whole[:20])
	time.Sleep(300 * time.Millisecond)
	write(whole[20:])
	cancel()
	<-done
	if len(told) != 2 || told[0] != "o: first" || told[1] != "o: torn" {
		t.Errorf("told %q, want the two steps that came after the start, each once", told)
	}
}

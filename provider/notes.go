package provider

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-log/tflog"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// notes are what plans said about resources, for the second planning during the apply (see invocation). A plan keeps
// its note in the private data of the resource, which a saved plan contains, and in the cache of this machine.
type notes struct {
	dir string
	// invoked is how Terraform was started.
	invoked func() invocation
	// instance identifies this provider among those that one Terraform starts one after the other.
	instance string
}

// stored is a note in the cache.
type stored struct {
	Instance string          `json:"instance"`
	Run      string          `json:"run"`
	Note     json.RawMessage `json:"note"`
}

func (c *connection) notes() notes {
	return notes{filepath.Join(c.cacheDir(), "plans"), c.invocation, c.instance()}
}

// thisInvocation looks at the parent process once: it stays the same.
var thisInvocation = sync.OnceValue(func() invocation { return readInvocation("/proc", os.Getppid(), os.Getenv) })

// invocation is how Terraform was started.
func (c *connection) invocation() invocation {
	if c.invoked != nil {
		return c.invoked()
	}
	return thisInvocation()
}

func (c *connection) instance() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.name == "" {
		c.name = rand.Text()
	}
	return c.name
}

// noteKey is the key of a resource's note in private data. It is another one for each object of each host.
func (c *connection) noteKey(object string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return "planned:" + tree.Sum([]byte(c.config.URI + "\n" + c.config.Pool + "\n" + object)).Hex()[:20]
}

// privateToken is a key in private data. Its value is another one after each reading of an object, so that a plan knows
// an earlier note for that of the plan that is being applied. It is used only where the command of Terraform is not
// known, as it is under a debugger.
const privateToken = "read"

// newToken sets the token if one is needed.
func (n notes) newToken(ctx context.Context, private privateWriter) diag.Diagnostics {
	if n.invoked().command != "" {
		return nil
	}
	return private.SetKey(ctx, privateToken, []byte(`"`+rand.Text()+`"`))
}

// token reads the token; empty if there is none.
func token(ctx context.Context, private privateState) (token string, diags diag.Diagnostics) {
	text, diags := private.GetKey(ctx, privateToken)
	if diags.HasError() || len(text) == 0 {
		return "", diags
	}
	if err := json.Unmarshal(text, &token); err != nil {
		diags.Append(failed(failure{do: "read the private state of", object: "a resource", err: err})...)
	}
	return token, diags
}

// recall reads what the plan noted that is being applied now. It reports false while planning, and if there is no note.
func (n notes) recall(ctx context.Context, key, token string, note any) bool {
	invoked := n.invoked()
	if invoked.saved != nil {
		return invoked.fromSavedPlan(key, note)
	}
	if invoked.command != "" && invoked.command != "apply" {
		return false
	}
	text, err := os.ReadFile(n.file(key, token))
	var found stored
	if err == nil {
		err = json.Unmarshal(text, &found)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			tflog.Warn(ctx, "unable to read what a plan noted", map[string]any{"error": err.Error()})
		}
		return false
	}
	switch {
	case found.Instance == n.instance:
		return false // Terraform plans a resource that is replaced twice
	case invoked.command == "" && token == "", !invoked.appliesSaved && found.Run != invoked.run:
		return false
	}
	return json.Unmarshal(found.Note, note) == nil
}

// keep notes what a plan says, for the apply. If the cache cannot be written, a saved plan still has the note.
func (n notes) keep(ctx context.Context, key, token string, note any, private privateWriter) diag.Diagnostics {
	text, err := json.Marshal(note)
	if err != nil {
		return failed(failure{do: "write the private state of", object: "a resource", err: err})
	}
	diags := private.SetKey(ctx, key, text)
	if text, err = json.Marshal(stored{n.instance, n.invoked().run, text}); err == nil {
		err = os.MkdirAll(n.dir, 0o700)
	}
	if err == nil {
		err = renameio.WriteFile(n.file(key, token), text, 0o600, renameio.WithTempDir(n.dir))
	}
	if err == nil {
		err = n.sweep()
	}
	if err != nil {
		tflog.Warn(ctx, "unable to note what a plan says", map[string]any{"error": err.Error()})
	}
	return diags
}

// keptNotes is how long a note is kept in the cache: longer than anybody waits before applying a plan.
const keptNotes = 30 * 24 * time.Hour

// sweep removes old notes.
func (n notes) sweep() error {
	entries, err := os.ReadDir(n.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || time.Since(info.ModTime()) < keptNotes {
			continue // it was removed meanwhile, or is still of use
		}
		if err := os.Remove(filepath.Join(n.dir, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (n notes) file(key, token string) string {
	return filepath.Join(n.dir, tree.Sum([]byte(key + "\n" + token)).Hex()[:32]+".json")
}

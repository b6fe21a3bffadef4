// Package workspace runs the real Terraform, or OpenTofu, on a configuration with the provider that was just built.
//
// Nothing is downloaded: dev_overrides name the provider, and `terraform init` is not needed. The messages of
// Terraform and of the provider are passed on line by line while they work.
package workspace

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// stopLimit bounds how long Terraform may continue after it was interrupted.
const stopLimit = 3 * time.Minute

// providerAddress is the provider's name in a configuration.
const providerAddress = "registry.terraform.io/sharedos/sharedos"

// Workspace is one Terraform configuration with its state.
type Workspace struct {
	// Variables are the configuration's variables for the next plan.
	Variables map[string]any
	// Abrupt makes the end of a context kill Terraform, and its provider runs on. Otherwise the end of a context
	// interrupts Terraform like Ctrl-C.
	Abrupt bool
	// Killed makes the end of a context kill Terraform and its provider, both at once.
	Killed bool

	terraform string
	dir       string
	env       []string
	tell      func(string)
	// group is the process group of the Terraform that ran last.
	group int
}

// Config describes a workspace.
type Config struct {
	// Terraform is the binary of Terraform or OpenTofu; Provider that of the provider.
	Terraform, Provider string
	// Configuration holds the *.tf files; they are copied into Dir, which must not exist.
	Configuration fs.FS
	Dir           string
	// Env is added to the environment, as "NAME=value".
	Env []string
	// Tell is called with each step; nil means that nobody is interested.
	Tell func(string)
}

// Terraform finds the binary of Terraform or OpenTofu that tests run.
func Terraform() (string, error) {
	if named := os.Getenv("TF_ACC_TERRAFORM_PATH"); named != "" {
		return named, nil
	}
	found, err := exec.LookPath("terraform")
	if err != nil {
		return "", errors.New("terraform is not in PATH; set TF_ACC_TERRAFORM_PATH to it or to OpenTofu's tofu")
	}
	return found, nil
}

// New makes a workspace.
func New(c Config) (*Workspace, error) {
	provider, err := filepath.Abs(c.Provider)
	if err != nil {
		return nil, fmt.Errorf("find the provider: %w", err)
	}
	if _, err := os.Stat(provider); err != nil {
		return nil, fmt.Errorf("find the provider (make build makes it): %w", err)
	}
	if err := os.CopyFS(c.Dir, c.Configuration); err != nil {
		return nil, fmt.Errorf("copy the configuration: %w", err)
	}
	cli := filepath.Join(c.Dir, "cli.tfrc")
	config := fmt.Sprintf("provider_installation {\n  dev_overrides {\n    %q = %q\n  }\n}\n",
		providerAddress, filepath.Dir(provider))
	if err := os.WriteFile(cli, []byte(config), 0o644); err != nil {
		return nil, fmt.Errorf("write Terraform's configuration: %w", err)
	}
	if c.Tell == nil {
		c.Tell = func(string) {}
	}
	return &Workspace{
		terraform: c.Terraform, dir: c.Dir, tell: c.Tell, Variables: map[string]any{},
		env: append(slices.Clone(c.Env),
			"TF_CLI_CONFIG_FILE="+cli, "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1", "TF_INPUT=0",
			"TF_LOG_PROVIDER=INFO", "TF_LOG_PATH="+filepath.Join(c.Dir, "terraform.log")),
	}, nil
}

// Plan is what Terraform says that an apply would do.
type Plan struct {
	Changes []Change
	// Took is how long Terraform took to make it.
	Took time.Duration

	file string
}

// Change is what a plan does to one resource.
type Change struct {
	Address string `json:"address"`
	Change  struct {
		Actions []string `json:"actions"`
		// After holds the attributes that are known; AfterUnknown is true, at whatever depth, for the others.
		After        json.RawMessage `json:"after"`
		AfterUnknown json.RawMessage `json:"after_unknown"`
	} `json:"change"`
}

// Is reports whether the change is this action alone. A replacement has two actions.
func (c Change) Is(action string) bool { return slices.Equal(c.Change.Actions, []string{action}) }

// Plan makes a plan with the workspace's variables.
func (w *Workspace) Plan(ctx context.Context, extra ...string) (*Plan, error) {
	variables, err := json.Marshal(w.Variables)
	if err != nil {
		return nil, fmt.Errorf("encode the variables: %w", err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "demo.auto.tfvars.json"), variables, 0o644); err != nil {
		return nil, fmt.Errorf("write the variables: %w", err)
	}
	const file = "plan.bin"
	began := time.Now()
	if err := w.stream(ctx, append([]string{"plan", "-json", "-out=" + file}, extra...)...); err != nil {
		return nil, err
	}
	took := time.Since(began)
	var shown struct {
		Changes []Change `json:"resource_changes"`
	}
	if err := w.show(ctx, &shown, file); err != nil {
		return nil, err
	}
	return &Plan{file: file, Changes: shown.Changes, Took: took}, nil
}

// Apply carries out a plan.
func (w *Workspace) Apply(ctx context.Context, p *Plan) error {
	return w.stream(ctx, "apply", "-json", p.file)
}

// Destroy removes all that the state holds.
func (w *Workspace) Destroy(ctx context.Context) error {
	return w.stream(ctx, "destroy", "-json", "-auto-approve")
}

// State is the part of Terraform's state that has the resources.
type State struct {
	Values struct {
		Root struct {
			Resources []Resource `json:"resources"`
		} `json:"root_module"`
	} `json:"values"`
}

// Resource is one resource in the state; Values are its attributes.
type Resource struct {
	Address string          `json:"address"`
	Type    string          `json:"type"`
	Values  json.RawMessage `json:"values"`
}

// State reads Terraform's state.
func (w *Workspace) State(ctx context.Context) (*State, error) {
	var s State
	return &s, w.show(ctx, &s)
}

// show decodes what `terraform show -json` says of a plan, or of the state when none is named.
func (w *Workspace) show(ctx context.Context, into any, file ...string) error {
	command := w.command(ctx, append([]string{"show", "-json"}, file...)...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	text, err := command.Output()
	if err != nil {
		return fmt.Errorf("terraform show: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("read what terraform show says: %w", err)
	}
	return nil
}

func (w *Workspace) command(ctx context.Context, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, w.terraform, arguments...)
	command.Dir = w.dir
	command.Env = append(os.Environ(), w.env...)
	// A Ctrl-C on the terminal reaches only this program, which passes it on once: a second interrupt makes
	// Terraform end at once.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	command.Cancel = func() error {
		if w.Killed {
			return syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
		}
		if w.Abrupt {
			return command.Process.Kill()
		}
		return command.Process.Signal(syscall.SIGINT)
	}
	command.WaitDelay = stopLimit
	return command
}

// stream runs Terraform with -json and passes on its messages and those of the provider.
func (w *Workspace) stream(ctx context.Context, arguments ...string) (err error) {
	command := w.command(ctx, arguments...)
	stdout, err := command.StdoutPipe()
	if err != nil {
		return fmt.Errorf("terraform %s: %w", arguments[0], err)
	}
	var stderr bytes.Buffer
	command.Stderr = &stderr
	path := filepath.Join(w.dir, "terraform.log")
	from := logEnd(path)
	if err := command.Start(); err != nil {
		return fmt.Errorf("terraform %s: %w", arguments[0], err)
	}
	w.group = command.Process.Pid
	log, stopLog := context.WithCancel(ctx)
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		followLog(log, path, from, w.tell)
	}()
	failures := w.relay(stdout)
	err = command.Wait()
	stopLog()
	<-logged
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("terraform %s: %w", arguments[0], context.Cause(ctx))
	case err != nil && len(failures) > 0:
		return fmt.Errorf("terraform %s: %w:\n%s", arguments[0], err, strings.Join(failures, "\n"))
	case err != nil:
		return fmt.Errorf("terraform %s: %w: %s", arguments[0], err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// Left is the process group of a Terraform, with processes that it started and did not end.
type Left int

// Left returns the process group of the Terraform that ran last.
func (w *Workspace) Left() Left { return Left(w.group) }

// Alive reports whether one of the processes runs.
func (l Left) Alive() (bool, error) { return l.signal(0) }

// End kills the processes.
func (l Left) End() error {
	_, err := l.signal(syscall.SIGKILL)
	return err
}

func (l Left) signal(number syscall.Signal) (bool, error) {
	err := syscall.Kill(-int(l), number)
	if errors.Is(err, syscall.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("signal what Terraform left: %w", err)
	}
	return true, nil
}

// uiLine is one line of Terraform's machine-readable output.
type uiLine struct {
	Message    string `json:"@message"`
	Type       string `json:"type"`
	Diagnostic struct {
		Severity string `json:"severity"`
		Summary  string `json:"summary"`
		Detail   string `json:"detail"`
		Address  string `json:"address"`
	} `json:"diagnostic"`
}

// relay passes on Terraform's messages and returns its errors.
func (w *Workspace) relay(output io.Reader) []string {
	var failures []string
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		var line uiLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			continue // not for us
		}
		switch line.Type {
		case "diagnostic":
			text := strings.TrimSpace(line.Diagnostic.Address + ": " + line.Diagnostic.Summary +
				"\n" + line.Diagnostic.Detail)
			if line.Diagnostic.Severity == "error" {
				failures = append(failures, text)
			} else if !strings.Contains(text, "development overrides") {
				w.tell("warning: " + text)
			}
		case "planned_change", "change_summary", "apply_start", "apply_complete", "apply_errored":
			w.tell("terraform: " + line.Message)
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, os.ErrClosed) {
		failures = append(failures, "read what Terraform says: "+err.Error())
	}
	return failures
}

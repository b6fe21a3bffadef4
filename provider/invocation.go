package provider

import (
	"archive/zip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// invocation is how the Terraform that runs this provider was started, as far as a provider can see. During an apply,
// Terraform plans each resource a second time, and fails with a text of its own if a value is another one than in the
// plan. The protocol does not say which of the two plannings is asked for, nor what the plan said. A provider that is
// to say what has changed since the plan has to find out by itself.
type invocation struct {
	// command is "plan", "apply", "destroy" and so on; empty if it is not known.
	command string
	// destroys is true if the command destroys what the configuration describes. Terraform then plans all resources as
	// usual first, to refresh them, and drops what comes of that.
	destroys bool
	// unread is true if the command plans from state alone: -refresh=false.
	unread bool
	// appliesSaved is true if a saved plan is applied, and saved is that plan; nil if it cannot be
	// read, as an encrypted one.
	appliesSaved bool
	saved        []byte
	// run identifies the process of Terraform; empty if it is not known.
	run string
}

// commands of Terraform that plan or apply changes, each of them at most once.
var commands = []string{"plan", "apply", "destroy", "refresh", "import"}

// maxSavedPlan bounds the planned changes in a saved plan, in bytes.
const maxSavedPlan = 256 << 20

// readInvocation looks at the parent process, with the file system proc mounted at the given directory. Whatever it
// cannot find out stays empty.
func readInvocation(proc string, parent int, environment func(string) string) invocation {
	dir := filepath.Join(proc, fmt.Sprint(parent))
	text, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return invocation{}
	}
	arguments := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	at := slices.IndexFunc(arguments[1:], func(argument string) bool { return !strings.HasPrefix(argument, "-") }) + 1
	if at == 0 || !slices.Contains(commands, arguments[at]) {
		return invocation{}
	}
	found := invocation{command: arguments[at], run: runOf(dir), destroys: destroys(arguments, environment),
		unread: option(arguments, environment, "refresh", "false", "0")}
	if last := arguments[len(arguments)-1]; found.command == "apply" && len(arguments) > at+1 &&
		!strings.HasPrefix(last, "-") {
		if _, err := os.Stat(last); err == nil {
			found.appliesSaved = true
		}
		if saved, err := readSavedPlan(last); err == nil {
			found.saved = saved
		}
	}
	return found
}

// runOf identifies a process by its number and the time of its start (proc_pid_stat(5), field 22).
func runOf(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return ""
	}
	// The second field is the name in parentheses, which can contain anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return ""
	}
	return filepath.Base(dir) + "-" + fields[19]
}

// readSavedPlan reads the planned changes of a saved plan: the file tfplan of a ZIP archive.
func readSavedPlan(path string) (_ []byte, err error) {
	archive, err := zip.OpenReader(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, archive.Close()) }()
	file, err := archive.Open("tfplan")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	changes, err := io.ReadAll(io.LimitReader(file, maxSavedPlan+1))
	if err == nil && len(changes) > maxSavedPlan {
		err = fmt.Errorf("it has more than %d bytes", maxSavedPlan)
	}
	return changes, err
}

// fromSavedPlan reads what a plan noted in the private data of a resource, under a key that no other resource uses. A
// saved plan contains private data as the framework encodes it: a JSON object of values in Base64.
func (i invocation) fromSavedPlan(key string, into any) bool {
	found := regexp.MustCompile(`"` + regexp.QuoteMeta(key) + `":"([A-Za-z0-9+/=]*)"`).FindSubmatch(i.saved)
	if found == nil {
		return false
	}
	text, err := base64.StdEncoding.DecodeString(string(found[1]))
	return err == nil && string(text) != "null" && json.Unmarshal(text, into) == nil
}

package workspace

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// logEnd returns the size of the log; 0 if there is none yet.
func logEnd(path string) int64 {
	known, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return known.Size()
}

// followLog calls tell with each step of the provider that is added to Terraform's log behind offset, until ctx
// ends.
func followLog(ctx context.Context, path string, offset int64, tell func(string)) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		offset = readLog(path, offset, tell)
		select {
		case <-ctx.Done():
			readLog(path, offset, tell)
			return
		case <-ticker.C:
		}
	}
}

// readLog calls tell with each step in the whole lines behind offset, and returns where these lines end. If the log
// does not exist yet or cannot be read now, the next call reads it: steps only show progress.
func readLog(path string, offset int64, tell func(string)) int64 {
	file, err := os.Open(path)
	if err != nil {
		return offset
	}
	defer func() { _ = file.Close() }() // it was only read
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return offset
	}
	reader := bufio.NewReader(file)
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			if !errors.Is(err, io.EOF) {
				tell("Terraform's log cannot be read: " + err.Error())
			}
			return offset
		}
		offset += int64(len(line))
		if step, ok := parseStep(line); ok {
			tell(step)
		}
	}
}

// firstField matches where the message ends and the fields begin in a line of go-hclog's text form.
var firstField = regexp.MustCompile(`: [@\w]+=`)

// parseStep returns "<object>: <message> <progress>" for a line that the provider logged at INFO.
func parseStep(line string) (string, bool) {
	_, rest, ok := strings.Cut(line, "[INFO]  provider.terraform-provider-sharedos: ")
	if !ok {
		return "", false
	}
	message, fields := strings.TrimSpace(rest), ""
	if at := firstField.FindStringIndex(rest); at != nil {
		message, fields = rest[:at[0]], rest[at[0]+1:]
	}
	object := field(fields, "object")
	if object == "" {
		return "", false // not a step: Terraform's and the provider's own messages
	}
	return strings.TrimSpace(object + ": " + message + " " + field(fields, "progress")), true
}

// field returns the value of one field, without its quotes.
func field(fields, name string) string {
	_, rest, ok := strings.Cut(fields, " "+name+"=")
	if !ok {
		return ""
	}
	if quoted, err := strconv.QuotedPrefix(rest); err == nil {
		if value, err := strconv.Unquote(quoted); err == nil {
			return value
		}
	}
	value, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return value
}

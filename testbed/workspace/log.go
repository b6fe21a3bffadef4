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

// logEnd returns where the log ends now; 0 when there is none yet.
func logEnd(path string) int64 {
	known, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return known.Size()
}

// followLog tells the provider's steps that stand after offset, as they are added to Terraform's log, until ctx ends.
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

// readLog tells the whole lines that follow offset, and returns where they end. A log that is not there yet, or
// cannot be read now, is read next time: it is told for comfort alone.
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

// firstField is where the message ends and the fields begin in a line of go-hclog's text form.
var firstField = regexp.MustCompile(`: [@\w]+=`)

// parseStep takes "<object>: <message> <progress>" from a line that the provider logged at INFO.
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
		return "", false // not a step, but talk between Terraform and the provider
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

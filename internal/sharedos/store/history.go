package store

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// MaxHistory is the maximum number of releases in a history.
const MaxHistory = 4096

// History lists the releases of a base or component.
type History struct {
	// Retain is how many of the newest releases are kept even if nothing refers to them. 0 keeps all.
	Retain int
	// Releases, newest first.
	Releases []Listed
}

// Listed is one release in a History.
type Listed struct {
	ID tree.Digest
	// Published is when it became the newest release, in whole seconds, UTC; zero if that was not recorded. The manifest does not have
	// it, because the same input yields the same id whenever it is built.
	Published time.Time
}

// HistoryOf returns a history of releases without further data, newest first.
func HistoryOf(ids ...tree.Digest) History {
	var h History
	for _, id := range ids {
		h.Releases = append(h.Releases, Listed{ID: id})
	}
	return h
}

// IDs returns the ids of the releases, newest first.
func (h History) IDs() []tree.Digest {
	ids := make([]tree.Digest, len(h.Releases))
	for i, one := range h.Releases {
		ids[i] = one.ID
	}
	return ids
}

// retainLine begins the first line, with Retain, if it is not 0.
const retainLine = "retain "

// EncodeHistory writes a history as text: a line with Retain unless it is 0, and a line for each release with its id and, if it is
// known, its time (RFC 3339).
func EncodeHistory(h History) ([]byte, error) {
	if len(h.Releases) > MaxHistory {
		return nil, fmt.Errorf("a history of %d releases is longer than %d", len(h.Releases), MaxHistory)
	}
	if h.Retain < 0 {
		return nil, fmt.Errorf("history: %d releases cannot be retained", h.Retain)
	}
	var text bytes.Buffer
	if h.Retain > 0 {
		fmt.Fprintf(&text, "%s%d\n", retainLine, h.Retain)
	}
	seen := map[tree.Digest]bool{}
	for i, one := range h.Releases {
		if one.ID.IsZero() || seen[one.ID] {
			return nil, fmt.Errorf("history: the id %s at position %d is zero or occurs twice", one.ID, i)
		}
		seen[one.ID] = true
		text.WriteString(one.ID.String())
		if !one.Published.IsZero() {
			text.WriteString(" " + one.Published.UTC().Format(time.RFC3339))
		}
		text.WriteByte('\n')
	}
	return text.Bytes(), nil
}

// DecodeHistory reads the text of a history; ErrCorrupt if it is none.
func DecodeHistory(text []byte) (History, error) {
	var h History
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if number, found := strings.CutPrefix(lines[0], retainLine); found {
		retain, err := strconv.ParseUint(number, 10, 31)
		if err != nil {
			return History{}, fmt.Errorf("history, number of releases to retain: %w: %w", ErrCorrupt, err)
		}
		h.Retain, lines = int(retain), lines[1:]
	}
	if len(lines) == 0 || len(lines) > MaxHistory {
		return History{}, fmt.Errorf("history of %d lines: %w", len(lines), ErrCorrupt)
	}
	for i, line := range lines {
		id, published, timed := strings.Cut(line, " ")
		var one Listed
		err := one.ID.UnmarshalText([]byte(id))
		if err == nil && timed {
			one.Published, err = time.Parse(time.RFC3339, published)
		}
		if err != nil {
			return History{}, fmt.Errorf("history, release %d: %w: %w", i+1, ErrCorrupt, err)
		}
		h.Releases = append(h.Releases, one)
	}
	return h, nil
}

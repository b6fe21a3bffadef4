package store

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
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
	// Owner identifies the Terraform state that the base belongs to, which alone changes and
	// deletes it; "" if an earlier version made it.
	Owner string
	// Users and Groups are the ledger of accounts of a base: the numbers of accounts that components on it have. Names
	// are only ever added, so that an account has one number in all stacks on the base.
	Users, Groups map[string]uint32
	// Making is set from the first release on until it is certain that the owner has the base in
	// its state; nil after that.
	Making *Making
}

// Making says who makes a base, so that another process recognises a creation that was interrupted.
type Making struct {
	// Operator is the operator's Ed25519 public key, base64.
	Operator string
	// Process is the process that makes it (ThisProcess), and Began when it began, in whole seconds, UTC.
	Process string
	Began   time.Time
	// Finished is the workspace (ThisWorkspace) from which the process has made the base; "" while
	// it makes it. The base may not be in Terraform's state yet.
	Finished string
}

// Listed is one release in a History.
type Listed struct {
	ID tree.Digest
	// Published is when it became the newest release, in whole seconds, UTC; zero if that was not recorded.
	// The manifest does not have it, because the same input yields the same id whenever it is built.
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

// ledger is one kind of accounts in a History, and how its lines begin.
type ledger struct {
	line     string
	accounts *map[string]uint32
}

func (h *History) ledgers() []ledger { return []ledger{{userLine, &h.Users}, {groupLine, &h.Groups}} }

// IDs returns the ids of the releases, newest first.
func (h History) IDs() []tree.Digest {
	ids := make([]tree.Digest, len(h.Releases))
	for i, one := range h.Releases {
		ids[i] = one.ID
	}
	return ids
}

// The beginnings of the lines before those of the releases. A line that says nothing is left out.
const (
	retainLine = "retain "
	ownerLine  = "owner "
	makingLine = "making "
	userLine   = "user "
	groupLine  = "group "
)

// word matches what stands in a line as one word.
var word = regexp.MustCompile(`^[A-Za-z0-9+/=._-]{1,100}$`)

// EncodeHistory writes a history as text: lines with Retain, Owner, Making and accounts, unless they are 0, "" or nil,
// and a line for each release with its id and, if it is known, its time (RFC 3339).
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
	if h.Owner != "" {
		if !word.MatchString(h.Owner) {
			return nil, fmt.Errorf("history: %q cannot identify an owner", h.Owner)
		}
		text.WriteString(ownerLine + h.Owner + "\n")
	}
	if m := h.Making; m != nil {
		words := []string{m.Operator, m.Process, m.Finished}
		if m.Finished == "" {
			words = words[:2]
		}
		for _, one := range words {
			if !word.MatchString(one) {
				return nil, fmt.Errorf("history: %q cannot be recorded of who makes it", one)
			}
		}
		words = slices.Insert(words, 2, m.Began.UTC().Format(time.RFC3339))
		text.WriteString(makingLine + strings.Join(words, " ") + "\n")
	}
	for _, ledger := range h.ledgers() {
		for _, name := range slices.Sorted(maps.Keys(*ledger.accounts)) {
			if !word.MatchString(name) {
				return nil, fmt.Errorf("history: %q cannot be the name of a %s", name, ledger.line)
			}
			fmt.Fprintf(&text, "%s%s %d\n", ledger.line, name, (*ledger.accounts)[name])
		}
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
	if len(lines) > 0 {
		if owner, found := strings.CutPrefix(lines[0], ownerLine); found {
			if !word.MatchString(owner) {
				return History{}, fmt.Errorf("history, owner: %w", ErrCorrupt)
			}
			h.Owner, lines = owner, lines[1:]
		}
	}
	if len(lines) > 0 {
		if making, found := strings.CutPrefix(lines[0], makingLine); found {
			fields := strings.Fields(making)
			if len(fields) != 3 && len(fields) != 4 {
				return History{}, fmt.Errorf("history, who makes it: %w", ErrCorrupt)
			}
			began, err := time.Parse(time.RFC3339, fields[2])
			if err != nil {
				return History{}, fmt.Errorf("history, who makes it: %w: %w", ErrCorrupt, err)
			}
			h.Making, lines = &Making{Operator: fields[0], Process: fields[1], Began: began}, lines[1:]
			if len(fields) == 4 {
				h.Making.Finished = fields[3]
			}
		}
	}
	for _, ledger := range h.ledgers() {
		for len(lines) > 0 {
			entry, found := strings.CutPrefix(lines[0], ledger.line)
			if !found {
				break
			}
			name, text, _ := strings.Cut(entry, " ")
			number, err := strconv.ParseUint(text, 10, 32)
			if err != nil || !word.MatchString(name) {
				return History{}, fmt.Errorf("history, account %q: %w", name, ErrCorrupt)
			}
			if *ledger.accounts == nil {
				*ledger.accounts = map[string]uint32{}
			}
			(*ledger.accounts)[name] = uint32(number)
			lines = lines[1:]
		}
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

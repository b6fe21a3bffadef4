package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrCorrupt means that a volume is there and whole, and holds other bytes than its name says.
	ErrCorrupt = errors.New("the volume's content is not what its name says")
	// ErrShrink means that a private disk was to become smaller, which would cut off data.
	ErrShrink = errors.New("a private disk cannot shrink")
)

// MaxHistory is how many releases the record of a base or component can hold.
const MaxHistory = 4096

// EncodeHistory writes a history as text, one id a line, newest first.
func EncodeHistory(ids []tree.Digest) ([]byte, error) {
	if len(ids) > MaxHistory {
		return nil, fmt.Errorf("a history of %d releases is longer than %d", len(ids), MaxHistory)
	}
	var text bytes.Buffer
	for i, id := range ids {
		if id.IsZero() || slices.Contains(ids[:i], id) {
			return nil, fmt.Errorf("history: %s at place %d is unset or there twice", id, i)
		}
		text.WriteString(id.String())
		text.WriteByte('\n')
	}
	return text.Bytes(), nil
}

// DecodeHistory reads what EncodeHistory wrote; ErrCorrupt for anything else.
func DecodeHistory(text []byte) ([]tree.Digest, error) {
	lines := bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	if len(lines) > MaxHistory {
		return nil, fmt.Errorf("history of %d lines: %w", len(lines), ErrCorrupt)
	}
	ids := make([]tree.Digest, len(lines))
	for i, line := range lines {
		if err := ids[i].UnmarshalText(line); err != nil {
			return nil, fmt.Errorf("history, line %d: %w: %w", i+1, ErrCorrupt, err)
		}
	}
	return ids, nil
}

package store

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// A record is a small volume whose content can be replaced: a history or a signed manifest. A pool can
// neither rename a volume nor replace its content atomically, so a record has two slots. A write goes into
// the slot that does not have the newest content. It takes effect when the slot's head is written, which
// has the length and the digest of the content. An interrupted write leaves the other slot as it was.
//
// The first write uses the first slot, after it has cleared the head of the second. Only the start
// of a new volume is known to be zero: the rest may be left from another record, which was deleted.

const (
	slotSize       = 1 << 20
	recordCapacity = 2 * slotSize
	recordMagic    = "sharedos-record"
)

// slotHead is the first line of a slot.
type slotHead struct {
	sequence uint64
	// length in bytes and digest of the content, which starts after the line.
	length int64
	digest tree.Digest
	// start of the content in the slot.
	start int64
}

var errNoSlot = errors.New("not the head of a record")

// encodeSlot returns the bytes of a slot.
func encodeSlot(sequence uint64, content []byte) ([]byte, error) {
	if len(content) == 0 || len(content) > MaxRecord {
		return nil, fmt.Errorf("a record cannot have %d bytes: use 1 to %d", len(content), MaxRecord)
	}
	line := fmt.Sprintf("%s %d %d %s\n", recordMagic, sequence, len(content), tree.Sum(content))
	return append([]byte(line), content...), nil
}

// parseSlot reads the head of a slot from the slot's first HeadSize bytes.
func parseSlot(head []byte) (slotHead, error) {
	line, _, ok := bytes.Cut(head, []byte("\n"))
	fields := strings.Split(string(line), " ")
	if !ok || len(fields) != 4 || fields[0] != recordMagic {
		return slotHead{}, errNoSlot
	}
	sequence, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return slotHead{}, fmt.Errorf("%w: %w", errNoSlot, err)
	}
	length, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return slotHead{}, fmt.Errorf("%w: %w", errNoSlot, err)
	}
	digest, err := tree.ParseDigest(fields[3])
	if err != nil {
		return slotHead{}, fmt.Errorf("%w: %w", errNoSlot, err)
	}
	if length <= 0 || length > MaxRecord {
		return slotHead{}, fmt.Errorf("%w: length %d", errNoSlot, length)
	}
	return slotHead{sequence: sequence, length: length, digest: digest, start: int64(len(line)) + 1}, nil
}

// readAt reads length bytes of a volume at an offset.
type readAt func(offset, length int64) ([]byte, error)

// writeAt writes bytes to a volume at an offset, and returns when they are written.
type writeAt func(offset int64, data []byte) error

// current is the newest content of a record, and the slot that has it.
type current struct {
	content  []byte
	sequence uint64
	slot     int64
}

// readRecord returns the newest complete content. ErrNotFound if no write was ever completed;
// ErrCorrupt if there is no complete content and an interrupted write does not explain that.
func readRecord(read readAt) (current, error) {
	var heads [2]slotHead
	var parsed [2]bool
	var blank bool
	var bytesOf [2][]byte
	for i := range heads {
		head, err := read(int64(i)*slotSize, HeadSize)
		if err != nil {
			return current{}, err
		}
		bytesOf[i] = head
		blank = blank || i == 0 && isZero(head)
		heads[i], err = parseSlot(head)
		parsed[i] = err == nil
	}
	if blank {
		return current{}, ErrNotFound // whatever the second slot has
	}
	order := []int{0, 1}
	if heads[1].sequence > heads[0].sequence {
		order = []int{1, 0}
	}
	for _, i := range order {
		if !parsed[i] {
			continue
		}
		content, err := readSlot(read, int64(i)*slotSize, heads[i], bytesOf[i])
		if err != nil {
			return current{}, err
		}
		if tree.Sum(content) == heads[i].digest {
			return current{content: content, sequence: heads[i].sequence, slot: int64(i)}, nil
		}
	}
	return current{}, ErrCorrupt
}

func readSlot(read readAt, offset int64, head slotHead, first []byte) ([]byte, error) {
	end := head.start + head.length
	content := bytes.Clone(first[head.start:min(end, HeadSize)])
	if end <= HeadSize {
		return content, nil
	}
	rest, err := read(offset+HeadSize, end-HeadSize)
	if err != nil {
		return nil, err
	}
	return append(content, rest...), nil
}

// writeRecord makes content the newest. It writes nothing if content is the newest already.
func writeRecord(read readAt, write writeAt, content []byte) error {
	now, err := readRecord(read)
	var slot int64
	switch {
	case err == nil && bytes.Equal(now.content, content):
		return nil
	case err == nil:
		slot = 1 - now.slot
	case errors.Is(err, ErrNotFound):
		if err := write(slotSize, make([]byte, HeadSize)); err != nil {
			return err
		}
	case errors.Is(err, ErrCorrupt):
		// There is nothing to keep.
	default:
		return err
	}
	data, err := encodeSlot(now.sequence+1, content)
	if err != nil {
		return err
	}
	if len(data) > HeadSize {
		if err := write(slot*slotSize+HeadSize, data[HeadSize:]); err != nil {
			return err
		}
	}
	// The whole head is written, so that nothing is left of a longer one.
	head := make([]byte, HeadSize)
	copy(head, data)
	return write(slot*slotSize, head)
}

func isZero(data []byte) bool { return len(bytes.TrimLeft(data, "\x00")) == 0 }

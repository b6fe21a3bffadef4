package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// SetHistory implements Heads.
func (s *Libvirt) SetHistory(ctx context.Context, kind release.Kind, name string, history History) error {
	head, err := HeadName(kind, name)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("record the history of %s %q", kind, name)
	if len(history.Releases) == 0 {
		return s.delete(ctx, what, head)
	}
	text, err := EncodeHistory(history)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return s.writeRecord(ctx, what, head, text)
}

// History implements Heads.
func (s *Libvirt) History(ctx context.Context, kind release.Kind, name string) (History, error) {
	head, err := HeadName(kind, name)
	if err != nil {
		return History{}, err
	}
	return s.history(ctx, fmt.Sprintf("read the history of %s %q", kind, name), head)
}

func (s *Libvirt) history(ctx context.Context, what, head string) (History, error) {
	text, err := s.readRecord(ctx, what, head)
	if err != nil {
		return History{}, err
	}
	history, err := DecodeHistory(text)
	if err != nil {
		return History{}, fmt.Errorf("%s: %w", what, err)
	}
	return history, nil
}

// Histories implements Heads.
func (s *Libvirt) Histories(ctx context.Context) (map[Named]History, error) {
	heads, err := s.ListHeads(ctx)
	if err != nil {
		return nil, err
	}
	all := map[Named]History{}
	for _, head := range heads {
		history, err := s.history(ctx, "read "+head.Name, head.Name)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		name, _ := ParseVolumeName(head.Name)
		all[name.Of] = history
	}
	return all, nil
}

// ListHeads implements Heads.
func (s *Libvirt) ListHeads(ctx context.Context) ([]Volume, error) {
	return s.list(ctx, "list histories", HeadVolume)
}

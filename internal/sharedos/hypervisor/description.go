package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/digitalocean/go-libvirt"
)

// CheckTitle returns why a text cannot be the title of a domain.
func CheckTitle(title string) error {
	if strings.Contains(title, "\n") {
		return errors.New("it has more than one line")
	}
	return CheckDescription(title)
}

// CheckDescription returns why a text cannot be the description of a domain: XML 1.0 cannot hold it, or libvirt would
// give back another text.
func CheckDescription(description string) error {
	for _, r := range description {
		if unicode.IsControl(r) && r != '\n' && r != '\t' || r == unicode.ReplacementChar ||
			r == 0xfffe || r == 0xffff {
			return fmt.Errorf("it has the character %U, which a definition of libvirt cannot hold", r)
		}
	}
	return nil
}

// SetTitle implements Hypervisor.
func (h *Libvirt) SetTitle(ctx context.Context, name, title string) error {
	what := fmt.Sprintf("set the title of domain %q", name)
	if err := CheckTitle(title); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return h.setMetadata(ctx, what, name, libvirt.DomainMetadataTitle, optional(title), nil, nil)
}

// SetDescription implements Hypervisor.
func (h *Libvirt) SetDescription(ctx context.Context, name, description string) error {
	what := fmt.Sprintf("set the description of domain %q", name)
	if err := CheckDescription(description); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return h.setMetadata(ctx, what, name, libvirt.DomainMetadataDescription, optional(description), nil, nil)
}

// optional is a text for libvirt, which takes none for "remove it".
func optional(text string) libvirt.OptString {
	if text == "" {
		return nil
	}
	return libvirt.OptString{text}
}

package hypervisor

import (
	"context"
	"encoding/xml"
	"fmt"
	"maps"
	"slices"

	"github.com/digitalocean/go-libvirt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// bootFiles is all that is read of the definition of a domain that this project may not have created.
type bootFiles struct {
	Kernel    string `xml:"os>kernel"`
	Initramfs string `xml:"os>initrd"`
}

// BootFiles implements Hypervisor.
func (h *Libvirt) BootFiles(ctx context.Context) ([]string, error) {
	found := map[string]bool{}
	err := h.call(ctx, "list the boot files of domains", func(l *libvirt.Libvirt) error {
		clear(found)
		handles, _, err := l.ConnectListAllDomains(1, 0)
		if err != nil {
			return err
		}
		for _, handle := range handles {
			for _, flags := range []libvirt.DomainXMLFlags{libvirt.DomainXMLInactive, 0} {
				text, err := l.DomainGetXMLDesc(handle, flags)
				if libvirtconn.Is(err, libvirt.ErrNoDomain) {
					break
				}
				if err != nil {
					return err
				}
				var files bootFiles
				if err := xml.Unmarshal([]byte(text), &files); err != nil {
					return fmt.Errorf("read the definition of domain %q: %w", handle.Name, err)
				}
				found[files.Kernel], found[files.Initramfs] = true, true
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	delete(found, "")
	return slices.Sorted(maps.Keys(found)), nil
}

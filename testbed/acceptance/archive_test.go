package acceptance

import (
	"context"
	"io"
	"os"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// Libraries of the guests: nginx maps the first, nginx and sshd map the second.
const (
	libssl    = "/libssl.so.3"
	libcrypto = "/libcrypto.so.3"
)

// archiveLimit bounds the making of an archive, including those that are made before it.
const archiveLimit = 40 * time.Minute

// debianTar returns an archive of Debian 13 with the updates of the given suites; nil is all of them.
func debianTar(t *testing.T, suites []string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), archiveLimit)
	defer cancel()
	path, err := guest.DebianTar(ctx, suites)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// patchedTar returns Debian 13 with all current updates and another build of OpenSSL. On some days no current
// update concerns a running service; a library with a byte behind its last section differs and works.
func patchedTar(t *testing.T) string {
	t.Helper()
	return editedTar(t, debianTar(t, guest.Updated), openSSL("\x00"))
}

// leanTar returns Debian 13 without updates, edited by guest.Lean, and with more bytes at the end of OpenSSL's
// libraries. Tests that are about the host or the agent, rather than about a patch, take it: such a guest boots and
// is refreshed in half the time.
func leanTar(t *testing.T, more string) string {
	t.Helper()
	return editedTar(t, debianTar(t, guest.Plain), append(guest.Lean(), openSSL(more)...))
}

func openSSL(more string) []guest.Edit {
	return []guest.Edit{guest.Append(libssl, more), guest.Append(libcrypto, more)}
}

// editedTar returns an archive with edits.
func editedTar(t *testing.T, plain string, edits []guest.Edit) string {
	t.Helper()
	input := plain
	for _, edit := range edits {
		input += "\n" + edit.String()
	}
	path, err := guest.CachedTar(t.Context(), input, func(to io.Writer) error {
		file, err := os.Open(plain)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }() // it was only read
		return guest.Apply(file, to, edits)
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

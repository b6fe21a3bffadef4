// Package libvirtconn makes calls to libvirt that end with their context, and transfers the content of volumes.
//
// go-libvirt's calls take no context. The only way to end a call is to close its connection. So
// each call uses a connection of its own, and connections in good order are used again.
//
// Transfers of volumes use this package's own implementation of libvirt's stream protocol (transfer.go)
// instead of go-libvirt's: go-libvirt's upload never returns if the daemon fails at the end of it,
// which is when a full disk shows, and its connection hangs if the receiver of a download fails.
package libvirtconn

import (
	"errors"
	"slices"

	"github.com/digitalocean/go-libvirt"
)

// ErrUnreachable means that libvirt did not answer. The state of what the call was about is unknown.
var ErrUnreachable = errors.New("libvirt is unreachable")

// Is reports whether err is an answer of libvirt with one of the codes (virterror.h). Messages are
// never compared, because they vary with language and version.
func Is(err error, codes ...libvirt.ErrorNumber) bool {
	var answer libvirt.Error
	return errors.As(err, &answer) && slices.Contains(codes, libvirt.ErrorNumber(answer.Code))
}

// Package libvirtconn keeps connections to one libvirt and makes calls over them that end when their context does.
//
// libvirt's RPCs take no context: a call that is to end early can only be ended by closing its connection. So
// every call has a connection to itself while it lasts, and connections that are left in order are used again.
package libvirtconn

import (
	"errors"
	"slices"

	"github.com/digitalocean/go-libvirt"
)

// ErrUnreachable means that libvirt could not be asked: nothing is known of what was asked about.
var ErrUnreachable = errors.New("libvirt is unreachable")

// Is reports whether err is libvirt's own answer with one of the codes (virterror.h). Texts vary with language
// and version, and are not looked at.
func Is(err error, codes ...libvirt.ErrorNumber) bool {
	var answer libvirt.Error
	return errors.As(err, &answer) && slices.Contains(codes, libvirt.ErrorNumber(answer.Code))
}

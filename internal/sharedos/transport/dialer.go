// Package transport connects to the agent in a guest: through the guest's vsock, and over it with TLS 1.3, in which
// both sides know the other's key.
package transport

import (
	"context"
	"net"
)

// Dialer dials a port of one guest's vsock.
type Dialer interface {
	// DialContext connects, and fails when ctx ends or if nothing in the guest listens on the port.
	DialContext(ctx context.Context, port uint32) (net.Conn, error)
}

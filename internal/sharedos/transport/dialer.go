// Package transport reaches the agent: ways to dial a guest's vsock, and TLS 1.3 with both sides pinned over it.
package transport

import (
	"context"
	"net"
)

// Dialer dials a port of one guest's vsock.
type Dialer interface {
	// DialContext returns within ctx or fails. A guest that does not listen is an error, never a hang.
	DialContext(ctx context.Context, port uint32) (net.Conn, error)
}

// Package service is the agent as a service: it answers the host over vsock and carries refreshes out.
//
// It listens with TLS 1.3 for holders of an operator's key, bounds every message, connection and wait, and listens
// again when the vsock device is reset. What it answers is in agentapi.
package service

// Package ondemand attaches components that the host has offered, when they are first used (design/0058).
//
// The host plugs in an offer: a disk with the stacks that this VM may move to by itself. Stand-ins
// of a component's units and commands run this program as a client (client.go), which asks the
// agent over a socket (server.go). The agent finds the stack in the offer (offer.go) and has the
// engine refresh to it. The generator (generator.go) shows the stand-ins of units to systemd.
package ondemand

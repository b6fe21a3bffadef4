// Package live is the running system as package refresh sees it: it implements the interfaces of refresh with the
// mounts, the configuration, systemd and the private disk of this VM.
package live

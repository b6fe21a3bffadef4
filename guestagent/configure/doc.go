// Package configure has a running system take on the configuration that the host gives it (guestconfig.Document), and
// keeps on the private disk what it wrote and what was there before.
//
// It promises: a file that somebody else made is never overwritten, nor one of its own that somebody
// changed, unless the host names it. What a later configuration does not have is removed, and what the
// stack has there comes back. If a step or a health check fails, everything is as before; if the agent is
// killed, the next one takes the attempt back. Paths are opened without following symbolic links. It leaves
// to others which units use what changes (package impact) and what systemd does with them (package units).
package configure

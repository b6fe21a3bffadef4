// Package services tests on a real guest what a refresh does to services: which it restarts, reloads, leaves alone
// or only reports, in which order and for how long, and what happens to services that resist. Its tests share one
// VM.
package services
